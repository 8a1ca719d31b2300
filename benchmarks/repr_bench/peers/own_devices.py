"""Ours on each of its GPU backends, beside the one that the run took: in the same rounds."""

from functools import partial

from repr_bench.measuring.sessions import ENGINES
from repr_bench.peers.base import Peer, PeerAbsentError, Workload
from repr_bench.peers.ours import OursRunner
from repr_runtime import Session, load
from repr_runtime.backends import onnxruntime
from repr_runtime.cuda.driver import cuda_status
from repr_runtime.errors import (
    DeviceUnavailableError,
    EngineNotFoundError,
    MissingExtraError,
)


def _open(workload: Workload, device: str) -> OursRunner:
    ours = workload.session
    if ours is not None and _device_of(ours) == device:
        raise PeerAbsentError("it is what ours runs on here")
    again = partial(
        load,
        workload.folder,
        device=device,
        precision=workload.precision,
        threads=workload.threads,
        options=ENGINES,
    )
    try:
        return OursRunner(again(), lambda batch: again(batch=batch))
    except (EngineNotFoundError, DeviceUnavailableError, MissingExtraError) as error:
        raise PeerAbsentError(str(error)) from error


def _device_of(session: Session) -> str:
    """The device that loads such a session; an engine's own names the GPU."""
    return "tensorrt" if session.backend.name == "tensorrt" else session.device


def _why_not(device: str) -> str | None:
    if device == "tensorrt":
        return None if cuda_status().devices else cuda_status().reason
    return onnxruntime.why_not(device)


PEERS = tuple(
    Peer(f"ours-{device}", partial(_open, device=device), partial(_why_not, device), device="gpu")
    for device in ("tensorrt", "cuda", "onnxruntime-tensorrt")
)
