"""The one place that knows CUDA: whether the driver is there and how many devices it sees."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class CudaStatus:
    """What the CUDA driver says: how many devices, and a reason where there are none."""

    devices: int
    reason: str


@cache
def cuda_status() -> CudaStatus:
    """Ask the driver itself (``cuInit``), without any package; the answer is kept."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return CudaStatus(0, f"no CUDA driver is installed ({name} not found)")
    code = driver.cuInit(0)
    if code != 0:
        return CudaStatus(0, f"the CUDA driver found no device (cuInit returned {code})")
    count = ctypes.c_int(0)
    code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code != 0 or count.value == 0:
        return CudaStatus(0, f"the CUDA driver sees no device (code {code})")
    return CudaStatus(count.value, "")
