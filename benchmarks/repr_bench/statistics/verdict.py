"""Faster, slower, the same, or cannot tell: the verdict on two runs of one row.

Samples of one round resemble each other and the machine drifts, so a round is one observation:
the logarithm of its median. Two runs are compared by :func:`repr_bench.statistics.shift.shift`, a
trimmed mean's t interval that allows for autocorrelation, at ``CONFIDENCE``; the slowest third of
the rounds is left out. Before that :func:`steadied` takes out a drift within the run, as far as
the reference load drifted too: it is no noise, and would hide a change many times smaller.

Between two runs the machine may have changed, which nothing inside a run can show. So each run
carries readings of the machine itself: the reference load's two parts, and how long the process had to
wait for a CPU. A change of the machine hits one network wholly and another not at all; dividing by
it would be as wrong as leaving it out. So the interval is widened to hold both: the shift as it
is, and the shift less the machine's, for every reading. A verdict then holds whatever share of the
machine's change the network saw, and where it does not hold, the reason says what the machine
did. (Taking only readings that moved by more than their own spread was tried, and gave 12 % of
false verdicts on a drifting machine, whose readings spread widely for the very reason that
matters.) The readings are

- the reference load's matrix product, and for graphs beyond a core's own cache its memory copy;
- what waiting for a CPU added to the median, see :func:`waiting_excess`;
- the GPU's clock, for what runs on a GPU.

The verdicts:

- *slower*: the interval lies above 1, and even the nearest estimate is ``least`` or more away
- *faster*: the same below 1
- *same*: the interval lies within ``least`` of 1 on both sides
- *cannot tell*: everything else

What one process of each cannot show is what differs from process to process on one and the same
machine (where memory came to lie, say); ``least`` stands against it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repr_bench.statistics.intervals import percentile
from repr_bench.statistics.shift import FEWEST_ROUNDS, shift, trend, without_trend

CONFIDENCE = 0.99
NOISY_PERCENT = 5.0
"""A row is noisy where a change of so much would not show nearly always."""
MOST_WAITING = 0.1
MOST_OF_TREND = 1.5
"""A network may feel a change of the machine more than the reference load does, whose own trend is
known no better than its timings spread."""
COPIES_FROM_BYTES = 2 * 2**20
"""The copy counts for larger graphs: smaller ones stay in a core's own cache."""

FORMULA = (
    f"Verdict: log medians of rounds, less a drift that the reference load shows too; means without the "
    f"slowest third by Yuen and Welch's t with an allowance for autocorrelation, {CONFIDENCE:.0%} "
    f"interval; widened by what the machine itself did between the runs (reference load, waiting for a "
    f"CPU)."
)


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
    old: ArrayLike, new: ArrayLike, *, machine: Sequence[ArrayLike] = (), least: float = 0.02
) -> Judged:
    """Compare runs of log medians of rounds, ``(..., n)`` and ``(..., m)``.

    ``machine`` are the log ratios by which the machine itself became slower as each of its
    readings has it, infinite where that is beyond reckoning; they broadcast against ``...``.
    ``least`` is the smallest change that counts, 0.02 for 2 %.
    """
    found = shift(old, new)
    half = found.half_width(CONFIDENCE)
    margin = np.log1p(least)
    nearest, farthest = found.value, found.value
    low, high = found.value - half, found.value + half
    hopeless = np.zeros(found.value.shape, bool)
    for change in machine:
        known = np.isfinite(change)
        hopeless = hopeless | ~known
        left = found.value - np.where(known, change, 0.0)
        nearest, farthest = np.minimum(nearest, left), np.maximum(farthest, left)
        low, high = np.minimum(low, left - half), np.maximum(high, left + half)
    verdict = np.full(low.shape, np.nan)
    verdict[(low > -margin) & (high < margin)] = 0
    verdict[(low > 0) & (nearest >= margin)] = 1
    verdict[(high < 0) & (farthest <= -margin)] = -1
    verdict[np.broadcast_to(hopeless, verdict.shape)] = np.nan
    return Judged(verdict, found.value, low, high, np.broadcast_to(half, low.shape))


def steadied(medians: ArrayLike, reference_load: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Log medians of rounds ``(..., n)`` less their trend, as far as the reference load has it too.

    Each of ``reference_load`` is one part's log timings ``(..., m)`` in the same run. Of the row's
    own trend (see :func:`repr_bench.statistics.shift.trend`) no more is taken out than
    ``MOST_OF_TREND`` times the reference load's, and nothing where that went the other way. The
    middle of the run stays where it is, so what the machine did *between* runs is not touched.
    """
    own = trend(medians)
    bounds = [np.zeros(own.shape), *(MOST_OF_TREND * trend(series) for series in reference_load)]
    low, high = np.minimum.reduce(bounds), np.maximum.reduce(bounds)
    return without_trend(medians, np.clip(own, low, high))


def waiting_excess(
    rounds: Sequence[Sequence[int]], turn_seconds: float, waited_share: float
) -> float:
    """By how much waiting for a CPU lengthened a row's median, as a logarithm.

    ``turn_seconds`` is how long the process stayed on a CPU at a time: as many calls as have the
    end of a turn in them waited, and as many again found cold caches. Where these are fewer than
    half of all, what the median would be without them is that of the others, a lower percentile
    of the row's own samples. Where they are more, it is reckoned from ``waited_share``, and
    infinite where that is more than ``MOST_WAITING``: cold caches are told by no counter.
    """
    reckoned = -math.log1p(-min(waited_share, 0.999))
    call = float(np.exp(np.median(log_medians(rounds)))) / 1e9
    touched = 2 * call / turn_seconds
    if touched > 0.5:
        return math.inf if waited_share > MOST_WAITING else reckoned
    rank = max(1, round(50 * (1 - touched)))
    undisturbed = [
        max(1.0, percentile(samples, rank)) / max(1.0, percentile(samples, 50))
        for samples in rounds
    ]
    return min(-math.log(float(np.median(undisturbed))), 2 * reckoned)


def log_medians(rounds: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """The logarithm of each round's median; samples are above 0, as a clock's are."""
    return np.log([max(float(np.median(samples)), 1.0) for samples in rounds])


def resolution_percent(rounds: Sequence[Sequence[int]]) -> float | None:
    """By how much a row would have to change for this and an equally noisy run to show it.

    Half the interval that a comparison of two such runs has, in percent; None for fewer than
    ``FEWEST_ROUNDS`` rounds. A change of twice as much shows nearly always, so a row is *noisy*
    where this is more than half of ``NOISY_PERCENT``.
    """
    if len(rounds) < FEWEST_ROUNDS:
        return None
    medians = log_medians(rounds)
    return float(100 * np.expm1(shift(medians, medians).half_width(CONFIDENCE)))


def spread_percent(rounds: Sequence[Sequence[int]]) -> float:
    """How far the slowest round's median lies above the fastest one's, in percent."""
    medians = log_medians(rounds)
    return float(100 * np.expm1(medians.max() - medians.min()))
