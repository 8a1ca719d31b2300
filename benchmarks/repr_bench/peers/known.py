"""All peers, and those chosen by name."""

from __future__ import annotations

from collections.abc import Sequence

from repr_bench.errors import UsageError
from repr_bench.peers.base import Peer


def known_peers() -> tuple[Peer, ...]:
    """Every peer, in the order of the report."""
    from repr_bench.peers import onnxruntime as onnxruntime_peer
    from repr_bench.peers import openvino as openvino_peer
    from repr_bench.peers import torch as torch_peer
    from repr_bench.peers import trtexec as trtexec_peer

    return (
        *torch_peer.PEERS,
        *onnxruntime_peer.PEERS,
        *openvino_peer.PEERS,
        *trtexec_peer.PEERS,
    )


def select(names: Sequence[str] | None) -> list[tuple[Peer, str | None]]:
    """Peers by name, each with the reason why it cannot run here; None: those that can.

    Raises :class:`UsageError` for a name that there is not.
    """
    known = {peer.name: peer for peer in known_peers()}
    if names is None:
        return [(peer, None) for peer in known.values() if peer.why_not() is None]
    for name in names:
        if name not in known:
            raise UsageError(
                f"there is no peer {name!r}; known are {', '.join(known)}. A network's name goes "
                f"before --peers"
            )
    return [(known[name], known[name].why_not()) for name in dict.fromkeys(names)]
