"""Warm-up, slices, rounds and interrupts, by a clock that only the calls move."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from repr_bench.measuring.measure import Measured, Plan, garbage_frozen, measure

MS = 1_000_000


class World:
    """A clock, and calls that take as long as they are told."""

    def __init__(self) -> None:
        self.now = 0
        self.called: list[str] = []

    def clock(self) -> int:
        return self.now

    def call(self, name: str, milliseconds: float | Callable[[int], float]) -> Callable[[], None]:
        def run() -> None:
            number = self.called.count(name)
            self.called.append(name)
            duration = milliseconds(number) if callable(milliseconds) else milliseconds
            self.now += round(duration * MS)

        return run

    def measure(self, plan: Plan, *calls: Callable[[], object]) -> Measured:
        return measure(calls, plan, clock=self.clock)

    def slices(self) -> list[str]:
        """The names in the order of their slices."""
        return [a for a, b in zip(self.called, ["", *self.called], strict=False) if a != b]


def test_each_row_gets_its_seconds_and_samples() -> None:
    world = World()
    plan = Plan(seconds=3.0, samples=30, rounds=12)
    fast, slow = world.measure(plan, world.call("fast", 1), world.call("slow", 400)).timings
    for timing in (fast, slow):
        assert len(timing.rounds) == plan.rounds
        assert sum(map(sum, timing.rounds)) >= 3.0e9
        assert sum(map(len, timing.rounds)) >= 30
    # 12 slices of 250 ms at 1 ms; 12 slices of ceil(30 / 12) calls at 400 ms
    assert [len(samples) for samples in fast.rounds] == [250] * 12
    assert [len(samples) for samples in slow.rounds] == [3] * 12
    assert set(fast.rounds[0]) == {MS}


def test_rounds_interleave_forwards_and_backwards() -> None:
    world = World()
    plan = Plan(seconds=0.3, samples=1, rounds=4)
    world.measure(plan, *(world.call(name, 20) for name in "abc"))
    # the warm-ups, then a b c, c b a, a b c, c b a: neighbours of one name run together
    assert "".join(world.slices()) == "abc" + "abcbabcba"


def test_a_drifting_machine_hits_all_alike() -> None:
    world = World()
    calls = [world.call(name, lambda _n: 5 * (1 + world.now / 100e9)) for name in "ab"]
    a, b = world.measure(Plan(), *calls).timings
    means = [sum(map(sum, t.rounds)) / sum(map(len, t.rounds)) for t in (a, b)]
    assert means[0] == pytest.approx(means[1], rel=0.003)
    assert sum(a.rounds[-1]) / len(a.rounds[-1]) > 1.03 * sum(a.rounds[0]) / len(a.rounds[0])


def test_first_call_of_a_slice_is_not_counted() -> None:
    world = World()
    previous: list[str] = []

    def call(name: str) -> Callable[[], None]:
        def run() -> None:
            cold = bool(previous) and previous[-1] != name
            previous.append(name)
            world.now += (50 if cold else 10) * MS

        return run

    timings = world.measure(Plan(seconds=1.2, samples=12), call("a"), call("b")).timings
    assert {s for t in timings for samples in t.rounds for s in samples} == {10 * MS}


def test_warm_up_goes_on_until_two_windows_agree() -> None:
    world = World()
    timing = world.measure(
        Plan(), world.call("x", lambda n: 100 / (1 + n) if n < 30 else 2)
    ).timings[0]
    assert timing.steady
    assert timing.warmup[0] == 100 * MS
    assert len(timing.warmup) > 30  # and not before it stopped falling
    assert all(sample == 2 * MS for samples in timing.rounds for sample in samples)


def test_warm_up_is_bounded_and_says_that_it_was_not_steady() -> None:
    world = World()
    slower_by_the_minute = world.call("x", lambda n: 10 * 1.05**n)
    timing = world.measure(Plan(warmup_seconds=0.5, samples=1, seconds=0.1), slower_by_the_minute)
    warmup = timing.timings[0].warmup
    assert not timing.timings[0].steady
    assert 0.5e9 <= sum(warmup) < 1.0e9


def test_even_a_slow_call_is_warmed_up_in_two_windows() -> None:
    world = World()
    timing = world.measure(Plan(warmup_seconds=0.5), world.call("x", 1000)).timings[0]
    assert timing.warmup == [1000 * MS] * 4
    assert timing.steady


def test_a_call_that_raises_is_dropped_and_the_others_go_on() -> None:
    world = World()

    def broken_from_the_start() -> None:
        raise RuntimeError("no such kernel")

    later = world.call("later", 10)

    def breaks_later() -> None:
        later()
        if world.called.count("later") > 40:
            raise ValueError("overflow")

    good, first, second = world.measure(
        Plan(), world.call("good", 10), broken_from_the_start, breaks_later
    ).timings
    assert str(first.error) == "no such kernel"
    assert first.rounds == []
    assert str(second.error) == "overflow"
    assert 0 < len(second.rounds) < Plan().rounds
    assert world.called.count("later") == 41
    assert good.error is None
    assert len(good.rounds) == Plan().rounds


@pytest.mark.parametrize("at", [3, 40, 300])
def test_ctrl_c_keeps_what_was_counted(at: int) -> None:
    world = World()
    work = [world.call(name, 10) for name in "ab"]

    def interrupted(index: int) -> Callable[[], None]:
        def run() -> None:
            if len(world.called) == at:
                raise KeyboardInterrupt
            work[index]()

        return run

    found = world.measure(Plan(), interrupted(0), interrupted(1))
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
    work = world.call("x", 100)

    def interrupted_at_the_sixth() -> None:
        if len(world.called) == 6:
            raise KeyboardInterrupt
        work()

    # a warm-up of four calls, a slice of one uncounted and one counted call, and the next slice
    plan = Plan(seconds=0.1, samples=1, rounds=2, warmup_seconds=0)
    found = world.measure(plan, interrupted_at_the_sixth)
    assert found.interrupted
    assert found.timings[0].rounds == [[100 * MS]]


def test_progress_reaches_what_it_foresaw() -> None:
    world = World()
    heard: list[tuple[float, float]] = []
    calls = [world.call("a", 10), world.call("b", 700)]
    plan = Plan(seconds=3.0, rounds=12)
    measure(calls, plan, clock=world.clock, report=lambda d, t: heard.append((d, t)))
    done = [d for d, _ in heard]
    assert len(heard) == 24
    assert done == sorted(done)
    assert done[-1] == pytest.approx(heard[-1][1])
    # one uncounted call and the counted ones, a slice: 0.26 s and 2.8 s
    assert heard[-1][1] == pytest.approx(12 * (0.26 + 4 * 0.7), rel=0.01)


def test_nothing_to_measure_is_no_error() -> None:
    assert measure([], Plan()) == Measured((), interrupted=False)


def test_real_clock_measures_real_time() -> None:
    import time

    plan = Plan(seconds=0.06, samples=12, warmup_seconds=0.01)
    timing = measure([lambda: time.sleep(0.002)], plan).timings[0]
    assert all(sample >= 2 * MS for samples in timing.rounds for sample in samples)


def test_between_is_called_around_every_round() -> None:
    world = World()
    called: list[int] = []
    plan = Plan(seconds=0.1, samples=1, rounds=3, warmup_seconds=0)
    measure(
        [world.call("x", 100)],
        plan,
        clock=world.clock,
        between=lambda: called.append(len(world.called)),
    )
    assert called == [4, 6, 8, 10]  # a warm-up of four, then one uncounted and one counted call
    measure([], plan, between=lambda: called.append(-1))
    assert -1 not in called


def test_garbage_is_collected_before_and_frozen_meanwhile() -> None:
    def interrupted() -> None:
        with garbage_frozen():
            assert gc.get_freeze_count() > 0
            raise KeyboardInterrupt

    gc.unfreeze()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert gc.get_freeze_count() == 0
