"""Figures derived from raw samples: percentiles, their intervals, and the digits worth showing."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repr_runtime import proportion

CONFIDENCE_PERCENT = 95
RESAMPLES = 2000

PERCENTILE_FORMULA = (
    "The p-th percentile of n samples is the k-th smallest, k = ceil(p·n / 100) (nearest rank)."
)
LATENCY_INTERVAL_FORMULA = (
    f"{CONFIDENCE_PERCENT} % interval of a percentile or a rate: bootstrap over the rounds of the "
    f"measurement ({RESAMPLES:,} resamples, seed 0), so that drift between rounds counts as spread."
)
ACCURACY_INTERVAL_FORMULA = (
    f"{CONFIDENCE_PERCENT} % interval of an accuracy: Wilson's score interval."
)


class Interval(NamedTuple):
    """Both ends of a confidence interval, in the unit of what it belongs to."""

    low: float
    high: float


class Figure(NamedTuple):
    """A derived value and its 95 % interval, None where it cannot be known."""

    value: float
    interval: Interval | None

    def __str__(self) -> str:
        return figure(self.value, self.interval)


def percentile(samples: ArrayLike, percent: int) -> float:
    """The nearest-rank percentile: the ``ceil(percent * n / 100)``-th smallest of ``samples``.

    The rank is computed in integers, so that no rounding of ``percent / 100`` can move it.
    Raises ``ValueError`` for no samples, or a ``percent`` outside 1..100.
    """
    values = np.asarray(samples).ravel()
    if not 1 <= percent <= 100:
        raise ValueError(f"percent must be an integer in 1..100, got {percent}")
    if not values.size:
        raise ValueError("a percentile needs at least one sample, got none")
    rank = -(-percent * values.size // 100)
    return float(np.partition(values, rank - 1)[rank - 1])


def percentile_interval(
    rounds: Sequence[ArrayLike], percent: int, *, resamples: int = RESAMPLES
) -> Interval | None:
    """The bootstrap interval (percentile method) of :func:`percentile` over all samples.

    Whole rounds are drawn with replacement, since samples taken close together resemble
    each other, and drawing them singly would make the interval too narrow (cluster
    bootstrap: Davison & Hinkley, *Bootstrap Methods and their Application*, 1997, §3.8).
    Each round is a non-empty sequence of samples. None where there are fewer than two.
    """
    ordered = [np.sort(np.asarray(samples).ravel()) for samples in rounds]
    if not ordered or any(not samples.size for samples in ordered):
        raise ValueError("every round needs at least one sample")
    if len(ordered) < 2:
        return None
    drawn = _draw(len(ordered), resamples)
    ranks = -(-percent * (drawn @ np.array([samples.size for samples in ordered])) // 100)
    return middle(_smallest_reaching(ordered, drawn, ranks, percent))


def ratio_interval(
    numerators: ArrayLike, denominators: ArrayLike, *, resamples: int = RESAMPLES
) -> Interval | None:
    """The bootstrap interval of ``sum(numerators) / sum(denominators)``, a value a round.

    Rounds are drawn as in :func:`percentile_interval`. None where there are fewer than two.
    """
    above, below = np.asarray(numerators, float), np.asarray(denominators, float)
    if above.shape != below.shape or above.ndim != 1:
        raise ValueError(f"one value a round is needed of both, got {above.shape}, {below.shape}")
    if len(above) < 2:
        return None
    drawn = _draw(len(above), resamples)
    return middle((drawn @ above) / (drawn @ below))


@lru_cache(maxsize=16)
def _draw(rounds: int, resamples: int) -> NDArray[np.int64]:
    """How often each round is drawn, a row for each resample; the same array each time."""
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(rounds, [1 / rounds] * rounds, size=resamples)
    drawn.setflags(write=False)
    return drawn


def middle(found: NDArray[Any]) -> Interval:
    """What the middle 95 % of the resamples' values span."""
    ordered, tail = np.sort(found), (100 - CONFIDENCE_PERCENT) / 200
    return Interval(
        float(ordered[math.floor(tail * (len(ordered) - 1))]),
        float(ordered[math.ceil((1 - tail) * (len(ordered) - 1))]),
    )


def _smallest_reaching(
    ordered: list[NDArray[Any]], drawn: NDArray[np.int64], ranks: NDArray[np.int64], percent: int
) -> NDArray[Any]:
    """For each resample, the smallest value with at least ``rank`` drawn samples up to it.

    A bisection over the pooled values for all resamples at once: no resample is ever
    laid out, which for 100,000 samples would cost seconds. It starts from the least and the
    largest of the rounds' own percentiles, since that of rounds put together is never outside.
    """
    own = [samples[-(-percent * samples.size // 100) - 1] for samples in ordered]
    within = [s[(s >= min(own)) & (s <= max(own))] for s in ordered]
    values = np.unique(np.concatenate(within))
    low = np.zeros(len(drawn), np.int64)
    high = np.full(len(drawn), len(values) - 1)
    while (low < high).any():
        middle = (low + high) // 2
        # Most resamples ask for the same few values, and sorted ones are found faster.
        asked, which = np.unique(middle, return_inverse=True)
        up_to = np.stack([np.searchsorted(s, values[asked], side="right") for s in ordered], 1)
        reached = np.einsum("ij,ij->i", drawn, up_to[which]) >= ranks
        high = np.where(reached, middle, high)
        low = np.where(reached, low, middle + 1)
    return values[low]


def wilson_interval(hits: int, trials: int) -> Interval:
    """Wilson's 95 % score interval of the proportion ``hits / trials``, both ends in 0..1.

    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
    JASA 22 (1927). Raises ``ValueError`` for no trials, or hits outside 0..trials.
    """
    return Interval(*proportion.wilson_interval(hits, trials))


def decimals(value: float, interval: Interval | None, *, most_significant: int = 4) -> int:
    """How many decimals of ``value`` its interval supports.

    The last one shown is no finer than needed to resolve half the interval's width. At least
    one and at most ``most_significant`` significant digits are shown.
    """
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    most = most_significant - 1 - magnitude
    if interval is not None and (half := (interval.high - interval.low) / 2) > 0:
        most = min(most, math.ceil(-math.log10(half)))
    return max(0, -magnitude, most)


def figure(value: float, interval: Interval | None = None) -> str:
    """``value`` with as many digits as its spread supports, thousands separated."""
    return f"{value:,.{decimals(value, interval)}f}"


def times(figure: Figure) -> str:
    """``1.31 × (1.28–1.34)``: two decimals, fewer from ten on, and three below a tenth."""
    places = max(0, 2 - max(0, math.floor(math.log10(figure.value)))) + (figure.value < 0.1)
    if figure.interval is None:
        return f"{figure.value:,.{places}f} ×"
    low, high = figure.interval
    return f"{figure.value:,.{places}f} × ({low:,.{places}f}–{high:,.{places}f})"


def mcnemar_p(lost: int, gained: int) -> float:
    """The two-sided p-value of McNemar's exact test for paired answers, right and wrong.

    Of the ``lost + gained`` pairs in which just one side was right, either side is as likely
    where the two are equally good: a binomial test with probability 1/2. Q. McNemar, "Note on
    the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947). Raises ``ValueError`` for negative counts.
    """
    if lost < 0 or gained < 0:
        raise ValueError(f"counts must be 0 or more, got {lost} and {gained}")
    pairs, tail, ways = lost + gained, 0, 1
    for k in range(min(lost, gained) + 1):  # whole numbers, so that nothing is rounded away
        tail += ways
        ways = ways * (pairs - k) // (k + 1)
    return min(1.0, 2 * tail / (1 << pairs))
