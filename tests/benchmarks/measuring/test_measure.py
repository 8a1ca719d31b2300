"""Warm-up, slices, rounds and interrupts, by a clock that only the calls move."""

import gc
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby
from typing import Any
from unittest.mock import Mock

import pytest
from fake_queue import MS, World

from repr_bench.measuring.measure import Measured, Plan, garbage_frozen, measure


def timed(world: World, plan: Plan, *calls: Callable[[], object], **how: Any) -> Measured:
    return measure(calls, plan, clock=world.clock, **how)


def test_each_row_gets_its_seconds_and_samples() -> None:
    world = World()
    plan = Plan(seconds=3.0, samples=30, rounds=12)
    fast, slow = timed(world, plan, world.call("fast", 1), world.call("slow", 400)).timings
    # 12 slices of 250 ms at 1 ms; 12 slices of ceil(30 / 12) calls at 400 ms
    assert [len(samples) for samples in fast.rounds] == [250] * 12
    assert [len(samples) for samples in slow.rounds] == [3] * 12
    assert set(fast.rounds[0]) == {MS}


def test_rounds_interleave_forwards_and_backwards() -> None:
    world = World()
    plan = Plan(seconds=0.3, samples=1, rounds=4)
    timed(world, plan, *(world.call(name, 20) for name in "abc"))
    # the warm-ups, then a b c, c b a, a b c, c b a: neighbours of one name run together
    assert "".join(name for name, _ in groupby(world.called)) == "abc" + "abcbabcba"


def test_first_call_of_a_slice_is_not_counted() -> None:
    world = World()

    def call(name: str) -> Callable[[], None]:
        return world.call(name, lambda _: 50 if [name] * 2 != world.called[-2:] else 10)

    timings = timed(world, Plan(seconds=1.2, samples=12), call("a"), call("b")).timings
    assert {s for t in timings for samples in t.rounds for s in samples} == {10 * MS}


def test_of_long_calls_all_are_counted() -> None:
    world = World()
    (timing,) = timed(world, Plan(seconds=0.4, samples=4, rounds=4), world.call("x", 100)).timings
    assert len(world.called) == len(timing.warmup) + 4


def test_warm_up_goes_on_until_two_windows_agree() -> None:
    world = World()
    timing = timed(
        world, Plan(), world.call("x", lambda n: 100 / (1 + n) if n < 30 else 2)
    ).timings[0]
    assert timing.steady
    assert timing.warmup[0] == 100 * MS
    assert len(timing.warmup) > 30  # and not before it stopped falling
    assert all(sample == 2 * MS for samples in timing.rounds for sample in samples)


def test_warm_up_is_bounded_and_says_that_it_was_not_steady() -> None:
    world = World()
    slower_by_the_minute = world.call("x", lambda n: 10 * 1.05**n)
    plan = Plan(warmup_seconds=0.5, samples=1, seconds=0.1)
    (timing,) = timed(world, plan, slower_by_the_minute).timings
    assert not timing.steady
    assert 0.5e9 <= sum(timing.warmup) < 1.0e9


def test_even_a_slow_call_is_warmed_up_in_two_windows() -> None:
    world = World()
    timing = timed(world, Plan(warmup_seconds=0.5), world.call("x", 1000)).timings[0]
    assert timing.warmup == [1000 * MS] * 4
    assert timing.steady


def test_a_call_that_raises_is_dropped_and_the_others_go_on() -> None:
    world = World()

    broken_from_the_start = Mock(side_effect=RuntimeError("no such kernel"))
    later = world.call("later", 10)

    def breaks_later() -> None:
        later()
        if world.times["later"] > 40:
            raise ValueError("overflow")

    calls = world.call("good", 10), broken_from_the_start, breaks_later
    good, first, second = timed(world, Plan(), *calls).timings
    assert (str(first.error), first.rounds) == ("no such kernel", [])
    assert str(second.error) == "overflow"
    assert 0 < len(second.rounds) < Plan().rounds
    assert world.times["later"] == 41
    assert (good.error, len(good.rounds)) == (None, Plan().rounds)


