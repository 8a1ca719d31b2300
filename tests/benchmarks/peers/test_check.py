"""The check that a peer gives our top-1: flips, ties, shapes, batches that are filled up."""

from typing import Any

import numpy as np
import pytest

from repr_bench.errors import UsageError
from repr_bench.peers.check import (
    IMAGES,
    ROUNDED_TIE,
    check_inputs,
    compare_top1,
    in_batches,
    why_not_same,
)
from repr_bench.results.peers import SameAnswers
from repr_models.data.images import ImageSet
from repr_runtime import load

OURS = [[0.0, 1.0, 9.0], [5.0, 0.0, 1.0], [0.0, 7.0, 1.0], [1.0, 2.0, 3.0]]
THEIRS = [OURS[0], [0.0, 5.0, 1.0], OURS[2], [1.0, 2.0, np.nan]]


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (OURS, THEIRS, 2),  # a flip, and NaN, which argmax takes for the largest
        (OURS, (3 * np.array(OURS) + 1).tolist(), 4),
        ([[0.0, 1.0, 1.0 - 5e-5]], [[0.0, 1.0, 1.0 + 1e-7]], 1),  # a tie that rounding decides
        ([[0.0, 1.0, 1.0 - 5e-4]], [[0.0, 1.0, 1.1]], 0),
    ],
)
def test_agreement_counts_images_of_one_top1(
    ours: list[list[float]], theirs: list[list[float]], same: int
) -> None:
    assert compare_top1(np.array(ours), np.array(theirs)) == SameAnswers(same, len(ours))


def test_a_rounded_network_may_be_off_by_more() -> None:
    ours, theirs = np.array([[0.0, 9.6, 10.0], [0.0, 9.0, 10.0]]), np.array([[0.0, 2.0, 1.0]] * 2)
    assert compare_top1(ours, theirs) == SameAnswers(0, 2)
    assert compare_top1(ours, theirs, ROUNDED_TIE) == SameAnswers(1, 2)


def test_other_shapes_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"\(1, 10\) and \(1, 1000\)"):
        compare_top1(np.zeros((1, 10)), np.zeros((1, 1000)))


@pytest.mark.parametrize(
    ("same", "precision", "words"),
    [
        (200, "fp32", ""),
        (199, "fp32", "on 1 of 200 images"),
        (198, "int8", ""),
        (197, "int8", "on 3 "),
    ],
)
def test_fp32_may_not_flip_and_int8_hardly(same: int, precision: str, words: str) -> None:
    found = why_not_same(SameAnswers(same, 200), precision)
    assert words in found
    assert bool(words) == bool(found)


def test_batches_are_filled_up_and_cut_again() -> None:
    seen: list[int] = []

    def logits(arrays: Any) -> Any:
        seen.append(len(arrays[0]))
        return arrays[0]

    inputs = [np.arange(14.0).reshape(7, 2)]
    np.testing.assert_array_equal(in_batches(logits, inputs, 3), inputs[0])
    assert seen == [3, 3, 3]


def test_images_of_all_parts_of_the_set_are_checked_on(make_artifact: Any) -> None:
    pixels = np.broadcast_to(np.arange(1000)[:, None, None, None], (1000, 32, 32, 3))
    images = ImageSet(pixels.astype(np.uint8), np.zeros(1000, np.int64), "grey")
    with load(make_artifact(), device="cpu") as session:
        (found,) = check_inputs(session, images)
        assert found.shape == (IMAGES, 3, 32, 32)
        np.testing.assert_array_equal(found[-1], session.preprocess(images.images[995:996])[0])
        (noise,) = check_inputs(session, None)
        assert noise.shape == (IMAGES, 3, 32, 32)
        assert noise.std() == pytest.approx(1, abs=0.01)


def test_without_samples_nothing_can_be_checked(make_artifact: Any) -> None:
    with (
        load(make_artifact(dataset=None, size="height"), device="cpu") as session,
        pytest.raises(UsageError, match="no samples of input"),
    ):
        check_inputs(session, None)
