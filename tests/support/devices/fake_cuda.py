"""A CUDA device in ordinary memory that keeps CUDA's rules, and raises `BrokenRuleError` where one is broken.

Work on a stream waits until somebody synchronizes: whoever reads a result too early reads
what was there before. Errors that real CUDA would *return* are raised as the project's own;
what real CUDA would silently get wrong is `BrokenRuleError`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from repr_runtime.cuda.device import Capturing
from repr_runtime.errors import CudaError, DeviceMemoryError

Work = Callable[[], None]


class BrokenRuleError(AssertionError):
    """A rule of CUDA or TensorRT was broken that nothing would have reported."""


class _Stream:
    def __init__(self) -> None:
        self.pending: list[Work] = []
        self.captured: list[Work] | None = None
        self.capturing_thread = 0
        self.invalid = False


class FakeCuda(Capturing):
    """One of several devices; ``memory`` is how many bytes it has, ``capability`` is CUDA's."""

    name = "fake"

    def __init__(self, device: int = 0, memory: int = 1 << 30, capability: str = "8.9") -> None:
        self.device, self.total, self.capability = device, memory, capability
        self.closed = self.lost = False  # lost: after an illegal access, every call fails
        self.blocks: dict[int, np.ndarray] = {}
        self.pinned: dict[int, np.ndarray] = {}
        self.streams: dict[int, _Stream] = {}
        self.events: dict[int, float | None] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.executables: dict[int, list[Work]] = {}
        self.calls: list[str] = []
        self.primary: list[str] = []  # who holds the primary context
        self.launched = 0
        self.clock = 0.0
        self._numbers = 0x7000_0000 + (device << 40)
        self._lock = threading.RLock()

    # Contexts: a stack in each thread, shared by all fake devices.
    stacks = threading.local()

    @classmethod
    def stack(cls) -> list[FakeCuda]:
        """Those that are current in this thread, the innermost at the end."""
        if not hasattr(cls.stacks, "stack"):
            cls.stacks.stack = []
        return cls.stacks.stack

    def _push(self) -> None:
        if self.closed:
            raise BrokenRuleError("the context was released")
        if self.lost:  # as some calls of real ones do: none may be counted on
            raise CudaError("CUDA_ERROR_ILLEGAL_ADDRESS")
        self.stack().append(self)

    def _pop(self) -> None:
        if self.stack().pop() is not self:
            raise BrokenRuleError("contexts popped in another order than pushed")

    def _call(self, name: str) -> None:
        if self.lost:
            raise CudaError("CUDA_ERROR_ILLEGAL_ADDRESS")
        if self.stack()[-1:] != [self]:
            raise BrokenRuleError(f"{name} without the device's context being current")
        self.calls.append(name)

    def _unsafe(self, name: str) -> None:
        """Calls that a thread-local capture forbids to its own thread; they spoil the capture."""
        self._call(name)
        for stream in self.streams.values():
            if stream.captured is not None and stream.capturing_thread == threading.get_ident():
                stream.invalid = True
                raise CudaError(f"{name}: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")

    def _add(self, kind: dict[int, Any], thing: Any) -> int:
        """A new number that ``thing`` has from now on among those of its kind."""
        with self._lock:
            self._numbers += 1 << 28
            kind[self._numbers] = thing
            return self._numbers

    # Memory

    def memory_info(self) -> tuple[int, int]:
        self._call("memory_info")
        return self._free_bytes(), self.total

    def _free_bytes(self) -> int:
        return self.total - sum(b.nbytes for b in self.blocks.values())

    def allocate(self, size: int) -> int:
        self._unsafe("allocate")
        with self._lock:
            if size > self._free_bytes():
                raise DeviceMemoryError(f"CUDA_ERROR_OUT_OF_MEMORY for {size} bytes")
            return self._add(self.blocks, np.full(size, 0xEE, np.uint8))

    def free(self, address: int) -> None:
        self._unsafe("free")
        for stream in self.streams.values():  # cuMemFree waits for the device
            self._drain(stream)
        if self.blocks.pop(address, None) is None:
            raise BrokenRuleError(f"{address:#x} freed twice, or never allocated")

    def allocate_pinned(self, size: int) -> np.ndarray:
        self._unsafe("allocate_pinned")
        memory = np.full(size, 0xDD, np.uint8)
        self.pinned[memory.ctypes.data] = memory
        return memory

    def free_pinned(self, memory: np.ndarray) -> None:
        self._unsafe("free_pinned")
        if self.pinned.pop(memory.ctypes.data, None) is None:
            raise BrokenRuleError("pinned memory freed twice")

    def at(self, address: int, size: int) -> np.ndarray:
        """The bytes at a device address; an illegal access loses the device."""
        for begin, block in self.blocks.items():
            if begin <= address and address + size <= begin + block.nbytes:
                return block[address - begin : address - begin + size]
        self.lost = True
        raise CudaError(f"CUDA_ERROR_ILLEGAL_ADDRESS: {size} bytes at {address:#x}")

    def _require_pinned(self, memory: np.ndarray) -> None:
        begin, end = memory.ctypes.data, memory.ctypes.data + memory.nbytes
        if not any(p <= begin and end <= p + m.nbytes for p, m in self.pinned.items()):
            raise BrokenRuleError("an asynchronous copy of memory that is not pinned")

    # Streams and events

    def create_stream(self) -> int:
        self._unsafe("create_stream")
        return self._add(self.streams, _Stream())

    def destroy_stream(self, stream: int) -> None:
        self._call("destroy_stream")
        if self.streams[stream].captured is not None:
            raise BrokenRuleError("a stream destroyed while it captures")
        self._drain(self.streams.pop(stream))

    def put(self, stream: int, work: Work) -> None:
        """Add work to a stream, or to the graph that it captures."""
        if stream not in self.streams:
            raise CudaError("CUDA_ERROR_INVALID_HANDLE: no such stream")
        found = self.streams[stream]
        (found.pending if found.captured is None else found.captured).append(work)

    def _drain(self, stream: _Stream) -> None:
        pending, stream.pending = stream.pending, []
        for work in pending:
            work()

    def synchronize(self, stream: int | None = None) -> None:
        self._unsafe("synchronize")
        capturing = [s for s in self.streams.values() if s.captured is not None]
        if stream is None and capturing:  # in any thread, whatever the mode
            for found in capturing:
                found.invalid = True
            raise CudaError("synchronize: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
        for found in self.streams.values() if stream is None else [self.streams[stream]]:
            self._drain(found)

    def create_event(self) -> int:
        self._unsafe("create_event")
        return self._add(self.events, None)

    def destroy_event(self, event: int) -> None:
        self._call("destroy_event")
        del self.events[event]

    def record(self, event: int, stream: int) -> None:
        self._call("record")

        def reached() -> None:
            self.clock += 1.0
            self.events[event] = self.clock

        self.put(stream, reached)

    def elapsed(self, begin: int, end: int) -> float:
        self._call("elapsed")
        times = self.events[begin], self.events[end]
        if None in times:
            raise CudaError("CUDA_ERROR_NOT_READY")
        return times[1] - times[0]

    # Copies

    def to_device(self, target: int, source: np.ndarray, stream: int) -> None:
        self._call("to_device")
        self._require_pinned(source)
        self.put(stream, lambda: self._assign(self.at(target, source.nbytes), source, 2.0))

    def to_host(self, target: np.ndarray, source: int, stream: int) -> None:
        self._call("to_host")
        self._require_pinned(target)
        self.put(stream, lambda: self._assign(target, self.at(source, target.nbytes), 3.0))

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self._call("copy")
        self.put(stream, lambda: self._assign(self.at(target, size), self.at(source, size), 1.0))

    def _assign(self, target: np.ndarray, source: np.ndarray, duration: float) -> None:
        target[...] = source
        self.clock += duration

    # Graphs

    def begin_capture(self, stream: int) -> None:
        self._call("begin_capture")
        found = self.streams[stream]
        if found.captured is not None:
            raise CudaError("CUDA_ERROR_ILLEGAL_STATE: it captures already")
        found.captured, found.invalid = [], False
        found.capturing_thread = threading.get_ident()

    def end_capture(self, stream: int) -> int | None:
        self._call("end_capture")
        found = self.streams[stream]
        if found.captured is None:
            raise CudaError("CUDA_ERROR_ILLEGAL_STATE: no capture")
        if found.capturing_thread != threading.get_ident():
            raise CudaError("CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD")
        work, found.captured = found.captured, None
        return None if found.invalid else self._add(self.graphs, work)

    def count_nodes(self, graph: int) -> int:
        return len(self.graphs[graph])

    def instantiate(self, graph: int) -> int:
        self._call("instantiate")
        return self._add(self.executables, self.graphs[graph])

    def destroy_graph(self, graph: int) -> None:
        self._call("destroy_graph")
        del self.graphs[graph]

    def launch(self, executable: int, stream: int) -> None:
        self._call("launch")
        self.launched += 1
        for work in self.executables[executable]:
            self.put(stream, work)

    def destroy_executable(self, executable: int) -> None:
        self._call("destroy_executable")
        del self.executables[executable]

    def close(self) -> None:
        if self.closed:
            raise BrokenRuleError("closed twice")
        self.closed = True

    @property
    def leaks(self) -> dict[str, Any]:
        """What was made and not given back."""
        kinds = ("blocks", "pinned", "streams", "events", "graphs", "executables")
        return {kind: len(getattr(self, kind)) for kind in kinds if getattr(self, kind)}
