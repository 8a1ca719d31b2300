"""Stand-ins for the packages `cuda.bindings` and `pycuda`, which do what a `FakeCuda` does.

Only what is called of them is here, with the signatures that they document, so that a call
of another name or with other arguments fails.
"""

from __future__ import annotations

import enum
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda

from repr_runtime.errors import CudaError, DeviceMemoryError

CUresult = enum.IntEnum(
    "CUresult",
    {"CUDA_SUCCESS": 0, "CUDA_ERROR_OUT_OF_MEMORY": 2, "CUDA_ERROR_INVALID_VALUE": 1},
)


def _bindings(device: FakeCuda) -> ModuleType:
    """``cuda.bindings.driver``: every function returns its status and its results."""
    driver: Any = ModuleType("cuda.bindings.driver")

    def bind(name: str, function: Any) -> None:
        def call(*arguments: Any) -> tuple[Any, ...]:
            try:
                result = function(*arguments)
            except DeviceMemoryError:
                return (CUresult.CUDA_ERROR_OUT_OF_MEMORY, None)
            except CudaError:
                return (CUresult.CUDA_ERROR_INVALID_VALUE, None)
            if result is None:
                return (CUresult.CUDA_SUCCESS,)
            results = result if isinstance(result, tuple) else (result,)
            return (CUresult.CUDA_SUCCESS, *results)

        setattr(driver, name, call)

    def host(address: int, size: int) -> np.ndarray:
        for begin, memory in device.pinned.items():
            if begin <= address and address + size <= begin + memory.nbytes:
                return memory[address - begin : address - begin + size]
        raise AssertionError("a copy of memory that is not pinned")

    def release(_: Any) -> None:
        device.primary.remove("bindings")
        if not device.primary:
            device.close()

    def stream_capture(stream: int, mode: Any) -> None:
        assert mode is driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        device.begin_capture(stream)

    def end_capture(stream: int) -> int:
        graph = device.end_capture(stream)
        if graph is None:
            raise CudaError("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
        return graph

    def create_stream(flags: int) -> int:
        assert flags == 1, "a stream that waits for the default stream"
        return device.create_stream()

    driver.CUstreamCaptureMode = enum.Enum(
        "CUstreamCaptureMode", "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL"
    )
    for name, function in {
        "cuInit": lambda flags: None if flags == 0 else 1,
        "cuDeviceGet": lambda ordinal: ordinal,
        "cuDevicePrimaryCtxRetain": lambda _: device.primary.append("bindings") or 99,
        "cuDevicePrimaryCtxRelease": release,
        "cuCtxPushCurrent": lambda context: device._push() if context == 99 else 1,
        "cuCtxPopCurrent": lambda: device._pop() or 99,
        "cuMemGetInfo": device.memory_info,
        "cuMemAlloc": device.allocate,
        "cuMemFree": device.free,
        "cuMemHostAlloc": lambda size, _: device.allocate_pinned(size).ctypes.data,
        "cuMemFreeHost": lambda address: device.free_pinned(device.pinned[address]),
        "cuStreamCreate": create_stream,
        "cuStreamDestroy": device.destroy_stream,
        "cuStreamSynchronize": device.synchronize,
        "cuCtxSynchronize": lambda: device.synchronize(),
        "cuEventCreate": lambda _: device.create_event(),
        "cuEventDestroy": device.destroy_event,
        "cuEventRecord": device.record,
        "cuEventElapsedTime": device.elapsed,
        "cuMemcpyHtoDAsync": lambda target, source, size, stream: device.to_device(
            target, host(source, size), stream
        ),
        "cuMemcpyDtoHAsync": lambda target, source, size, stream: device.to_host(
            host(target, size), source, stream
        ),
        "cuMemcpyDtoDAsync": device.copy,
        "cuStreamBeginCapture": stream_capture,
        "cuStreamEndCapture": end_capture,
        "cuGraphGetNodes": lambda graph: ([], device.count_nodes(graph)),
        "cuGraphInstantiate": lambda graph, _: device.instantiate(graph),
        "cuGraphDestroy": device.destroy_graph,
        "cuGraphLaunch": device.launch,
        "cuGraphExecDestroy": device.destroy_executable,
    }.items():
        bind(name, function)
    return driver


def _pycuda(device: FakeCuda) -> ModuleType:
    """``pycuda.driver``: objects that give back what they hold when they go."""
    driver: Any = ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class MemoryError(Error):  # noqa: A001  as PyCUDA calls it
        pass

    class Allocation:
        def __init__(self, size: int) -> None:
            try:
                self.address = device.allocate(size)
            except DeviceMemoryError as error:
                raise MemoryError(str(error)) from error

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            device.free(self.address)

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            assert flags == 1
            self.handle = device.create_stream()

        def synchronize(self) -> None:
            device.synchronize(self.handle)

        def __del__(self) -> None:
            device.destroy_stream(self.handle)

    class Event:
        def __init__(self) -> None:
            self.event = device.create_event()

        def record(self, stream: Stream) -> Event:
            device.record(self.event, stream.handle)
            return self

        def time_since(self, other: Event) -> float:
            return device.elapsed(other.event, self.event)

        def __del__(self) -> None:
            device.destroy_event(self.event)

    stacks = threading.local()  # PyCUDA's own, of which CUDA's has the topmost alone

    def stack() -> list[Any]:
        return vars(stacks).setdefault("stack", [])

    def push() -> None:
        if stack():
            device._pop()
        device._push()
        stack().append(context)

    def pop() -> None:
        if not stack():
            raise Error(
                "context::pop failed: invalid device context - cannot pop non-current context"
            )
        device._pop()
        stack().pop()
        if stack():
            device._push()

    def detach() -> None:
        # As its C++ has it: "pop is implicit in detach", which for a primary context it is not.
        active = stack()[-1:] == [context]
        if not active:
            device._push()
        device.primary.remove("pycuda")
        stack()[:] = []
        if not device.primary:
            device.close()

    class Context:
        """As boost.python's: an object may be kept from its end by whoever counts it once more."""

    context: Any = Context()
    context.push, context.pop, context.detach = push, pop, detach
    context.synchronize = lambda: device.synchronize()

    def open_device(ordinal: int) -> Any:
        assert ordinal == device.device
        retain = lambda: device.primary.append("pycuda") or context  # noqa: E731
        return SimpleNamespace(retain_primary_context=retain)

    class Pinned(np.ndarray):
        """Its ``base`` is what owns the memory, and can free it."""

        @property
        def base(self) -> Any:
            outer = self

            class Owner:
                def free(self) -> None:
                    device.free_pinned(np.asarray(outer))

            return Owner()

    driver.Error, driver.MemoryError = Error, MemoryError
    driver.Stream, driver.Event, driver.Context, driver.Device = Stream, Event, context, open_device
    driver.init = lambda: None
    driver.mem_get_info = device.memory_info
    driver.mem_alloc = Allocation
    driver.pagelocked_empty = lambda size, _: device.allocate_pinned(size).view(Pinned)
    driver.memcpy_htod_async = lambda target, source, stream: device.to_device(
        target, np.asarray(source), stream.handle
    )
    driver.memcpy_dtoh_async = lambda target, source, stream: device.to_host(
        np.asarray(target), source, stream.handle
    )
    driver.memcpy_dtod_async = lambda target, source, size, stream: device.copy(
        target, source, size, stream.handle
    )
    return driver


def install(device: FakeCuda, monkeypatch: pytest.MonkeyPatch, *, pycuda: bool) -> None:
    """Put the stand-ins in place of the packages, as long as the test lasts."""
    cuda, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
    bindings.__version__ = "0.fake"
    modules = {"cuda": cuda, "cuda.bindings": bindings, "cuda.bindings.driver": _bindings(device)}
    if pycuda:
        package: Any = ModuleType("pycuda")
        package.VERSION_TEXT = "0.fake"
        package.driver = _pycuda(device)
        modules |= {"pycuda": package, "pycuda.driver": package.driver}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    # Imported anew, of the stand-in, and forgotten after the test, even if nobody had imported it.
    monkeypatch.setitem(sys.modules, "repr_runtime.cuda.pycuda", None)
    del sys.modules["repr_runtime.cuda.pycuda"]
