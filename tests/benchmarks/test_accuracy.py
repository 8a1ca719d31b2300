"""Top-1 and top-5 against counting by hand, with graphs of any and of a fixed batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from repr_bench.accuracy import measure_accuracy
from repr_models.data import ImageSet


@dataclass
class Fake:
    """A session whose logits are given image by image; the first pixel tells which image."""

    logits: NDArray[np.float64]
    batch_size: int | None = None
    batches: list[int] = field(default_factory=list)

    def preprocess(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return images[:, 0, 0, 0].astype(np.float32)

    def run(self, x: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        self.batches.append(len(x))
        assert self.batch_size in (None, len(x))
        return {"logits": self.logits[x.astype(int)]}


def numbered(labels: list[int]) -> ImageSet:
    images = np.zeros((len(labels), 2, 2, 3), np.uint8)
    images[:, 0, 0, 0] = range(len(labels))
    return ImageSet(images, np.array(labels), "numbered images")


@pytest.mark.parametrize("batch", [None, 1, 4, 64])
def test_counts_equal_those_by_hand(batch: int | None) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 20))
    labels = rng.integers(0, 20, 50)
    session = Fake(logits, batch)
    found = measure_accuracy(session, numbered(labels.tolist()))  # type: ignore[arg-type]
    ranks = [(row > row[label]).sum() for row, label in zip(logits, labels, strict=True)]
    assert found.top1 == sum(rank < 1 for rank in ranks)
    assert found.top5 == sum(rank < 5 for rank in ranks)
    assert found.images == 50
    assert found.description == "numbered images"
    assert len(session.batches) == {None: 1, 1: 50, 4: 13, 64: 1}[batch]


def test_ten_classes_have_no_top5() -> None:
    found = measure_accuracy(Fake(np.eye(10)), numbered(list(range(10))))  # type: ignore[arg-type]
    assert (found.top1, found.top5) == (10, None)


def test_a_constant_output_is_right_by_chance_only() -> None:
    labels = [k % 20 for k in range(40)]
    session = Fake(np.zeros((40, 20)))
    found = measure_accuracy(session, numbered(labels))  # type: ignore[arg-type]
    assert (found.top1, found.top5) == (2, 10)


def test_last_chunk_is_not_counted_twice() -> None:
    found = measure_accuracy(Fake(np.eye(10), 4), numbered([0, 1, 2, 3, 9]))  # type: ignore[arg-type]
    assert found.top1 == 4


def test_outputs_that_are_no_logits_are_refused() -> None:
    with pytest.raises(ValueError, match="logits must be"):
        measure_accuracy(Fake(np.zeros((3, 4, 5))), numbered([0, 1, 2]))  # type: ignore[arg-type]


def test_progress_counts_images() -> None:
    heard: list[tuple[int, int]] = []
    session = Fake(np.zeros((250, 20)))
    measure_accuracy(
        session,  # type: ignore[arg-type]
        numbered([0] * 250),
        report=lambda done, total: heard.append((done, total)),
    )
    assert heard == [(100, 250), (200, 250), (250, 250)]
