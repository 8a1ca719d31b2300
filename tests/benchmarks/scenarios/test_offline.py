"""Offline: as many threads as instances, all of them busy for as long as it counts."""

import threading
import time
from typing import Any

import pytest

from repr_bench.scenarios.offline import LEAST_CALLS, try_batch


def test_all_instances_are_busy_and_the_rate_is_theirs_together() -> None:
    threads: set[int] = set()
    at_once = most = 0
    lock = threading.Lock()

    def call() -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        threads.add(threading.get_ident())
        time.sleep(0.02)
        with lock:
            at_once -= 1

    found = try_batch(call, batch=4, instances=3, seconds=0.3)
    assert (most, len(threads)) == (3, 3)
    samples = [ns for window in found.windows_ns for ns in window]
    # A sleep may last longer on a busy machine, not shorter: what is sure is what was counted.
    assert min(samples) >= 19_000_000
    rate: Any = found.images_per_second
    assert rate.value == pytest.approx(4 * len(samples) / sum(found.window_seconds))
    assert rate.value <= 4 * 3 / 0.019
    assert sum(found.window_seconds) >= 0.25


def test_slow_calls_are_made_a_few_times_even_so() -> None:
    made: list[int] = []

    def call() -> None:
        made.append(1)
        time.sleep(0.01)

    reports: list[float] = []
    found = try_batch(call, batch=1, instances=1, seconds=1e-6, report=reports.append)
    assert len(made) == 1 + LEAST_CALLS
    assert sum(map(len, found.windows_ns)) == LEAST_CALLS
    assert reports


def test_an_error_is_raised_and_the_others_stop() -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise ArithmeticError("it broke")
        time.sleep(0.001)

    with pytest.raises(ArithmeticError):
        try_batch(call, batch=1, instances=2, seconds=60.0)
