"""One device through one Python binding: memory, streams, events, copies, graphs on it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from repr_runtime.cuda.driver import nothing_captured
from repr_runtime.errors import CudaError, CudaGraphError


class Cuda(Protocol):
    """One device through one Python binding, in the device's primary context.

    The primary context is the one that torch and ONNX Runtime use: memory of theirs can be
    read and written here. Handles and device addresses are plain integers. All calls but
    ``close`` happen ``with cuda.current():`` and raise :class:`CudaError`
    (:class:`DeviceMemoryError` where memory is short). Safe to use from several threads, as
    long as each handle is in one of them at a time.
    """

    name: str
    device: int

    def _push(self) -> None: ...

    def _pop(self) -> None: ...

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context this thread's current one; the one before comes back at the end."""
        self._push()
        try:
            yield
        finally:
            self._pop()

    def memory_info(self) -> tuple[int, int]:
        """Bytes of device memory: free, and in all."""

    def allocate(self, size: int) -> int:
        """The address of ``size`` new bytes on the device."""

    def free(self, address: int) -> None: ...

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        """``size`` bytes of page-locked host memory, which copies need to be asynchronous."""

    def free_pinned(self, memory: NDArray[np.uint8]) -> None: ...

    def create_stream(self) -> int:
        """A stream that does not wait for the legacy default stream."""

    def destroy_stream(self, stream: int) -> None: ...

    def synchronize(self, stream: int | None = None) -> None:
        """Wait until ``stream`` has done its work; None: until all streams have.

        The latter only where nothing is captured: call ``settle``.
        """

    def settle(self) -> None:
        """Wait until all streams of the device have done their work, whoever's they are."""
        with nothing_captured:
            self.synchronize()

    def create_event(self) -> int: ...

    def destroy_event(self, event: int) -> None: ...

    def record(self, event: int, stream: int) -> None: ...

    def elapsed(self, begin: int, end: int) -> float:
        """Milliseconds between two recorded events that have both been reached."""

    def to_device(self, target: int, source: NDArray[np.uint8], stream: int) -> None:
        """Copy pinned bytes to the device, asynchronously."""

    def to_host(self, target: NDArray[np.uint8], source: int, stream: int) -> None:
        """Copy ``target.nbytes`` bytes from the device to pinned memory, asynchronously."""

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy within the device, asynchronously."""

    def capture(self, stream: int, work: Callable[[], bool]) -> int:
        """What ``work`` puts on ``stream``, as an executable graph that is launched at once.

        ``work`` returns whether it succeeded. Raises :class:`CudaGraphError` if it did not,
        the capture was invalidated, or nothing was captured; the stream can be used again
        then.
        """

    def launch(self, executable: int, stream: int) -> None: ...

    def destroy_executable(self, executable: int) -> None: ...

    def close(self) -> None:
        """Give the primary context back; nothing made here can be used afterwards."""


class Capturing(Cuda, Protocol):
    """A binding that can capture: what ``capture`` is made of."""

    def begin_capture(self, stream: int) -> None:
        """Record what this thread puts on ``stream`` from now on, instead of doing it."""

    def end_capture(self, stream: int) -> int | None:
        """The graph that was recorded; None if the capture was invalidated. Ends it either way."""

    def count_nodes(self, graph: int) -> int: ...

    def instantiate(self, graph: int) -> int:
        """An executable graph, which no longer needs ``graph``."""

    def destroy_graph(self, graph: int) -> None: ...

    def capture(self, stream: int, work: Callable[[], bool]) -> int:
        with nothing_captured:
            try:
                self.begin_capture(stream)
                succeeded = work()
                graph = self.end_capture(stream)
            except BaseException:  # a stream left capturing would refuse all else
                with suppress(CudaError):  # it may not have begun, or have ended
                    if (left := self.end_capture(stream)) is not None:
                        self.destroy_graph(left)
                raise
        if not succeeded:
            if graph is not None:
                self.destroy_graph(graph)
            raise CudaGraphError("the work to capture failed")
        if graph is None:
            raise CudaGraphError("the capture was invalidated: the work is not capturable")
        try:
            if self.count_nodes(graph) == 0:
                raise CudaGraphError(
                    "the captured graph is empty: the work went elsewhere, as it does when the "
                    "engine was deserialized with another device current"
                )
            return self.instantiate(graph)
        finally:
            self.destroy_graph(graph)
