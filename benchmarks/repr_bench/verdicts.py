"""Faster, slower, the same, or cannot tell: the verdict on two runs of one row.

Samples of one round resemble each other and the machine drifts, so a round is one observation:
the logarithm of its median. Two runs are compared by :func:`repr_bench.statistics.shift`, a
trimmed mean's t interval that allows for autocorrelation, at ``CONFIDENCE``.

Between two runs the machine may have changed, which nothing inside a run can show. So each run
carries readings of the machine itself: the yardstick's two parts, and how long the process had to
wait for a CPU. A change of the machine hits one network wholly and another not at all; dividing by
it would be as wrong as leaving it out. So the interval is widened to hold both: the shift as it
is, and the shift less the machine's, for every reading that moved. A verdict then holds whatever
share of the machine's change the network saw, and where it does not hold, the reason says what
the machine did. Long calls of a process that waits for CPUs more than ``MOST_WAITING`` of its time
are not judged at all: each wait costs warm caches too, which no counter tells.

- *slower*: the interval lies above 1, and even the nearest estimate is ``least`` or more away
- *faster*: the same below 1
- *same*: the interval lies within ``least`` of 1 on both sides
- *cannot tell*: everything else

What one process of each cannot show is what differs from process to process on one and the same
machine (where memory came to lie, say); ``least`` stands against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repr_bench.statistics import FEWEST_ROUNDS, Interval, Shift, shift

CONFIDENCE = 0.99
MACHINE_CONFIDENCE = 0.95
"""From which on a reading of the machine counts as moved; less, for this only widens."""
NOISY_PERCENT = 5.0
MOST_WAITING = 0.1
COPIES_FROM_BYTES = 2 * 2**20
"""The copy counts for larger graphs: smaller ones stay in a core's own cache."""

Verdict = Literal["faster", "slower", "same", "cannot tell", "only old", "only new"]

FORMULA = (
    f"Verdict: log medians of rounds, trimmed means by Yuen and Welch's t with an allowance for "
    f"autocorrelation, {CONFIDENCE:.0%} interval; widened by what the machine itself did between "
    f"the runs (yardstick, waiting for a CPU)."
)


@dataclass(frozen=True)
class MachineShift:
    """How a reading of the machine changed: the new run's time over the old one's.

    ``interval`` is None for what was counted and not timed. ``moved`` says whether the change is
    more than its own spread, and so widened the intervals of the rows that it may have hit.
    """

    what: str
    ratio: float
    interval: Interval | None
    moved: bool


@dataclass(frozen=True)
class RowVerdict:
    """The verdict on one row, matched by label, precision and batch.

    ``ratio`` is the new latency over the old one, ``interval`` holds it at ``confidence``,
    machine included; None where a run has no or too few rounds of the row. ``reason`` says why
    nothing can be told, ``warnings`` what else differs between the runs.
    """

    label: str
    precision: str | None
    batch: int | None
    verdict: Verdict
    ratio: float | None
    interval: Interval | None
    reason: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """All verdicts on a run, as against the run in the file ``old``, which began ``started``."""

    old: str
    started: str
    least_percent: float
    confidence: float
    machine: tuple[MachineShift, ...]
    warnings: tuple[str, ...]
    rows: tuple[RowVerdict, ...]


class Judged(NamedTuple):
    """What :func:`judge` found, for each pair of runs in a batch; all in logarithms.

    ``verdict`` is +1 slower, -1 faster, 0 same, NaN cannot tell. ``low`` and ``high`` are the
    ends of the interval with the machine's change, ``half`` half its width without.
    """

    verdict: NDArray[np.float64]
    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    half: NDArray[np.float64]


def judge(
    old: ArrayLike,
    new: ArrayLike,
    *,
    machine: Sequence[Shift] = (),
    changes: Sequence[ArrayLike] = (),
    least: float = 0.02,
) -> Judged:
    """Compare runs of log medians of rounds, ``(..., n)`` and ``(..., m)``.

    ``machine`` are the shifts of the yardstick's parts, ``changes`` the log ratios by which all
    else that is known of the machine lengthened latencies, infinite where that is beyond
    reckoning; both broadcast against ``...``. ``least`` is the smallest change that counts, 0.02
    for 2 %.
    """
    found = shift(old, new)
    half = found.half_width(CONFIDENCE)
    margin = np.log1p(least)
    nearest, farthest = found.value, found.value
    low, high = found.value - half, found.value + half
    hopeless = np.zeros(found.value.shape, bool)
    explanations: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for change in changes:
        known = np.isfinite(change)
        hopeless = hopeless | ~known
        explanations.append((np.where(known, change, 0.0), half))
    for reading in machine:
        both = Shift(
            found.value,
            found.variance + reading.variance,
            np.minimum(found.freedom, reading.freedom),
            found.autocorrelation,
        )
        moved = has_moved(reading)
        explanations.append(
            (np.where(moved, reading.value, 0.0), np.where(moved, both.half_width(CONFIDENCE), 0.0))
        )
    for moved_by, width in explanations:
        left = found.value - moved_by
        nearest, farthest = np.minimum(nearest, left), np.maximum(farthest, left)
        low, high = np.minimum(low, left - width), np.maximum(high, left + width)
    verdict = np.full(low.shape, np.nan)
    verdict[(low > -margin) & (high < margin)] = 0
    verdict[(low > 0) & (nearest >= margin)] = 1
    verdict[(high < 0) & (farthest <= -margin)] = -1
    verdict[np.broadcast_to(hopeless, verdict.shape)] = np.nan
    return Judged(verdict, found.value, low, high, np.broadcast_to(half, low.shape))


def has_moved(reading: Shift) -> NDArray[np.bool_]:
    """Whether the machine's own change is more than its spread."""
    return np.abs(reading.value) > reading.half_width(MACHINE_CONFIDENCE)


def waiting_change(old: ArrayLike, new: ArrayLike) -> NDArray[np.float64]:
    """The change that waiting makes, from the shares of time waited for a CPU in both runs.

    Infinite where either is more than ``MOST_WAITING``.
    """
    first, second = np.asarray(old, float), np.asarray(new, float)
    change = np.log1p(-np.minimum(first, 0.999)) - np.log1p(-np.minimum(second, 0.999))
    return np.where(np.maximum(first, second) > MOST_WAITING, np.inf, change)


def log_medians(rounds: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """The logarithm of each round's median; samples are above 0, as a clock's are."""
    return np.log([max(float(np.median(samples)), 1.0) for samples in rounds])


def resolution_percent(rounds: Sequence[Sequence[int]]) -> float | None:
    """By how much a row would have to change for this and an equally noisy run to show it.

    Half the interval that a comparison of two such runs has, in percent; None for fewer than
    ``FEWEST_ROUNDS`` rounds. A row is *noisy* where this is more than ``NOISY_PERCENT``.
    """
    if len(rounds) < FEWEST_ROUNDS:
        return None
    medians = log_medians(rounds)
    return float(100 * np.expm1(shift(medians, medians).half_width(CONFIDENCE)))


def spread_percent(rounds: Sequence[Sequence[int]]) -> float:
    """How far the slowest round's median lies above the fastest one's, in percent."""
    medians = log_medians(rounds)
    return float(100 * np.expm1(medians.max() - medians.min()))