@pytest.mark.parametrize("at", [3, 40, 300])
def test_ctrl_c_keeps_what_was_counted(at: int) -> None:
    world = World()
    world.stop_at = at
    found = timed(world, Plan(), world.call("a", 10), world.call("b", 10))
    assert found.interrupted
    counted = sum(len(samples) for t in found.timings for samples in t.rounds)
    warmup = sum(len(t.warmup) for t in found.timings)
    slices = sum(len(t.rounds) for t in found.timings)
    assert counted <= at - warmup
    # every call but the first of a slice, the interrupted one, and a warm-up window's, is kept
    assert counted >= at - warmup - slices - 10
    assert all(samples for t in found.timings for samples in t.rounds)
    if at == 300:
        assert counted > 200


def test_ctrl_c_before_the_first_sample_of_a_slice_leaves_no_empty_round() -> None:
    world = World()
    world.stop_at = 6
    # a warm-up of four calls, a slice of one uncounted and one counted call, and the next slice
    plan = Plan(seconds=0.1, samples=1, rounds=2, warmup_seconds=0)
    found = timed(world, plan, world.call("x", 50))
    assert found.interrupted
    assert found.timings[0].rounds == [[50 * MS]]


def test_progress_reaches_what_it_foresaw() -> None:
    world = World()
    heard: list[tuple[float, float]] = []
    plan = Plan(seconds=3.0, rounds=12)
    calls = world.call("a", 10), world.call("b", 700)
    timed(world, plan, *calls, report=lambda d, t: heard.append((d, t)))
    done = [d for d, _ in heard]
    assert len(heard) == 24
    assert done == sorted(done)
    assert done[-1] == pytest.approx(heard[-1][1])
    # one uncounted call and the counted ones, a slice, but of long calls all count: 0.26 s, 2.1 s
    assert heard[-1][1] == pytest.approx(12 * (0.26 + 3 * 0.7), rel=0.01)


def test_real_clock_measures_real_time() -> None:
    plan = Plan(seconds=0.06, samples=12, warmup_seconds=0.01)
    timing = measure([lambda: time.sleep(0.002)], plan).timings[0]
    assert min(map(min, timing.rounds)) >= 2 * MS


def test_between_is_called_around_every_round() -> None:
    world = World()
    called: list[int] = []
    plan = Plan(seconds=0.1, samples=1, rounds=3, warmup_seconds=0)
    timed(
        world, plan, world.call("x", 50), between=lambda _reopen: called.append(len(world.called))
    )
    assert called == [4, 6, 8, 10]  # a warm-up of four, then one uncounted and one counted call
    nothing = measure([], plan, between=lambda _reopen: called.append(-1))
    assert (nothing, -1 in called) == (Measured((), interrupted=False), False)


def test_what_is_called_is_opened_anew_every_fourth_round_and_luck_is_spread() -> None:
    world = World()
    lucks = iter([10.0, 11.0, 12.0])
    again = lambda: world.call("x", next(lucks))  # noqa: E731
    plan = Plan(seconds=0.16, samples=16)
    found = timed(world, plan, world.call("x", 13), reopened=[again])
    (timing,) = found.timings
    assert [samples[0] / MS for samples in timing.rounds] == [13] * 4 + [10] * 4 + [11] * 4 + [
        12
    ] * 4
    assert next(lucks, None) is None  # and not once more after the last round


def test_what_cannot_be_opened_again_is_that_rows_failure() -> None:
    world = World()

    def gone() -> Callable[[], None]:
        raise OSError("the file is gone")

    def again() -> Callable[[], None]:
        return world.call("y", 10)

    plan = Plan(seconds=0.16, samples=16)
    calls = world.call("x", 10), world.call("y", 10)
    x, y = timed(world, plan, *calls, reopened=[gone, again]).timings
    assert (x.outcome(plan), len(x.rounds)) == (("failed", "the file is gone"), 4)
    assert (y.outcome(plan), len(y.rounds)) == (("measured", ""), 16)


def test_garbage_is_collected_before_and_frozen_meanwhile() -> None:
    gc.unfreeze()
    with suppress(KeyboardInterrupt), garbage_frozen():
        assert gc.get_freeze_count() > 0
        raise KeyboardInterrupt
    assert gc.get_freeze_count() == 0
