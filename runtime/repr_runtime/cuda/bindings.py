"""CUDA through `cuda.bindings`, NVIDIA's own package."""

import ctypes
import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_runtime.cuda.device import Capturing
from repr_runtime.cuda.driver import NON_BLOCKING, OUT_OF_MEMORY, SUCCESS
from repr_runtime.errors import CudaError, DeviceMemoryError, DeviceUnavailableError


class BindingsCuda(Capturing):
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
        if int(status) != SUCCESS:
            kind = DeviceMemoryError if int(status) == OUT_OF_MEMORY else CudaError
            name = getattr(status, "name", status)
            raise kind(f"{function} on device {self.device} returned {int(status)} ({name})")
        if len(values) < 2:
            return values[0] if values else None
        return values

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
        return int(self._call("cuStreamCreate", NON_BLOCKING))

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
        return int(graph) if int(status) == SUCCESS and int(graph) else None

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
