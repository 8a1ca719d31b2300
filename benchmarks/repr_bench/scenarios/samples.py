"""A few samples of a network, run by their indices or handed out one by one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repr_bench.inputs import make_feed
from repr_bench.measuring.measure import took
from repr_bench.scenarios.arrivals import Sample

if TYPE_CHECKING:
    from repr_models.data.images import Images
    from repr_runtime import Session

POOL = 32
"""Different samples that queries are made of."""

TIMED_CALLS = 5


class SamplePool:
    """The samples: ``samples`` one by one, ``what`` in words."""

    def __init__(self, session: Session, images: Images | None) -> None:
        size = session.batch_size or POOL
        arrays, self.what = make_feed(session, images, size)
        self._session = session
        self._arrays = [array[np.arange(POOL) % size] for array in arrays]
        names = [spec.name for spec in session.inputs]
        # A network of one input takes a bare array too, which costs a generator of arrivals less.
        self.samples: Sequence[Sample] = (
            list(self._arrays[0])
            if len(names) == 1
            else [
                {name: array[index] for name, array in zip(names, self._arrays, strict=True)}
                for index in range(POOL)
            ]
        )
        self._batches: dict[tuple[int, ...], list[NDArray[Any]]] = {}

    def run(self, indices: Sequence[int]) -> object:
        """Run the samples of these indices as one batch; what is run often is gathered once."""
        key = tuple(indices)
        batch = self._batches.get(key)
        if batch is None:
            batch = [array[list(key)] for array in self._arrays]
            if len(self._batches) < POOL:
                self._batches[key] = batch
        return self._session.run(*batch)

    def timed(self, batch: int) -> list[float]:
        """The seconds of a few calls of ``batch`` samples, after one that is not counted."""
        run = partial(self.run, indices_of(batch))
        run()
        return [took(run, time.perf_counter_ns) / 1e9 for _ in range(TIMED_CALLS)]


def indices_of(batch: int) -> list[int]:
    """Which samples a batch of that size has: all in turn, from the first one on."""
    return [index % POOL for index in range(batch)]
