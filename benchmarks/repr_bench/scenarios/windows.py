"""Latencies by equal stretches of time, which the bootstrap draws from."""

import itertools
from collections.abc import Sequence

import numpy as np

from repr_bench.results.trials import Windows

WINDOWS = 12


def by_time(
    latency_ns: Sequence[int], moments_ns: Sequence[int], length_ns: int
) -> tuple[Windows, tuple[float, ...]]:
    """``latency_ns`` by when they belong to, and the seconds that each window stands for.

    ``moments_ns`` ascend from 0 to ``length_ns``, which is cut into ``WINDOWS`` stretches. One
    without a sample leaves, and its time goes to the others.
    """
    moments = np.asarray(moments_ns, np.int64)
    edges = np.searchsorted(moments, length_ns / WINDOWS * np.arange(1, WINDOWS), side="left")
    cuts = [0, *map(int, edges), len(latency_ns)]
    windows = tuple(tuple(latency_ns[begin:end]) for begin, end in itertools.pairwise(cuts))
    kept = tuple(window for window in windows if window)
    return kept, tuple(length_ns / 1e9 / len(kept) for _ in kept)
