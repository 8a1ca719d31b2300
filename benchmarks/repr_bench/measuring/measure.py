"""Raw samples: calls timed one by one, warmed up until steady, interleaved by rounds.

Each round gives every call a short slice, in turn forwards and backwards through the
list, so that a machine which slows down slows all of them alike. The first call of a
slice is not counted: it pays for what the call before it left in the caches. Calls of
100 ms and more are all counted: there that is less than a hundredth.

Where memory comes to lie makes a session faster or slower for as long as it is open. So
what is called may be opened anew every few rounds, and such luck is spread between rounds.
"""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from repr_bench.errors import above_0, sentence

Call = Callable[[], object]
Clock = Callable[[], int]
Report = Callable[[float, float], None]
"""Told after each slice: seconds of measuring done, and seconds in all as now foreseen."""

ROUNDS_OF_AN_OPENING = 4
"""So many rounds in a row are of one opening: 4 openings in the 16 rounds of a plan."""
REOPENED_CALLS = 3
"""Calls of what was just opened that are not counted, nor is the first of its slice."""
LONG_NS = 100_000_000
WINDOW_SECONDS = 0.05
WINDOW_CALLS = 2
STEADY_WITHIN = 0.05


@dataclass(frozen=True)
class Plan:
    """How much is measured of each call: at least ``seconds`` and at least ``samples``.

    ``rounds`` slices share both equally. ``warmup_seconds`` bounds the warm-up, but for its
    first two windows, which are always run.
    """

    seconds: float = 4.0
    samples: int = 32
    rounds: int = 16
    warmup_seconds: float = 2.0

    def __post_init__(self) -> None:
        above_0(seconds=self.seconds, samples=self.samples, rounds=self.rounds)

    @property
    def slice_ns(self) -> float:
        """Nanoseconds that a slice counts at least."""
        return self.seconds * 1e9 / self.rounds

    @property
    def slice_calls(self) -> int:
        """Calls that a slice counts at least."""
        return -(-self.samples // self.rounds)


@dataclass
class Timing:
    """What was seen of one call, every duration in whole nanoseconds.

    ``steady`` says whether two windows of the warm-up in a row had medians within 5 %.
    ``error`` is what the call raised, after which it was not called again.
    """

    warmup: list[int] = field(default_factory=list)
    steady: bool = False
    rounds: list[list[int]] = field(default_factory=list)
    error: Exception | None = None

    def outcome(self, plan: Plan) -> tuple[Literal["measured", "failed", "interrupted"], str]:
        """What became of the row that was timed by ``plan``, and why it was not measured."""
        if self.error is not None:
            return "failed", sentence(self.error)
        last = self.rounds[-1] if len(self.rounds) == plan.rounds else []
        if len(last) >= plan.slice_calls and sum(last) >= plan.slice_ns:
            return "measured", ""
        return "interrupted", f"interrupted after {len(self.rounds)} of {plan.rounds} rounds"


@dataclass(frozen=True)
class Measured:
    """The timings in the order of the calls, and whether Ctrl-C ended them early."""

    timings: tuple[Timing, ...]
    interrupted: bool


def measure(
    calls: Sequence[Call],
    plan: Plan,
    *,
    clock: Clock = time.perf_counter_ns,
    report: Report = lambda _done, _total: None,
    between: Callable[[Callable[[], None]], None] = lambda reopen: reopen(),
    reopened: Sequence[Callable[[], Call]] = (),
) -> Measured:
    """Warm every call up, then time them all by rounds.

    ``clock`` counts nanoseconds. ``between`` is called before each round and after the last
    (not for an empty list of calls), with what it is to call at a moment that is not counted:
    after every ``ROUNDS_OF_AN_OPENING`` rounds that takes each of ``reopened``, in the order of
    ``calls`` where given, in place of the call so far. A call that raises is dropped with its error, the others
    go on. A KeyboardInterrupt ends the measurement and keeps all that was counted.
    """
    timings = tuple(Timing() for _ in calls)
    rows = list(zip(calls, timings, strict=True))
    number = 0

    def reopen() -> None:
        if number and number % ROUNDS_OF_AN_OPENING == 0 and number < plan.rounds:
            for index, again in enumerate(reopened):
                timing = rows[index][1]
                if timing.error is None:
                    with _kept(timing):
                        rows[index] = again(), timing
                        for _ in range(REOPENED_CALLS):
                            rows[index][0]()

    try:
        for call, timing in rows:
            with _kept(timing):
                _warm_up(call, timing, plan, clock)
        expected = [_slice_seconds(timing, plan) for timing in timings]
        total, done = sum(expected) * plan.rounds, 0.0
        for number in range(plan.rounds if rows else 0):
            between(reopen)
            for index in range(len(rows)) if number % 2 == 0 else reversed(range(len(rows))):
                call, timing = rows[index]
                if timing.error is None:
                    with _kept(timing):
                        _slice(call, timing, plan, clock)
                done += expected[index]
                report(done, total)
        if rows:
            number = plan.rounds
            between(reopen)
    except KeyboardInterrupt:
        return Measured(timings, interrupted=True)
    finally:
        for timing in timings:  # an interrupt may leave a slice without a sample
            timing.rounds = [samples for samples in timing.rounds if samples]
    return Measured(timings, interrupted=False)


def took(call: Call, clock: Clock) -> int:
    """The nanoseconds of one call, by ``clock``."""
    before = clock()
    call()
    return clock() - before


@contextlib.contextmanager
def garbage_frozen() -> Iterator[None]:
    """Garbage is collected before, and nothing that was there by then is looked through again.

    Collecting what imports and preparations left is not part of a network's latency.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def _kept(timing: Timing) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a network raises is that row's result
        timing.error = error


def _warm_up(call: Call, timing: Timing, plan: Plan, clock: Clock) -> None:
    start, before = clock(), None
    while True:
        window: list[int] = []
        _time(call, window, WINDOW_CALLS, WINDOW_SECONDS * 1e9, clock)
        timing.warmup += window
        median = statistics.median(window)
        if before is not None:
            timing.steady = abs(median - before) <= STEADY_WITHIN * before
            if timing.steady or clock() - start >= plan.warmup_seconds * 1e9:
                return
        before = median


def _slice(call: Call, timing: Timing, plan: Plan, clock: Clock) -> None:
    samples: list[int] = []
    timing.rounds.append(samples)
    if statistics.median(timing.warmup) < LONG_NS:
        call()
    _time(call, samples, plan.slice_calls, plan.slice_ns, clock)


def _time(call: Call, samples: list[int], calls: int, nanoseconds: float, clock: Clock) -> None:
    """Add to ``samples`` until there are so many ``calls``, and so long."""
    counted = 0
    while counted < nanoseconds or len(samples) < calls:
        samples.append(took(call, clock))
        counted += samples[-1]


def _slice_seconds(timing: Timing, plan: Plan) -> float:
    if timing.error is not None:
        return 0.0
    call_ns = statistics.median(timing.warmup)
    uncounted_ns = call_ns if call_ns < LONG_NS else 0.0
    return (uncounted_ns + max(plan.slice_ns, plan.slice_calls * call_ns)) / 1e9
