"""CUDA through PyCUDA; what PyCUDA lacks, stream capture and graphs, through `cuda.bindings`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pycuda
import pycuda.driver as driver
from numpy.typing import NDArray

from repr_runtime.cuda.bindings import BindingsCuda
from repr_runtime.cuda.device import Cuda
from repr_runtime.cuda.driver import NON_BLOCKING
from repr_runtime.errors import CudaError, CudaGraphError, DeviceMemoryError, DeviceUnavailableError
from repr_runtime.process.lifetime import leak


@contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except driver.MemoryError as error:
        raise DeviceMemoryError(f"{what}: {error}") from error
    except driver.Error as error:
        raise CudaError(f"{what}: {error}") from error


@cache
def _primary(device: int) -> Any:
    """The device's primary context, of all who open it here, and never given back.

    PyCUDA's ``detach`` and destructor are made for other contexts: they leave a primary one
    current in the thread, and PyCUDA's own stack without it, so that the next ``pop`` fails.
    """
    with _errors(f"opening device {device}"):
        driver.init()
        context = driver.Device(device).retain_primary_context()
    leak(context)
    return context


class PyCuda(Cuda):
    """CUDA through ``pycuda.driver``, in the primary context (as ``pycuda.autoprimaryctx``).

    PyCUDA frees what its objects hold when they go, so that each is kept under the integer
    that stands for it outside.
    """

    def __init__(self, device: int = 0) -> None:
        self.name = f"PyCUDA {pycuda.VERSION_TEXT}"
        self.device = device
        self._objects: dict[int, Any] = {}
        self._context: Any = _primary(device)
        self._graphs: BindingsCuda | None = None
        try:
            self._graphs = BindingsCuda(device)
        except DeviceUnavailableError as error:
            self._no_graphs = f"PyCUDA cannot capture, and cuda.bindings cannot be used ({error})"

    def _push(self) -> None:
        with _errors("making the context current"):
            self._context.push()

    def _pop(self) -> None:
        with _errors("making the context before it current again"):
            driver.Context.pop()

    def memory_info(self) -> tuple[int, int]:
        with _errors("asking for free memory"):
            free, total = driver.mem_get_info()
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        with _errors(f"allocating {size:,} bytes on the device"):
            return self._keep(driver.mem_alloc(size))

    def free(self, address: int) -> None:
        with _errors("freeing device memory"):
            self._objects.pop(address).free()

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        with _errors(f"allocating {size:,} bytes of pinned memory"):
            memory: NDArray[np.uint8] = driver.pagelocked_empty(size, np.uint8)
        return memory

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        owner: Any = memory.base
        with _errors("freeing pinned memory"):
            owner.free()

    def create_stream(self) -> int:
        with _errors("creating a stream"):
            stream = driver.Stream(NON_BLOCKING)
        return self._keep(stream, int(stream.handle))

    def destroy_stream(self, stream: int) -> None:
        del self._objects[stream]

    def synchronize(self, stream: int | None = None) -> None:
        with _errors("running on the device"):
            if stream is None:
                driver.Context.synchronize()
            else:
                self._objects[stream].synchronize()

    def create_event(self) -> int:
        with _errors("creating an event"):
            event = driver.Event()
        return self._keep(event, id(event))

    def destroy_event(self, event: int) -> None:
        del self._objects[event]

    def record(self, event: int, stream: int) -> None:
        with _errors("recording an event"):
            self._objects[event].record(self._objects[stream])

    def elapsed(self, begin: int, end: int) -> float:
        with _errors("reading events"):
            return float(self._objects[end].time_since(self._objects[begin]))

    def to_device(self, target: int, source: NDArray[np.uint8], stream: int) -> None:
        with _errors("copying to the device"):
            driver.memcpy_htod_async(target, source, self._objects[stream])

    def to_host(self, target: NDArray[np.uint8], source: int, stream: int) -> None:
        with _errors("copying from the device"):
            driver.memcpy_dtoh_async(target, source, self._objects[stream])

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        with _errors("copying on the device"):
            driver.memcpy_dtod_async(target, source, size, self._objects[stream])

    def capture(self, stream: int, work: Callable[[], bool]) -> int:
        return self._capturing().capture(stream, work)

    def launch(self, executable: int, stream: int) -> None:
        self._capturing().launch(executable, stream)

    def destroy_executable(self, executable: int) -> None:
        self._capturing().destroy_executable(executable)

    def close(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            self._objects.clear()
            if self._graphs is not None:
                self._graphs.close()

    def _keep(self, thing: Any, key: int | None = None) -> int:
        number = int(thing) if key is None else key
        self._objects[number] = thing
        return number

    def _capturing(self) -> BindingsCuda:
        if self._graphs is None:
            raise CudaGraphError(self._no_graphs)
        return self._graphs
