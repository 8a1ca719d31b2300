"""Top-1 and top-5 of the very session that is timed, on labelled images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from repr_bench.results import Accuracy

if TYPE_CHECKING:
    from repr_models.data import ImageSet
    from repr_runtime import Session

CHUNK = 100
"""Images at a time, where the graph leaves the batch free."""


def measure_accuracy(
    session: Session,
    data: ImageSet,
    *,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> Accuracy:
    """Count the images whose label has the largest logit, or one of the five largest.

    Where the graph's batch is fixed, the last chunk is filled up with its last image, which
    is counted once. Of equal logits the first counts as the larger one, so
    that a constant output is right by chance only. ``report`` gets images done and in all.
    """
    fixed, total = session.batch_size, len(data.labels)
    size = fixed or CHUNK
    top1 = top5 = classes = 0
    for start in range(0, total, size):
        images, labels = data.images[start : start + size], data.labels[start : start + size]
        if fixed and len(images) < size:
            images = np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])
        outputs = session.run(session.preprocess(images))
        logits = np.asarray(next(iter(outputs.values())))[: len(labels)].astype(np.float64)
        if logits.ndim != 2:
            raise ValueError(f"logits must be (N, classes), got {logits.shape}")
        classes = logits.shape[1]
        order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
        hits = order == labels[:, None]
        top1 += int(hits[:, 0].sum())
        top5 += int(hits.any(axis=1).sum())
        report(start + len(labels), total)
    return Accuracy(top1, top5 if classes > 10 else None, total, data.description, data.sha256)
