"""Accuracies, agreement and flips against counting by hand, whatever the graphs' batches."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import numpy as np
import pytest
from numpy.typing import NDArray

from repr_bench.accuracy.evaluate import FP32_GRAPH, TORCH, evaluate
from repr_models.data.images import Batch, ImageSet
from repr_models.errors import DataError
from repr_runtime.errors import ImageError


@dataclass
class Fake:
    """A session whose logits are given image by image; the first pixel tells which image."""

    logits: NDArray[np.float64]
    batch_size: int | None = None
    dtype: str = "float32"
    crop: tuple[int, int] = (32, 32)
    breaks_at: int | None = None
    batches: list[int] = field(default_factory=list)

    @property
    def inputs(self) -> Any:
        return (SimpleNamespace(name="x", dtype=self.dtype),)

    @property
    def manifest(self) -> Any:
        return SimpleNamespace(preprocessing=SimpleNamespace(crop=self.crop))

    def preprocess(self, images: Any) -> NDArray[np.float32]:
        first = np.array([image[0, 0] for image in images])
        if (first[:, 1] == 255).any():
            raise ImageError("an image is too small")
        return (first[:, 0] + 256.0 * first[:, 1]).astype(np.float32)

    def run_all(self, feed: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
        x = feed["x"]
        self.batches.append(len(x))
        assert x.dtype == self.dtype
        if self.breaks_at is not None and (x >= self.breaks_at).any():
            raise RuntimeError("it broke")
        return {"logits": self.logits[x.astype(int)]}


def numbered(labels: list[int]) -> ImageSet:
    images = np.zeros((len(labels), 2, 2, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels)) % 256
    images[:, 0, 0, 1] = np.arange(len(labels)) // 256
    return ImageSet(images, np.array(labels), "numbered images")


@dataclass
class Files:
    """Images in lists of which some are damaged, without labels if so asked."""

    count: int
    damaged: tuple[int, ...] = ()
    labels: NDArray[np.int64] | None = None
    too_small: tuple[int, ...] = ()
    description: str = "files"
    sha256: str = "ab" * 32

    def __len__(self) -> int:
        return self.count

    def batches(self, size: int) -> Iterator[Batch]:
        for begin in range(0, self.count, size):
            every = range(begin, min(begin + size, self.count))
            kept = [index for index in every if index not in self.damaged]
            small = self.too_small
            images = [np.full((1, 1, 3), (k, 255 * (k in small), 0), np.uint8) for k in kept]
            bad = tuple(f"{k}.png is damaged" for k in every if k in self.damaged)
            yield Batch(np.array(kept, np.int64), images, bad)


def evaluated(data: Any, *how: Any, **sessions: Any) -> Any:
    """What is known of each precision's answers."""
    return SimpleNamespace(**evaluate(sessions, data, *how))


def accuracy(session: Fake, data: Any) -> Any:
    return evaluated(data, fp32=session).fp32.accuracy


def test_counts_equal_those_by_hand() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 20))
    labels = rng.integers(0, 20, 50)
    found = accuracy(Fake(logits), numbered(labels.tolist()))
    ranks = [(row > row[label]).sum() for row, label in zip(logits, labels, strict=True)]
    top1, top5 = (sum(rank < k for rank in ranks) for k in (1, 5))
    assert (found.top1, found.top5, found.images) == (top1, top5, 50)
    assert found.description == "numbered images"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_ten_classes_have_no_top5(dtype: str) -> None:
    found = accuracy(Fake(np.eye(10), dtype=dtype), numbered(list(range(10))))
    assert (found.top1, found.top5) == (10, None)


def test_a_constant_output_is_right_by_chance_only() -> None:
    found = accuracy(Fake(np.zeros((40, 20))), numbered([k % 20 for k in range(40)]))
    assert (found.top1, found.top5) == (2, 10)


def test_outputs_that_are_no_logits_are_an_error_of_the_graph() -> None:
    found = evaluated(numbered([0, 1, 2]), fp32=Fake(np.zeros((3, 4, 5)))).fp32
    assert found.accuracy is None
    assert "logits must be" in str(found.error)


def test_progress_counts_images() -> None:
    report = Mock()
    evaluated(numbered([0] * 250), None, report, fp32=Fake(np.zeros((250, 20))))
    assert report.call_args_list == [call(100, 250), call(200, 250), call(250, 250)]


