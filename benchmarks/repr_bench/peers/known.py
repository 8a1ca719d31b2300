"""The list of peers, in the order of the report, and the choice among them by name."""

from collections.abc import Sequence

from repr_bench.errors import UsageError
from repr_bench.peers import onnxruntime, openvino, own_devices, torch, torch_gpu, trtexec
from repr_bench.peers.base import Peer

PEERS = (
    *(*torch.PEERS, *onnxruntime.PEERS, *openvino.PEERS, *trtexec.PEERS),
    *(*torch_gpu.PEERS, *own_devices.PEERS),
)


def select(names: Sequence[str] | None) -> list[tuple[Peer, str | None]]:
    """Peers by name, each with the reason why it cannot run here; None: those that can.

    Raises :class:`UsageError` for a name that there is not.
    """
    known = {peer.name: peer for peer in PEERS}
    if names is None:
        return [(peer, None) for peer in PEERS if peer.why_not() is None]
    for name in names:
        if name not in known:
            raise UsageError(
                f"there is no peer {name!r}; known are {', '.join(known)}. A network's name goes "
                f"before --peers"
            )
    return [(known[name], known[name].why_not()) for name in dict.fromkeys(names)]
