"""The one place that knows CUDA: is a GPU there, and memory, streams, events, copies, graphs on it."""

from __future__ import annotations

import ctypes
import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_runtime.errors import (
    CudaError,
    CudaGraphError,
    DeviceMemoryError,
    DeviceUnavailableError,
)

# CUdevice_attribute
_MAJOR, _MINOR = 75, 76
_SUCCESS, _OUT_OF_MEMORY = 0, 2
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


@dataclass(frozen=True)
class Gpu:
    """A device as the driver describes it: ``compute_capability`` like ``"9.0"``, memory in bytes."""

    name: str
    compute_capability: str
    memory: int


@dataclass(frozen=True)
class CudaStatus:
    """What the CUDA driver says: how many devices, and a reason where there are none.

    ``driver`` is the newest CUDA version that the driver speaks, like ``(13, 0)``.
    """

    devices: int
    reason: str
    driver: tuple[int, int] | None = None
    gpus: tuple[Gpu, ...] = ()


@cache
def cuda_status() -> CudaStatus:
    """Ask the driver itself (``cuInit``), without any package; the answer is kept."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return CudaStatus(0, f"no CUDA driver is installed ({name} not found)")
    code = driver.cuInit(0)
    if code != _SUCCESS:
        return CudaStatus(0, f"the CUDA driver found no device (cuInit returned {code})")
    count, number = ctypes.c_int(0), ctypes.c_int(0)
    code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code != _SUCCESS or count.value == 0:
        return CudaStatus(0, f"the CUDA driver sees no device (code {code})")
    driver.cuDriverGetVersion(ctypes.byref(number))
    version = (number.value // 1000, number.value % 1000 // 10)
    gpus = tuple(_describe(driver, index) for index in range(count.value))
    return CudaStatus(count.value, "", version, gpus)


def _describe(driver: ctypes.CDLL, index: int) -> Gpu:
    device, value, total = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_size_t(0)
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    capability = []
    for attribute in (_MAJOR, _MINOR):
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(str(value.value))
    return Gpu(name.value.decode(errors="replace"), ".".join(capability), total.value)


def wait_for_device(device: int) -> None:
    """Wait until all work in the device's primary context is done, whoever began it."""
    driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    context, before = ctypes.c_void_p(), ctypes.c_void_p()
    codes = [driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)]
    if codes[0] == _SUCCESS:
        codes.append(driver.cuCtxPushCurrent_v2(context))
        codes.append(driver.cuCtxSynchronize())
        codes.append(driver.cuCtxPopCurrent_v2(ctypes.byref(before)))
        driver.cuDevicePrimaryCtxRelease_v2(device)
    if any(codes):
        raise CudaError(f"waiting for device {device} failed (codes {codes})")


class Cuda(ABC):
    """One device through one Python binding, in the device's primary context.

    The primary context is the one that torch and ONNX Runtime use: memory of theirs can be
    read and written here. Handles and device addresses are plain integers. All calls but
    ``close`` happen ``with cuda.current():`` and raise :class:`CudaError`
    (:class:`DeviceMemoryError` where memory is short). Safe to use from several threads, as
    long as each handle is in one of them at a time.
    """

    name: str
    device: int

    @abstractmethod
    def _push(self) -> None: ...

    @abstractmethod
    def _pop(self) -> None: ...

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context this thread's current one; the one before comes back at the end."""
        self._push()
        try:
            yield
        finally:
            self._pop()

    @abstractmethod
    def memory_info(self) -> tuple[int, int]:
        """Bytes of device memory: free, and in all."""

    @abstractmethod
    def allocate(self, size: int) -> int:
        """The address of ``size`` new bytes on the device."""

    @abstractmethod
    def free(self, address: int) -> None: ...

    @abstractmethod
    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        """``size`` bytes of page-locked host memory, which copies need to be asynchronous."""

    @abstractmethod
    def free_pinned(self, memory: NDArray[np.uint8]) -> None: ...

    @abstractmethod
    def create_stream(self) -> int:
        """A stream that does not wait for the legacy default stream."""

    @abstractmethod
    def destroy_stream(self, stream: int) -> None: ...

    @abstractmethod
    def synchronize(self, stream: int | None = None) -> None:
        """Wait until ``stream`` has done its work; None: until all streams have."""

    @abstractmethod
    def create_event(self) -> int: ...

    @abstractmethod
    def destroy_event(self, event: int) -> None: ...

    @abstractmethod
    def record(self, event: int, stream: int) -> None: ...

    @abstractmethod
    def elapsed(self, begin: int, end: int) -> float:
        """Milliseconds between two recorded events that have both been reached."""

    @abstractmethod
    def to_device(self, target: int, source: NDArray[np.uint8], stream: int) -> None:
        """Copy pinned bytes to the device, asynchronously."""

    @abstractmethod
    def to_host(self, target: NDArray[np.uint8], source: int, stream: int) -> None:
        """Copy ``target.nbytes`` bytes from the device to pinned memory, asynchronously."""

    @abstractmethod
    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy within the device, asynchronously."""

    @abstractmethod
    def begin_capture(self, stream: int) -> None:
        """Record what this thread puts on ``stream`` from now on, instead of doing it."""

    @abstractmethod
    def end_capture(self, stream: int) -> int | None:
        """The graph that was recorded; None if the capture was invalidated. Ends it either way."""

    @abstractmethod
    def count_nodes(self, graph: int) -> int: ...

    @abstractmethod
    def instantiate(self, graph: int) -> int:
        """An executable graph, which no longer needs ``graph``."""

    @abstractmethod
    def destroy_graph(self, graph: int) -> None: ...

    @abstractmethod
    def launch(self, executable: int, stream: int) -> None: ...

    @abstractmethod
    def destroy_executable(self, executable: int) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Give the primary context back; nothing made here can be used afterwards."""

    def capture(self, stream: int, work: Callable[[], bool]) -> int:
        """What ``work`` puts on ``stream``, as an executable graph that is launched at once.

        ``work`` returns whether it succeeded. Raises :class:`CudaGraphError` if it did not,
        the capture was invalidated, or nothing was captured; the stream can be used again
        then.
        """
        self.begin_capture(stream)
        succeeded = False
        try:
            succeeded = work()
        finally:
            graph = self.end_capture(stream)  # a stream left capturing would refuse all else
            if graph is not None and not succeeded:
                self.destroy_graph(graph)
        if not succeeded:
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


