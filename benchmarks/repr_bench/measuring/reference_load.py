"""A fixed small workload, timed in every run: whether the machine itself was as fast as before."""

import time

import numpy as np
from numpy.typing import NDArray

from repr_bench.measuring.measure import Clock, took
from repr_bench.results.machine import ReferenceLoadTimes

SIDE = 64
"""Of the matrices that are multiplied: OpenBLAS keeps products this small in one thread, and
three such matrices fit into the nearest cache, so that where they lie in memory matters little."""
PRODUCTS = 32
COPY_BYTES = 4 * 2**20
"""More than the caches of a single core hold."""
REPEATS = 15
"""Many and short, so that a busy machine leaves some undisturbed: the fastest one is used."""


class ReferenceLoad:
    """Holds the arrays, and times the two parts; about 10 ms a time on a core of 2023."""

    def __init__(self, clock: Clock = time.perf_counter_ns) -> None:
        self._clock = clock
        generator = np.random.default_rng(0)
        self._left, self._right, self._product = (
            _page_aligned(SIDE * SIDE * 4).view(np.float32).reshape(SIDE, SIDE) for _ in range(3)
        )
        for matrix in (self._left, self._right):
            matrix[:] = generator.standard_normal((SIDE, SIDE), np.float32)
        self._source, self._target = (_page_aligned(COPY_BYTES) for _ in range(2))
        self._source[:] = 1  # pages never written to would all be one page of zeros
        self._product_ns, self._copy_ns = list[tuple[int, ...]](), list[tuple[int, ...]]()

    def run(self) -> None:
        """Time both parts once more. What was in the caches before it is not counted."""
        for part, times in ((self._multiply, self._product_ns), (self._copy, self._copy_ns)):
            part()
            times.append(tuple(took(part, self._clock) for _ in range(REPEATS)))

    def times(self) -> ReferenceLoadTimes:
        """All timings so far: ``REPEATS`` of each part a time, in whole nanoseconds."""
        return ReferenceLoadTimes(tuple(self._product_ns), tuple(self._copy_ns))

    def _multiply(self) -> None:
        for _ in range(PRODUCTS):
            np.matmul(self._left, self._right, out=self._product)

    def _copy(self) -> None:
        np.copyto(self._target, self._source)


def _page_aligned(size: int) -> NDArray[np.uint8]:
    """Bytes that begin with a page: where a matrix lies changes its speed by some per cent."""
    page = 4096
    memory = np.zeros(size + page, np.uint8)
    start = -memory.ctypes.data % page
    return memory[start : start + size]
