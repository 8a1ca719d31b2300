"""Deadlines under overload: who would be late is told at once, and what is run is answered in time."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fake_session import FakeSession, batcher, occupied, sample, sizes
from refusals import refuses

from repr_runtime import Batcher, errors
from repr_runtime.batching.pace import Pace


def pace_of(runs: dict[int, float], instances: int = 1) -> Pace:
    made = Pace(instances)
    for samples, seconds in runs.items():
        made.ran(samples, seconds)
    return made


@contextmanager
def paced(session: FakeSession, runs: dict[int, float]) -> Iterator[Batcher]:
    """A batcher whose runs took as long as ``runs`` says of their samples."""
    with batcher(session, max_batch=8, max_delay=0) as made:
        made._pace = pace_of(runs)
        yield made


def test_a_run_takes_as_long_as_the_last_ones_of_about_its_size() -> None:
    assert Pace(1).expected(8) == 0  # nothing is known yet
    made = pace_of({1: 0.010, 8: 0.040})
    assert made.expected(1) == pytest.approx(1.5 * 0.010)
    assert made.expected(8) == pytest.approx(1.5 * 0.040)
    assert made.expected(12) == pytest.approx(1.5 * 0.060)
    assert made.expected(64) == pytest.approx(1.5 * 0.320)  # as the nearest that is known
    for _ in range(40):
        made.ran(8, 0.004)
    assert made.expected(8) == pytest.approx(1.5 * 0.004, rel=0.01)


def test_an_answer_takes_what_is_before_it_and_its_own_run() -> None:
    made = pace_of({1: 0.010}, instances=2)
    assert made.takes(1, 1000, now=0.0) == 0  # nothing is run, so that nothing is before it
    made.begun(1, now=0.0)
    assert made.takes(1, 0, now=0.0) == pytest.approx(1.5 * 0.010)  # on the other instance
    assert made.takes(1, 8, now=0.0) == pytest.approx(2.5 * (0.010 + 8 * 0.010) / 2 + 1.5 * 0.010)
    assert made.takes(1, 8, now=5.0) == pytest.approx(2.5 * 8 * 0.010 / 2 + 1.5 * 0.010)
    made.ended()
    assert made.takes(1, 8, now=5.0) == 0


def test_a_request_that_would_be_late_is_refused_at_once() -> None:
    session = FakeSession()
    with paced(session, {1: 1.0}) as made, occupied(session, made):
        soon, later = time.monotonic() + 2, time.monotonic() + 100
        words = ("1 samples wait", "an answer may take 2", "allow more time")
        waiting = [made.submit(sample(0), deadline=later)]
        with refuses(errors.QueueFullError, *words):
            made.submit(sample(1), deadline=soon)
        with refuses(errors.QueueFullError, *words):
            made.require_room(deadline=soon)
        made.require_room(deadline=later)
        made.require_room()
        waiting.append(made.submit(sample(2)))
        assert made.stats().refused == 2
    assert all(future.done() for future in waiting)


def test_one_slow_run_is_not_believed_for_ever() -> None:
    session = FakeSession()
    with paced(session, {1: 1000.0}) as made:
        for _ in range(30):  # each has nobody before it
            made.run(sample(3), timeout=10)
        assert made._pace.expected(1) < 10


def test_a_batch_is_as_large_as_its_deadlines_allow() -> None:
    session = FakeSession()
    with paced(session, {1: 0.1}) as made:
        with occupied(session, made):
            made._pace = Pace(1)  # all are taken on
            tight = time.monotonic() + 0.7
            futures = [made.submit(sample(i), deadline=tight) for i in range(4)]
            futures += [made.submit(sample(i), deadline=tight + 60) for i in range(4, 8)]
            made._pace = pace_of({1: 0.1, 2: 0.2, 4: 0.4})
        assert [future.result(10)["sum"] for future in futures] == [-2 * i for i in range(8)]
    assert sizes(session)[1] in (3, 4)  # 0.15 s each, of somewhat less than 0.7
    assert sum(sizes(session)[1:]) == 8


def test_what_cannot_be_in_time_any_more_leaves_its_place_to_what_can() -> None:
    session = FakeSession()
    with paced(session, {1: 0.1}) as made:
        with occupied(session, made):
            made._pace = Pace(1)
            now = time.monotonic()
            hopeless = [made.submit(sample(i), deadline=now + 5) for i in range(3)]
            good = made.submit(sample(7), deadline=now + 60)
            made._pace = pace_of({1: 10.0})
        assert good.result(10)["sum"] == -14
        for future in hopeless:
            with refuses(errors.DeadlineExceededError, "no answer within 5 s"):
                future.result(1)
    assert sizes(session)[1:] == [1]
    assert made.stats().expired == 3


def test_where_all_are_hopeless_the_newest_is_run() -> None:
    session = FakeSession()
    with paced(session, {1: 0.1}) as made:
        with occupied(session, made):
            made._pace = Pace(1)
            futures = [made.submit(sample(i), deadline=time.monotonic() + 30) for i in range(3)]
            made._pace = pace_of({1: 100.0})
        assert futures[2].result(10)["sum"] == -4
        for future in futures[:2]:
            with refuses(errors.DeadlineExceededError):
                future.result(1)


def test_without_deadlines_nothing_is_refused_or_cut() -> None:
    session = FakeSession()
    with paced(session, {1: 1000.0}) as made:
        with occupied(session, made):
            futures = [made.submit(sample(i)) for i in range(8)]
        assert [future.result(10)["sum"] for future in futures] == [-2 * i for i in range(8)]
    assert sizes(session)[1:] == [8]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it of each thread")
def test_the_threads_that_run_batches_step_back() -> None:
    session = FakeSession()
    with batcher(session, nice=7) as made, occupied(session, made):
        found = [os.getpriority(os.PRIO_PROCESS, w.native_id or 0) for w in made._workers]
        assert found == [7]
    with refuses(errors.OptionError, "nice must be a whole number from 0 to 19, got 20"):
        batcher(session, nice=20)
