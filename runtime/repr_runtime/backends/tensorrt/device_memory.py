"""Device memory for outputs that callers keep, freed when it can do no harm."""

import math
import threading
from collections import deque
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_runtime.cuda.arrays import DeviceArray
from repr_runtime.cuda.device import Cuda
from repr_runtime.errors import CudaError


class DeviceMemory:
    """Makes :class:`DeviceArray`; owns ``cuda``, which it closes after the last of them.

    Arrays go whenever the garbage collector says, perhaps in the middle of a capture, which
    freeing memory would spoil: what they held is freed when the next one is made.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._lock = threading.RLock()
        self._held: set[int] = set()
        self._returned: deque[int] = deque()
        self._closed = False

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """A new array, not initialised; the device is current."""
        with self._lock:
            self._free_returned()
            address = self._cuda.allocate(max(1, math.prod(shape) * dtype.itemsize))
            self._held.add(address)
        return DeviceArray(address, shape, dtype, self._cuda.device, self._fetch, self._release)

    def _fetch(self, array: DeviceArray) -> NDArray[Any]:
        cuda = self._cuda
        with cuda.current():
            stream, staged = cuda.create_stream(), cuda.allocate_pinned(max(1, array.nbytes))
            try:
                cuda.to_host(staged[: array.nbytes], array.address, stream)
                cuda.synchronize(stream)
                return staged[: array.nbytes].view(array.dtype).reshape(array.shape).copy()
            finally:
                cuda.free_pinned(staged)
                cuda.destroy_stream(stream)

    def _release(self, address: int) -> None:
        self._returned.append(address)
        if self._closed:
            self._finish()

    def close(self) -> None:
        """Free what nobody holds; the rest, and the device, follow the last array."""
        self._closed = True
        self._finish()

    def _finish(self) -> None:
        with self._lock, suppress(CudaError):  # in a finalizer nobody could catch it
            if self._returned:
                with self._cuda.current():
                    self._free_returned()
            if not self._held:
                self._cuda.close()

    def _free_returned(self) -> None:
        while self._returned:
            address = self._returned.popleft()
            self._held.remove(address)
            self._cuda.free(address)  # waits for the device: a consumer's kernels may still read
