"""Poisson schedules, and queries sent by them in virtual time: nothing waits for the clock."""

import os
import threading
from collections.abc import Iterable
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from fake_queue import MS, STEP_NS, QueueService, VirtualTime

from repr_bench.results.trials import UNANSWERED
from repr_bench.scenarios.arrivals import (
    SPIN_NS,
    Driven,
    drive,
    poisson_schedule,
    realtime_priority,
)


def _drive(service: QueueService, schedule: Iterable[int], **more: float | int | None) -> Driven:
    time = service.time
    how: Any = {"clock": time.clock, "sleep": time.sleep, **more}
    return drive([*schedule], ["a", "b"], service, **how)


def test_a_schedule_is_a_function_of_its_seed_and_scales_with_the_rate() -> None:
    first = poisson_schedule(100, 10, 7)
    assert len(first) == 1000
    assert np.array_equal(first, poisson_schedule(100, 10, 7))
    assert not np.array_equal(first, poisson_schedule(100, 10, 8))
    doubled = poisson_schedule(200, 5, 7)
    assert np.abs(first - 2 * doubled).max() <= 2  # whole ns
    assert len(poisson_schedule(2, 1, 0, at_least=30)) == 30


def test_gaps_are_exponential() -> None:
    gaps = np.diff(poisson_schedule(1000, 40, 3)) / 1e9
    n = len(gaps)
    assert gaps.mean() == pytest.approx(1e-3, rel=4 / n**0.5)
    assert gaps.std() == pytest.approx(1e-3, rel=8 / n**0.5)
    # the share of gaps above t is exp(-rate t)
    for t in (0.5e-3, 1e-3, 3e-3):
        assert (gaps > t).mean() == pytest.approx(np.exp(-1000 * t), abs=2.5 / n**0.5)


def test_latencies_by_hand() -> None:
    service = QueueService(4 * MS)
    found = _drive(service, [0, 1 * MS, 2 * MS, 20 * MS])
    # one server: answered at 4, 8, 12, 24 ms, give or take the steps of the watching
    assert [round(ns / MS, 1) for ns in found.latency_ns] == [4, 7, 10, 4]
    assert 0 <= min(found.lateness_ns) <= max(found.lateness_ns) <= STEP_NS
    assert found.seconds == pytest.approx(24e-3, abs=1e-4)
    assert (found.refused, found.hopeless, found.error) == (0, False, None)
    assert service.given == ["a", "b", "a", "b"]


def test_a_stall_is_in_the_latency_of_all_who_were_due_meanwhile() -> None:
    found = _drive(QueueService(MS, stall_at=2, stall_ns=50 * MS), range(0, 100 * MS, 10 * MS))
    # 51 ms for the one that stalled, 42, 33, … for those behind it
    assert [round(ns / MS) for ns in found.latency_ns] == [1, 1, 51, 42, 33, 24, 15, 6, 1, 1]


def test_a_late_generator_is_seen_and_its_lateness_is_in_the_latency() -> None:
    time = VirtualTime(oversleep=lambda seconds: 3e-3 if seconds > 1e-3 else 0.0)
    found = _drive(QueueService(MS, time), range(10 * MS, 50 * MS, 10 * MS))
    for late, latency in zip(found.lateness_ns, found.latency_ns, strict=True):
        assert late == pytest.approx(3 * MS - SPIN_NS, abs=MS / 20)
        assert latency == late + MS


def test_it_sleeps_most_of_the_time_and_watches_the_clock_for_the_rest() -> None:
    service = QueueService(MS)
    _drive(service, range(0, 1000 * MS, 10 * MS))
    assert service.time.slept > 0.95


def test_it_stops_as_soon_as_the_bound_is_lost() -> None:
    service = QueueService(4 * MS)  # of 1 query/ms: each waits 3 ms longer than the last
    found = _drive(service, range(0, 1000 * MS, MS), bound_ns=10 * MS, allowed=5)
    assert found.hopeless
    # latencies 4, 7, 10 | 13 …: the queries 3 to 8 miss, and that is known at 18 ms
    assert len(found.latency_ns) == pytest.approx(20, abs=2)
    assert UNANSWERED not in found.latency_ns  # what was sent is waited for


@pytest.mark.parametrize(("allowed", "hopeless"), [(5, False), (4, True)])
def test_exactly_as_many_misses_as_allowed_do_not_stop_it(allowed: int, hopeless: bool) -> None:
    # 51, 42, 33, 24, 15 | 6 ms: five of them over 10 ms
    service = QueueService(MS, stall_at=2, stall_ns=50 * MS)
    found = _drive(service, range(0, 500 * MS, 10 * MS), bound_ns=10 * MS, allowed=allowed)
    assert (found.hopeless, len(found.latency_ns) < 50) == (hopeless, hopeless)


@pytest.mark.parametrize(
    ("service", "every_ms", "answered", "refused", "error"),
    [
        (QueueService(10 * MS, room=2), 1, [True, True, False, False], 2, "None"),
        (QueueService(MS, fail_at=1), 10, [True, False], 0, "the network fell over"),
        (QueueService(MS, silent_from=2), 10, [True, True, False, False], 0, "None"),
    ],
    ids=["refused", "an error ends it", "silence is not waited for without end"],
)
def test_what_is_not_answered(
    service: QueueService, every_ms: int, answered: list[bool], refused: int, error: str
) -> None:
    found = _drive(service, range(0, 4 * every_ms * MS, every_ms * MS))
    assert [ns != UNANSWERED for ns in found.latency_ns] == answered
    assert (found.refused, str(found.error)) == (refused, error)


def test_a_mistake_in_the_sample_ends_it() -> None:
    service: Any = QueueService(MS)
    service.submit = Mock(side_effect=ValueError("wrong shape"))
    found = _drive(service, [0, MS])
    assert (str(found.error), found.latency_ns) == ("wrong shape", (UNANSWERED,))


def policy() -> int:
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK


@pytest.mark.skipif(not hasattr(os, "sched_setscheduler"), reason="this system has no such call")
def test_it_is_given_to_this_thread_alone_and_taken_back() -> None:
    before, inside = policy(), list[int]()
    with realtime_priority() as given:
        if given:
            assert policy() == os.SCHED_RR
            started = threading.Thread(target=lambda: inside.append(policy()))
            started.start()
            started.join()
            assert inside == [os.SCHED_OTHER]
    assert policy() == before
    with pytest.raises(KeyboardInterrupt), realtime_priority():
        raise KeyboardInterrupt
    assert policy() == before


@pytest.mark.parametrize("error", [PermissionError, AttributeError])
def test_where_it_is_not_allowed_all_goes_on_without(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "sched_setscheduler", refuse, raising=False)
    with realtime_priority() as given:
        assert not given
