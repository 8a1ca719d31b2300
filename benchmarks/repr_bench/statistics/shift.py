"""The shift between two series of rounds, robust to spikes and to noise that lasts; trends."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

TRIM = 1 / 3
"""Share of the rounds left out, the slowest: co-tenants make rounds slower, and none faster."""
FEWEST_ROUNDS = 6
_MOST_AUTOCORRELATION = 0.9
_LEAST_FREEDOM = 3.5
_ERRORS_ABOVE = 1.5
"""These two weigh short noise against noise that lasts: with few degrees of freedom an
autocorrelation found by chance would hide a change, with small errors a true one would be missed.
They were chosen on synthetic machines with 12 rounds. There, over many seeds, 95 % of changes of 5 %
are found under spikes in a tenth of the rounds, and 1 % of verdicts are false under noise that
lasts five rounds: less of either costs more of the other."""


class Shift(NamedTuple):
    """How much higher the second of two series lies, for each pair of series in a batch.

    ``variance`` is that of ``value``, ``freedom`` the degrees of freedom it is known with, and
    ``autocorrelation`` what was found between neighbouring rounds.
    """

    value: NDArray[np.float64]
    variance: NDArray[np.float64]
    freedom: NDArray[np.float64]
    autocorrelation: NDArray[np.float64]

    def half_width(self, confidence: float) -> NDArray[np.float64]:
        """Half of the two-sided interval about ``value``."""
        return student_quantile(0.5 + confidence / 2, self.freedom) * np.sqrt(self.variance)


def shift(old: ArrayLike, new: ArrayLike) -> Shift:
    """The shift between two series of rounds, ``(..., n)`` and ``(..., m)``, along the last axis.

    The difference of their means without the largest ``TRIM`` of each, with the variances of K. K.
    Yuen, "The two-sample trimmed t for unequal population variances", Biometrika 61 (1974), here
    of trimming at one end, and Welch's degrees of freedom. Neighbouring rounds resemble each
    other: with a lag-one autocorrelation r of the winsorised rounds (of both series together,
    freed from its bias: -(1 + 4r)/n by Marriott & Pope, Biometrika 41 (1954), and 1/n more for a
    trend that was taken out; ``_ERRORS_ABOVE`` standard errors higher, since so few rounds tell it
    badly; never below 0), n rounds say as much as n(1 - r)/(1 + r) independent ones, and
    variances and degrees of freedom (``_LEAST_FREEDOM`` at least) are those of so many.

    Raises ``ValueError`` for fewer than ``FEWEST_ROUNDS`` rounds.
    """
    first, second = _trimmed(old), _trimmed(new)
    fewest = min(first.rounds, second.rounds)
    products = first.products + second.products
    squares = first.squares + second.squares
    r = products / np.where(squares > 0, squares, 1.0)
    r = (r + 2 / fewest) / (1 - 4 / fewest) + _ERRORS_ABOVE * (first.rounds + second.rounds) ** -0.5
    r = np.clip(r, 0, _MOST_AUTOCORRELATION)
    inflation = (1 + r) / (1 - r)
    variances = [series.variance * inflation for series in (first, second)]
    freedoms = [
        np.maximum(series.kept / inflation - 1, min(_LEAST_FREEDOM, series.kept - 1))
        for series in (first, second)
    ]
    total = variances[0] + variances[1]
    parts = variances[0] ** 2 / freedoms[0] + variances[1] ** 2 / freedoms[1]
    least = np.minimum(*freedoms)
    freedom = np.where(parts > 0, total**2 / np.where(parts > 0, parts, 1.0), least)
    return Shift(second.mean - first.mean, total, freedom, r)


def trend(series: ArrayLike) -> NDArray[np.float64]:
    """By how much ``(..., n)`` grows from a round to the next: the median of all pairs' slopes.

    P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau", JASA 63 (1968);
    up to 29 % of the rounds may be spikes without moving it far.
    """
    values = np.asarray(series, float)
    first, second = np.triu_indices(values.shape[-1], 1)
    rises = values[..., second] - values[..., first]
    return np.asarray(np.median(rises / (second - first), axis=-1))


def without_trend(series: ArrayLike, slope: ArrayLike) -> NDArray[np.float64]:
    """``(..., n)`` less a line of ``slope`` per round that is 0 in the middle of the series."""
    values = np.asarray(series, float)
    moments = np.arange(values.shape[-1]) - (values.shape[-1] - 1) / 2
    return np.asarray(values - np.asarray(slope)[..., None] * moments)


def student_quantile(probability: float, freedom: ArrayLike) -> NDArray[np.float64]:
    """The quantile of Student's t distribution with ``freedom`` degrees of freedom, each above 0."""
    from scipy.special import stdtrit  # heavy, and needed for a verdict alone

    return np.asarray(stdtrit(np.asarray(freedom, float), probability))


class _Trimmed(NamedTuple):
    """A series of rounds: its trimmed mean, that one's variance, and sums for autocorrelation."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    rounds: int
    kept: int
    products: NDArray[np.float64]
    squares: NDArray[np.float64]


def _trimmed(series: ArrayLike) -> _Trimmed:
    values = np.asarray(series, float)
    n = values.shape[-1] if values.ndim else 0
    if n < FEWEST_ROUNDS:
        raise ValueError(f"a comparison needs {FEWEST_ROUNDS} rounds of each, got {n}")
    kept = n - int(TRIM * n)
    ordered = np.sort(values, axis=-1)
    winsorised = np.minimum(values, ordered[..., kept - 1, None])
    deviations = winsorised - winsorised.mean(-1, keepdims=True)
    squares = (deviations**2).sum(-1)
    return _Trimmed(
        mean=ordered[..., :kept].mean(-1),
        variance=squares / (kept * (kept - 1)),
        rounds=n,
        kept=kept,
        products=(deviations[..., 1:] * deviations[..., :-1]).sum(-1),
        squares=squares,
    )