def test_large_images_are_taken_fewer_at_a_time() -> None:
    session = Fake(np.zeros((50, 20)), crop=(224, 224))
    accuracy(session, numbered([0] * 50))
    assert max(session.batches) == 15


class TestFlips:
    """Right in one precision and wrong in the other."""

    FP32 = np.eye(4)[[0, 1, 2, 3, 0, 3]]
    INT8 = np.eye(4)[[0, 1, 3, 2, 1, 3]]
    LABELS = (0, 1, 2, 2, 0, 3)
    """fp32: 5 right; int8 loses the third and the fifth, and gains the fourth."""

    def found(self, network: Any = None, **changes: Any) -> Any:
        images, int8 = numbered([*self.LABELS]), Fake(self.INT8, 2, **changes)
        return evaluated(images, network, int8=int8, fp32=Fake(self.FP32))

    def test_are_counted_by_hand(self) -> None:
        found = self.found()
        assert (found.fp32.flips, found.fp32.agreement) == (None, None)
        flips, agreement = found.int8.flips, found.int8.agreement
        assert (flips.lost, flips.gained, flips.p_value) == (2, 1, 1.0)
        assert (agreement.reference, agreement.images, agreement.same) == (FP32_GRAPH, 6, 3)
        assert agreement.description == "numbered images"

    def test_torch_is_the_reference_of_all_where_it_is_there(self) -> None:
        found = self.found(lambda inputs: self.INT8[inputs.astype(int)])
        for agreement, same in ((found.fp32.agreement, 3), (found.int8.agreement, 6)):
            assert (agreement.reference, agreement.same) == (TORCH, same)
        assert (found.int8.flips.lost, found.int8.flips.gained) == (2, 1)

    def test_a_graph_that_fails_leaves_the_others_theirs(self) -> None:
        found = self.found(breaks_at=2)
        assert (str(found.int8.error), found.int8.accuracy) == ("it broke", None)
        assert found.fp32.accuracy.top1 == 5

    @pytest.mark.parametrize(("images", "breaks_at"), [(6, 0), (150, 120)])
    def test_are_not_counted_from_an_fp32_graph_that_failed(
        self, images: int, breaks_at: int
    ) -> None:
        int8, fp32 = (Fake(np.zeros((images, 4)), breaks_at=at) for at in (None, breaks_at))
        found = evaluated(numbered([0] * images), int8=int8, fp32=fp32).int8
        assert (found.flips, found.agreement, found.accuracy.top1) == (None, None, images)


class TestFiles:
    """Images of which some cannot be used, or that have no labels."""

    def test_labels_stay_with_their_images(self) -> None:
        labels = np.array([0, 9, 1, 9, 2])
        logits = np.eye(10)[[0, 0, 1, 0, 2]]
        found = evaluated(Files(5, (1, 3), labels), fp32=Fake(logits, 2)).fp32
        assert (found.accuracy.top1, found.accuracy.images) == (3, 3)
        assert (found.skipped, found.skip_reason) == (2, "1.png is damaged")

    def test_too_small_ones_are_left_out(self) -> None:
        files = Files(3, (), np.array([0, 9, 1]), too_small=(1,))
        found = evaluated(files, fp32=Fake(np.eye(10)[[0, 0, 1]])).fp32
        assert (found.accuracy.top1, found.accuracy.images) == (2, 2)
        assert (found.skipped, found.skip_reason) == (1, "an image is too small")

    def test_no_image_of_use_is_an_error(self) -> None:
        with pytest.raises(DataError, match="too small"):
            accuracy(Fake(np.eye(10)), Files(2, (), np.array([0, 1]), too_small=(0, 1)))

    def test_without_labels_agreement_alone_is_known(self) -> None:
        half = Fake(np.eye(4)[[0, 1, 2, 0]])
        found = evaluated(Files(4), fp32=Fake(np.eye(4)), fp16=half)
        assert (found.fp16.accuracy, found.fp16.flips) == (None, None)
        assert found.fp16.note == "the images are unlabelled"
        assert (found.fp16.agreement.same, found.fp16.agreement.images) == (3, 4)
        assert "nothing to compare" in found.fp32.note