class BindingsCuda(Cuda):
    """CUDA through ``cuda.bindings``, NVIDIA's own package, which comes as wheels."""

    def __init__(self, device: int = 0) -> None:
        try:
            self._driver: Any = importlib.import_module("cuda.bindings.driver")
        except ImportError as error:
            raise DeviceUnavailableError(
                f"CUDA cannot be reached from Python: neither PyCUDA nor cuda.bindings can be imported "
                f"({error}); pip install cuda-bindings"
            ) from error
        package = importlib.import_module("cuda.bindings")
        self.name = f"cuda.bindings {getattr(package, '__version__', '')}".rstrip()
        self.device = device
        try:
            self._call("cuInit", 0)
        except CudaError:
            raise
        except Exception as error:  # of a kind of its own, where no driver is installed
            raise DeviceUnavailableError(
                f"{self.name} finds no CUDA driver ({error}); install NVIDIA's driver"
            ) from error
        self._handle = self._call("cuDeviceGet", device)
        self._context: Any = self._call("cuDevicePrimaryCtxRetain", self._handle)

    def _call(self, function: str, *arguments: Any) -> Any:
        status, *values = getattr(self._driver, function)(*arguments)
        if int(status) != _SUCCESS:
            raise self._error(function, int(status), str(getattr(status, "name", status)))
        if len(values) < 2:
            return values[0] if values else None
        return values

    def _error(self, function: str, code: int, name: str) -> CudaError:
        kind = DeviceMemoryError if code == _OUT_OF_MEMORY else CudaError
        return kind(f"{function} on device {self.device} returned {code} ({name})")

    def _push(self) -> None:
        self._call("cuCtxPushCurrent", self._context)

    def _pop(self) -> None:
        self._call("cuCtxPopCurrent")

    def memory_info(self) -> tuple[int, int]:
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        return int(self._call("cuMemAlloc", size))

    def free(self, address: int) -> None:
        self._call("cuMemFree", address)

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        address = int(self._call("cuMemHostAlloc", size, 0))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        self._call("cuMemFreeHost", memory.ctypes.data)

    def create_stream(self) -> int:
        return int(self._call("cuStreamCreate", _NON_BLOCKING))

    def destroy_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy", stream)

    def synchronize(self, stream: int | None = None) -> None:
        if stream is None:
            self._call("cuCtxSynchronize")
        else:
            self._call("cuStreamSynchronize", stream)

    def create_event(self) -> int:
        return int(self._call("cuEventCreate", 0))

    def destroy_event(self, event: int) -> None:
        self._call("cuEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        self._call("cuEventRecord", event, stream)

    def elapsed(self, begin: int, end: int) -> float:
        return float(self._call("cuEventElapsedTime", begin, end))

    def to_device(self, target: int, source: NDArray[np.uint8], stream: int) -> None:
        self._call("cuMemcpyHtoDAsync", target, source.ctypes.data, source.nbytes, stream)

    def to_host(self, target: NDArray[np.uint8], source: int, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync", target.ctypes.data, source, target.nbytes, stream)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self._call("cuMemcpyDtoDAsync", target, source, size, stream)

    def begin_capture(self, stream: int) -> None:
        # Thread-local: what other threads do meanwhile, torch's allocator say, cannot spoil it.
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int | None:
        # The driver keeps no error to clear: the status returned here is the only trace.
        status, graph = self._driver.cuStreamEndCapture(stream)
        return int(graph) if int(status) == _SUCCESS and int(graph) else None

    def count_nodes(self, graph: int) -> int:
        return int(self._call("cuGraphGetNodes", graph)[-1])

    def instantiate(self, graph: int) -> int:
        return int(self._call("cuGraphInstantiate", graph, 0))

    def destroy_graph(self, graph: int) -> None:
        self._call("cuGraphDestroy", graph)

    def launch(self, executable: int, stream: int) -> None:
        self._call("cuGraphLaunch", executable, stream)

    def destroy_executable(self, executable: int) -> None:
        self._call("cuGraphExecDestroy", executable)

    def close(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            self._call("cuDevicePrimaryCtxRelease", self._handle)


def open_cuda(device: int = 0) -> Cuda:
    """CUDA on ``device``: through PyCUDA where it is installed, else through ``cuda.bindings``.

    Raises :class:`DeviceUnavailableError` if there is no such device, or neither package.
    """
    status = cuda_status()
    if device >= status.devices:
        reason = status.reason or f"there are {status.devices}"
        raise DeviceUnavailableError(
            f"CUDA device {device} is not there: {reason}; use device='cpu', or choose another"
        )
    try:
        from repr_runtime.cuda.pycuda import PyCuda
    except ImportError:
        return BindingsCuda(device)
    return PyCuda(device)
