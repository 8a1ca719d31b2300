"""Percentiles, intervals and digits, against values computed by hand and by scipy."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from repr_bench.statistics.intervals import (
    Interval,
    decimals,
    figure,
    percentile,
    percentile_interval,
    ratio_interval,
    wilson_interval,
)
from repr_bench.statistics.shift import shift, student_quantile, trend, without_trend


@pytest.mark.parametrize("percent", range(1, 101))
def test_percentile_is_the_nearest_rank(percent: int) -> None:
    """Of n shuffled numbers 1..n: at 7 of 100, 0.07 · 100 would be more than 7 in floating point."""
    for count in range(1, 121):
        samples = np.random.default_rng(count).permutation(count) + 1
        assert percentile(samples, percent) == math.ceil(Fraction(percent * count, 100))


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        *((lambda p=p: percentile([1, 2], p), f"1..100, got {p}") for p in (0, -1, 101)),
        (lambda: percentile([], 50), "at least one"),
        (lambda: percentile_interval([[1, 2], []], 50), "every round"),
        (lambda: percentile_interval([], 50), "every round"),
        (lambda: ratio_interval([1, 2], [1, 2, 3]), "one value a round"),
        (lambda: shift([1.0] * 5, [1.0] * 12), "6 rounds"),
        *(
            (lambda hits=h, trials=n: wilson_interval(hits, trials), f"{h}/{n}")
            for h, n in ((-1, 10), (11, 10), (0, 0))
        ),
    ],
)
def test_what_cannot_be_computed_is_refused(broken: Callable[[], object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        broken()


@pytest.mark.parametrize("percent", [1, 50, 90, 99, 100])
@pytest.mark.parametrize("kind", ["drifting", "unanswered", "equal"])
def test_percentile_interval_is_that_of_laid_out_resamples(kind: str, percent: int) -> None:
    rng = np.random.default_rng(3)
    rounds = [np.round(rng.lognormal(k / 10, 0.2, 5 + 3 * k), 2) for k in range(9)]
    if kind == "unanswered":
        rounds = [np.where(rng.random(r.size) < 0.2, math.inf, r) for r in rounds]
    if kind == "equal":
        rounds = [np.ones(r.size) for r in rounds]
    drawn = np.random.default_rng(0).multinomial(9, [1 / 9] * 9, size=500)
    by_hand = sorted(
        percentile(
            np.concatenate([np.tile(r, n) for r, n in zip(rounds, counts, strict=True)]), percent
        )
        for counts in drawn
    )
    interval = percentile_interval(rounds, percent, resamples=500)
    assert interval == (by_hand[math.floor(0.025 * 499)], by_hand[math.ceil(0.975 * 499)])


def test_percentile_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(200):
        rounds = rng.normal(0, 1, (12, 1)) * 0.5 + rng.normal(100, 1, (12, 20))
        interval: Any = percentile_interval(list(rounds), 50, resamples=300)
        covered += interval.low <= 100 <= interval.high
    # 12 rounds are few: a percentile bootstrap of them covers a little less than it says
    assert 0.86 * 200 <= covered <= 0.99 * 200


def test_intervals_of_one_round_are_not_known() -> None:
    assert percentile_interval([[1, 2, 3]], 50) is None
    assert ratio_interval([1], [2]) is None


def test_ratio_interval_is_that_of_laid_out_resamples() -> None:
    above, below = np.array([10, 12, 9, 30]), np.array([1.0, 1.1, 1.2, 2.9])
    drawn = np.random.default_rng(0).multinomial(4, [1 / 4] * 4, size=200)
    by_hand = sorted((n * above).sum() / (n * below).sum() for n in drawn)
    found = ratio_interval(above, below, resamples=200)
    assert found == pytest.approx((by_hand[4], by_hand[195]))


@pytest.mark.parametrize(
    ("hits", "trials"), [(0, 10), (10, 10), (1834, 2000), (1, 3), (9165, 10000)]
)
def test_wilson_agrees_with_scipy(hits: int, trials: int) -> None:
    theirs = scipy.stats.binomtest(hits, trials).proportion_ci(method="wilson")
    assert wilson_interval(hits, trials) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(
    ("value", "interval", "expected"),
    [
        (1.23456, Interval(1.21, 1.25), "1.23"),  # ± 0.02
        (1.23456, Interval(1.0, 1.4), "1.2"),  # ± 0.2
        (123.456, Interval(100.0, 140.0), "123"),  # ± 20: never fewer digits than the units
        (1.23456, Interval(1.23455, 1.23457), "1.235"),  # four significant digits at most
        (0.00012346, Interval(0.00012346, 0.00012346), "0.0001235"),
        (12345.6, None, "12,346"),
        (0.037, Interval(0.03, 19.0), "0.04"),  # never a zero for what is none
        (0.0, None, "0.000"),
    ],
)
def test_digits_follow_from_the_spread(
    value: float, interval: Interval | None, expected: str
) -> None:
    assert figure(value, interval) == expected


@given(st.floats(1e-6, 1e6), st.floats(1e-9, 1e6))
def test_shown_digits_resolve_the_interval_or_are_the_most(value: float, half: float) -> None:
    step = 10.0 ** -decimals(value, Interval(value - half, value + half))
    magnitude = 10.0 ** math.floor(math.log10(value))
    assert step <= max(half, magnitude / 1000) * 1.000001
    assert step >= min(half, magnitude) / 10.00001 or step == 1


def test_student_quantiles_of_the_printed_tables() -> None:
    table = {(0.995, 10): 3.169, (0.975, 1): 12.706, (0.975, 2): 4.303, (0.995, 22): 2.819}
    assert {at: float(student_quantile(*at)) for at in table} == pytest.approx(table, abs=6e-4)


def test_shift_is_welchs_test_of_winsorised_rounds_where_they_alternate() -> None:
    rng = np.random.default_rng(0)
    old, new = (alternating(rng.uniform(size=n)) for n in (12, 15))
    found = shift(old, new)
    means, errors, freedoms = [], [], []
    for series, kept in ((old, 8), (new, 10)):
        limits = (0, 1 / 3)
        means.append(float(scipy.stats.mstats.trimmed_mean(series, limits)))
        winsorised = np.asarray(scipy.stats.mstats.winsorize(series, limits))
        errors.append(winsorised.var() * len(series) / (kept * (kept - 1)))
        freedoms.append(kept - 1)
    welch = sum(errors) ** 2 / sum(e**2 / f for e, f in zip(errors, freedoms, strict=True))
    wanted = [means[1] - means[0], sum(errors), welch, 0]
    assert [*map(float, found)] == pytest.approx(wanted)


def test_spikes_in_a_third_of_the_rounds_move_nothing() -> None:
    calm = alternating(np.arange(12.0))
    spiked = np.where(calm >= 8, 1000 * calm, calm)
    found, without = shift(calm, spiked), shift(calm, calm)
    assert float(found.value) == 0
    assert found.half_width(0.99) == pytest.approx(without.half_width(0.99))


def test_trend_is_the_median_of_all_slopes() -> None:
    # slopes of 0 1 5: 1, 4 and 5/2
    assert float(trend([0.0, 1.0, 5.0])) == 2.5
    spiked = 3.0 * np.arange(12)
    spiked[[2, 7]] += 100
    assert float(trend(spiked)) == 3
    assert trend(np.zeros((4, 12))).shape == (4,)


def test_a_trend_is_taken_out_about_the_middle() -> None:
    assert without_trend([1.0, 2.0, 6.0], 2.0).tolist() == [3.0, 2.0, 4.0]


def alternating(values: np.ndarray) -> np.ndarray:
    """The smaller half and the larger half in turn, so that neighbours differ."""
    ordered = np.sort(values)
    turned = np.empty_like(ordered)
    turned[0::2], turned[1::2] = np.array_split(ordered, 2)
    return turned


def test_rounds_that_resemble_their_neighbours_say_less() -> None:
    rising = np.arange(12.0)
    scattered = alternating(rising)
    calm, drifting = (shift(s, s) for s in (scattered, rising))
    # winsorised 0 1 2 … 7 7 7 7 7, products and squares about its mean 4.75
    winsorised = np.minimum(rising, 7) - 4.75
    r = (winsorised[1:] * winsorised[:-1]).sum() / (winsorised**2).sum()
    assert (r + 2 / 12) / (1 - 4 / 12) + 1.5 * 24**-0.5 > 0.9
    assert float(drifting.autocorrelation) == 0.9
    assert float(drifting.variance) == pytest.approx(19 * float(calm.variance))
    assert float(drifting.freedom) == pytest.approx(7)  # three and a half for each: the fewest
    assert drifting.half_width(0.99) > 4 * calm.half_width(0.99)


def test_shift_is_computed_for_many_series_at_once() -> None:
    rng = np.random.default_rng(1)
    old, new = rng.normal(size=(5, 12)), rng.normal(size=(5, 9))
    together = shift(old, new)
    for k in range(5):
        alone = shift(old[k], new[k])
        for one, many in zip(alone, together, strict=True):
            assert float(one) == pytest.approx(float(many[k]))


def test_shift_of_equal_rounds_is_exact() -> None:
    found = shift([3.0] * 12, [4.0] * 12)
    assert (float(found.value), float(found.half_width(0.99))) == (1.0, 0.0)
