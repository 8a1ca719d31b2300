"""Agreement by hand: margins, ties, divergence; McNemar's test against scipy's binomial test."""

import numpy as np
import pytest
from scipy import stats

from repr_bench.results.graph import Agreement, AgreementCount, Flips, log_probabilities
from repr_bench.statistics.intervals import mcnemar_p, wilson_interval


def logits(*rows: tuple[float, ...]) -> np.ndarray:
    return np.log(np.array(rows))


def agreement(*pairs: tuple[np.ndarray, np.ndarray]) -> Agreement:
    counted = AgreementCount()
    for reference, outputs in pairs:
        counted.add(reference, outputs)
    found = counted.finish("another", "some images", "ab" * 32)
    assert found is not None
    return found


REFERENCE = logits((0.8, 0.1, 0.1), (0.4, 0.35, 0.25), (0.5, 0.25, 0.25), (0.2, 0.2, 0.6))
"""Margins 0.7, 0.05, 0.25, 0.4."""
OUTPUTS = logits((0.7, 0.2, 0.1), (0.3, 0.4, 0.3), (0.2, 0.5, 0.3), (0.2, 0.2, 0.6))


def test_by_hand() -> None:
    found = agreement((REFERENCE, OUTPUTS))
    assert (found.images, found.same, found.figure.value) == (4, 2, 50.0)
    assert [(band.margin, band.images, band.same) for band in found.bands] == [
        (0.1, 3, 2),
        (0.5, 1, 1),
    ]
    assert found.margins == pytest.approx(1.4)
    assert found.flipped_margins == pytest.approx(0.3)
    assert found.weighted_percent == pytest.approx(100 * (1 - 0.3 / 1.4))
    assert found.largest_flipped_margin == pytest.approx(0.25)
    assert found.largest_shift == pytest.approx(0.3)
    wanted, given = np.exp(REFERENCE), np.exp(OUTPUTS)
    by_hand = stats.entropy(wanted, given, axis=1).mean()
    assert found.mean_kl == pytest.approx(by_hand)
    assert found.figure.interval == tuple(100 * end for end in wilson_interval(2, 4))

    split = agreement((REFERENCE[:1], OUTPUTS[:1]), (REFERENCE[1:], OUTPUTS[1:]))
    assert (split.same, split.bands) == (found.same, found.bands)
    assert split.mean_kl == pytest.approx(found.mean_kl)


TIED = np.array([[0.0, 1.0, 1.0]])


@pytest.mark.parametrize(
    ("reference", "outputs", "percent", "weighted", "surest"),
    [
        (REFERENCE, REFERENCE, 100.0, 100.0, 0.0),
        # of equal logits the first counts as larger
        (TIED, np.array([[0.0, 1.0, 0.5]]), 100.0, 100.0, 0.0),
        (TIED, np.array([[0.0, 0.5, 1.0]]), 0.0, 0.0, 0.0),
        # undecided references weigh nothing
        (np.zeros((2, 3)), np.eye(3)[[1, 1]], 0.0, 0.0, 0.0),
        # one class is always agreed on
        (np.ones((3, 1)), np.zeros((3, 1)), 100.0, 100.0, 0.0),
    ],
)
def test_shares(
    reference: np.ndarray, outputs: np.ndarray, percent: float, weighted: float, surest: float
) -> None:
    found = agreement((reference, outputs))
    shares = found.figure.value, found.weighted_percent
    assert (*shares, found.largest_flipped_margin) == (percent, weighted, surest)
    same = bool(np.ptp(reference - outputs) == 0)
    assert (found.mean_kl == found.largest_shift == 0) is same


def test_probabilities_are_taken_as_they_are() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]])
    np.testing.assert_allclose(np.exp(log_probabilities(probabilities)), probabilities, atol=1e-9)
    found = agreement((probabilities, probabilities))
    assert found.bands[1].images == 1  # as logits, no margin would reach 0.5


def test_large_logits_overflow_nothing() -> None:
    found = agreement((np.array([[5e4, 0.0]], np.float16), np.array([[-5e4, 0.0]], np.float16)))
    assert found.largest_shift == 1.0
    assert np.isfinite(found.mean_kl)


def test_other_classes_are_refused_and_no_images_do_not_agree() -> None:
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(4, 2\)"):
        AgreementCount().add(REFERENCE, OUTPUTS[:, :2])
    assert AgreementCount().finish("another", "none", "") is None


@pytest.mark.parametrize(
    ("lost", "gained"),
    [
        *((0, 0), (1, 0), (5, 0), (0, 6), (3, 9), (7, 7), (100, 140)),
        *((20_000, 20_000), (0, 50_000)),
    ],
)
def test_mcnemar_is_the_exact_binomial_test(lost: int, gained: int) -> None:
    pairs = lost + gained
    wanted = stats.binomtest(lost, pairs, 0.5).pvalue if pairs else 1.0
    assert mcnemar_p(lost, gained) == pytest.approx(wanted, rel=1e-12)
    assert Flips(lost, gained).p_value == mcnemar_p(gained, lost)


def test_mcnemar_counts_from_0() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        mcnemar_p(-1, 3)
