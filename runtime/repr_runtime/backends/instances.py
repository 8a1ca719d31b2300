"""Several instances of a graph behind one backend: each run has one to itself, or waits for it."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from queue import SimpleQueue
from typing import Any, TypeVar

from numpy.typing import NDArray

from repr_runtime.backends.base import Backend
from repr_runtime.backends.onnxruntime import OnnxRuntimeBackend
from repr_runtime.cuda.arrays import DeviceArray

T = TypeVar("T")


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
        self._all = tuple(backends)
        self._idle = self._full()
        self.instances = len(backends)
        first = backends[0]
        self.device, self.inputs, self.outputs = first.device, first.inputs, first.outputs

    def _full(self) -> SimpleQueue[OnnxRuntimeBackend]:
        idle: SimpleQueue[OnnxRuntimeBackend] = SimpleQueue()
        for backend in self._all:
            idle.put(backend)
        return idle

    def run(self, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return self._with_one(lambda backend: backend.run(feed))

    def run_on_device(
        self, feed: Mapping[str, Any], check: Callable[[Mapping[str, Any]], None]
    ) -> list[DeviceArray]:
        return self._with_one(lambda backend: backend.run_on_device(feed, check))

    def _with_one(self, run: Callable[[OnnxRuntimeBackend], T]) -> T:
        """What ``run`` gives, of the first instance that is idle.

        A signal's handler may raise after any call. So the instance goes from the queue into
        ``taken``, and back, in one call each, with no line of Python between: it is never in
        neither of them.
        """
        idle = self._idle
        taken: list[OnnxRuntimeBackend] = []
        take, give_back = islice(iter(idle.get, None), 1), map(idle.put, taken)
        try:
            taken.extend(take)
            return run(taken[0])
        finally:  # also after close, for those that wait: each is then told
            any(give_back)

    def after_fork(self) -> str:
        self._idle = self._full()  # the threads that had taken some are the parent's
        return next(filter(None, (backend.after_fork() for backend in self.sessions)), "")

    def interrupt(self) -> None:
        for backend in self.sessions:
            backend.interrupt()

    def close(self) -> None:
        for backend in self.sessions:
            backend.close()
