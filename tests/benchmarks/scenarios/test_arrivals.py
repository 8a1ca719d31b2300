"""Poisson schedules, and queries sent by them in virtual time: nothing waits for the clock."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest
from fake_queue import STEP_NS, QueueService, VirtualTime

from repr_bench.results.trials import UNANSWERED
from repr_bench.scenarios.arrivals import SPIN_NS, Driven, drive, poisson_schedule

MS = 1_000_000


def _drive(
    time: VirtualTime, service: QueueService, schedule: list[int], **more: float | int | None
) -> Driven:
    return drive(
        schedule,
        ["a", "b"],
        service,
        clock=time.clock,
        sleep=time.sleep,
        **more,  # type: ignore[arg-type]
    )


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
    time = VirtualTime()
    service = QueueService(time, 4 * MS)
    found = _drive(time, service, [0, 1 * MS, 2 * MS, 20 * MS])
    # one server: answered at 4, 8, 12, 24 ms, give or take the steps of the watching
    assert [round(ns / MS, 1) for ns in found.latency_ns] == [4, 7, 10, 4]
    assert max(found.lateness_ns) <= STEP_NS
    assert min(found.lateness_ns) >= 0
    assert found.seconds == pytest.approx(24e-3, abs=1e-4)
    assert (found.refused, found.hopeless, found.error) == (0, False, None)
    assert service.given == ["a", "b", "a", "b"]


def test_a_stall_is_in_the_latency_of_all_who_were_due_meanwhile() -> None:
    time = VirtualTime()
    schedule = [k * 10 * MS for k in range(10)]
    found = _drive(time, QueueService(time, MS, stall_at=2, stall_ns=50 * MS), schedule)
    # 51 ms for the one that stalled, 42, 33, … for those behind it
    assert [round(ns / MS) for ns in found.latency_ns] == [1, 1, 51, 42, 33, 24, 15, 6, 1, 1]


def test_a_late_generator_is_seen_and_its_lateness_is_in_the_latency() -> None:
    time = VirtualTime(oversleep=lambda seconds: 3e-3 if seconds > 1e-3 else 0.0)
    found = _drive(time, QueueService(time, MS), [k * 10 * MS for k in range(1, 5)])
    for late, latency in zip(found.lateness_ns, found.latency_ns, strict=True):
        assert late == pytest.approx(3 * MS - SPIN_NS, abs=MS / 20)
        assert latency == late + MS


def test_it_sleeps_most_of_the_time_and_watches_the_clock_for_the_rest() -> None:
    time = VirtualTime()
    _drive(time, QueueService(time, MS), [k * 10 * MS for k in range(100)])
    assert time.slept > 0.95


def test_refused_queries_are_counted_and_stay_unanswered() -> None:
    time = VirtualTime()
    found = _drive(time, QueueService(time, 10 * MS, room=2), [0, MS, 2 * MS, 3 * MS])
    assert [ns == UNANSWERED for ns in found.latency_ns] == [False, False, True, True]
    assert found.refused == 2
    assert found.error is None


def test_it_stops_as_soon_as_the_bound_is_lost() -> None:
    time = VirtualTime()
    service = QueueService(time, 4 * MS)  # of 1 query/ms: each waits 3 ms longer than the last
    schedule = [k * MS for k in range(1000)]
    found = _drive(time, service, schedule, bound_ns=10 * MS, allowed=5)
    assert found.hopeless
    # latencies 4, 7, 10 | 13 …: the queries 3 to 8 miss, and that is known at 18 ms
    assert len(found.latency_ns) == pytest.approx(20, abs=2)
    assert UNANSWERED not in found.latency_ns  # what was sent is waited for


def test_exactly_as_many_misses_as_allowed_do_not_stop_it() -> None:
    schedule = [k * 10 * MS for k in range(50)]
    for allowed, hopeless in ((5, False), (4, True)):
        time = VirtualTime()
        # 51, 42, 33, 24, 15 | 6 ms: five of them over 10 ms
        service = QueueService(time, MS, stall_at=2, stall_ns=50 * MS)
        found = _drive(time, service, schedule, bound_ns=10 * MS, allowed=allowed)
        assert found.hopeless is hopeless
        assert (len(found.latency_ns) == 50) is not hopeless


def test_an_answer_that_is_an_error_ends_it() -> None:
    time = VirtualTime()
    service = QueueService(time, MS, fail_at=1)
    found = _drive(time, service, [k * 10 * MS for k in range(10)])
    assert isinstance(found.error, ArithmeticError)
    assert len(service.given) == 2
    assert found.latency_ns[1] == UNANSWERED


def test_a_mistake_in_the_sample_ends_it() -> None:
    class Refuses(QueueService):
        def submit(self, sample: object, *, deadline: float | None = None) -> Future[object]:
            raise ValueError(f"{sample} has the wrong shape, {deadline=}")

    time = VirtualTime()
    found = _drive(time, Refuses(time, MS), [0, MS])
    assert "wrong shape" in str(found.error)
    assert found.latency_ns == (UNANSWERED,)


def test_a_service_that_falls_silent_is_not_waited_for_without_end() -> None:
    time = VirtualTime()
    found = _drive(time, QueueService(time, MS, silent_from=2), [0, 10 * MS, 20 * MS])
    assert [ns == UNANSWERED for ns in found.latency_ns] == [False, False, True]
    assert found.error is None
