"""Several instances of a graph behind one backend: each run has one to itself, or waits for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from repr_runtime.backends.base import Backend
from repr_runtime.backends.idle import Idle
from repr_runtime.backends.onnxruntime import OnnxRuntimeBackend
from repr_runtime.cuda.arrays import DeviceArray


class Instances(Backend):
    """At most as many runs at once as there are instances, each with CPU threads of its own.

    The same backend may be listed several times: ONNX Runtime with one thread runs a graph on
    the thread that calls it, so that several callers need neither several sessions nor several
    copies of the weights. A batch is never cut: it runs on one instance, and so gives bit for
    bit what one instance alone gives.
    """

    name = "onnxruntime"

    def __init__(self, backends: Sequence[OnnxRuntimeBackend]) -> None:
        self.sessions = list(dict.fromkeys(backends))  # of the library, each with its own weights
        self._idle = Idle(backends)
        self.instances = len(backends)
        first = backends[0]
        self.device, self.inputs, self.outputs = first.device, first.inputs, first.outputs

    def run(self, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return self._idle.lend(lambda backend: backend.run(feed))

    def run_on_device(
        self, feed: Mapping[str, Any], check: Callable[[Mapping[str, Any]], None]
    ) -> list[DeviceArray]:
        return self._idle.lend(lambda backend: backend.run_on_device(feed, check))

    def after_fork(self) -> str:
        self._idle.refill()
        return next(filter(None, (backend.after_fork() for backend in self.sessions)), "")

    def interrupt(self) -> None:
        for backend in self.sessions:
            backend.interrupt()

    def close(self) -> None:
        for backend in self.sessions:
            backend.close()
