"""The CUDA driver itself, asked without any package: is a GPU there, and which."""

import ctypes
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from repr_runtime.errors import CudaError

_MAJOR, _MINOR = 75, 76  # CUdevice_attribute
SUCCESS, OUT_OF_MEMORY = 0, 2
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

nothing_captured = threading.RLock()
"""Held by who captures a graph, and by who waits for all of a device.

To wait for a device while any of its streams captures is an error for the one, and the end of the
other's capture: in whichever threads they are, whatever the mode (NVIDIA/TensorRT issue 2888).
"""


@dataclass(frozen=True)
class Gpu:
    """A device as the driver describes it: ``compute_capability`` like ``"9.0"``, memory in bytes."""

    name: str
    compute_capability: str
    memory: int

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability})"


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
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        return CudaStatus(0, f"no CUDA driver is installed ({_LIBRARY} not found)")
    code = driver.cuInit(0)
    if code != SUCCESS:
        return CudaStatus(0, f"the CUDA driver found no device (cuInit returned {code})")
    count, number = ctypes.c_int(0), ctypes.c_int(0)
    code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code != SUCCESS or count.value == 0:
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


@cache
def keep_context(device: int) -> None:
    """Keep the device's primary context until the process ends, as torch and ONNX Runtime do.

    It goes with the last who holds it, and libraries have things in it that they look for again,
    or free late (NVIDIA/TensorRT issue 1632). To make it anew takes tenths of a second, too.
    """
    with suppress(OSError):  # without a driver there is none to keep
        driver = ctypes.CDLL(_LIBRARY)
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(ctypes.c_void_p()), device)


def why_lost(device: int) -> str:
    """Why nothing works on the device any more in this process; "" if it does.

    Errors such as an illegal access stay with the context: whatever is asked next says the same.
    """
    try:
        wait_for_device(device)
    except CudaError as error:
        return f"cuda:{device} is lost to this process ({error}); start it again"
    return ""


def wait_for_device(device: int) -> None:
    """Wait until all work in the device's primary context is done, whoever began it."""
    push, synchronize, pop, context = _held(device)
    codes = [push(context)]
    if codes[0] == SUCCESS:
        with nothing_captured:
            codes.append(synchronize())
        codes.append(pop(ctypes.byref(ctypes.c_void_p())))
    if any(codes):
        raise CudaError(f"waiting for device {device} failed (codes {codes})")


@cache
def _held(device: int) -> tuple[Any, Any, Any, ctypes.c_void_p]:
    """What it takes to wait for a device, which is done before each run: three functions and a context.

    To load the library and to find the functions takes ten times as long as the calls. Its context
    is kept as above, so that it is the same one at each run.
    """
    driver, context = ctypes.CDLL(_LIBRARY), ctypes.c_void_p()
    if code := driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
        raise CudaError(f"waiting for device {device} failed: it gives no context (code {code})")
    return driver.cuCtxPushCurrent_v2, driver.cuCtxSynchronize, driver.cuCtxPopCurrent_v2, context
