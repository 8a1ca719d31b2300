"""Whether a peer gives the same top-1: a figure of one that computes something else is worth nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repr_bench.errors import UsageError
from repr_bench.results.peers import SameAnswers

if TYPE_CHECKING:
    from repr_models.data.images import Images
    from repr_runtime import Session

IMAGES = 200
TIE = 1e-4
"""Two logits of an image nearer than this share of their range are a tie, which rounding decides."""

ROUNDED_TIE = 0.05
"""Likewise in a lower precision, which each library rounds where it likes.

Measured over the bundled networks, between two int8 graphs of one network and between two libraries
in bf16: up to 5 of 200 images change their top-1, and their logits lie within 6 % of the range.
"""

FLIPS = 0.01
"""The share of images that may differ beyond ties; in fp32, none.

And a server runs what it likes: its accuracy stands beside its time.
"""

SPREAD = 10
"""Every how-manieth image is compared at most: those of a folder have to be decoded to be passed."""

Logits = Callable[[Sequence[NDArray[Any]]], NDArray[Any]]


def check_inputs(session: Session, images: Images | None) -> list[NDArray[Any]]:
    """200 samples for every input: evaluation images of all classes, else noise.

    Raises :class:`UsageError` where an input is no image and no noise will do.
    """
    if images is not None and len(session.inputs) == 1:
        wanted = min(IMAGES, len(images))
        every = min(len(images) // wanted, SPREAD)  # some sets come class by class
        parts = itertools.islice(images.batches(every), wanted)
        return [session.preprocess([part.images[0] for part in parts if len(part.images)])]
    generator = np.random.default_rng(1)
    arrays = []
    for spec in session.inputs:
        if np.dtype(spec.dtype).kind != "f" or any(
            isinstance(size, str) for size in spec.shape[1:]
        ):
            raise UsageError(f"there are no samples of input {spec} to compare peers on")
        sizes = [size for size in spec.shape[1:] if isinstance(size, int)]
        noise = generator.standard_normal((IMAGES, *sizes), np.float32)
        arrays.append(noise.astype(spec.dtype))
    return arrays


def in_batches(logits: Logits, inputs: Sequence[NDArray[Any]], batch: int) -> NDArray[np.float64]:
    """(N, classes): ``logits`` of all of ``inputs``, ``batch`` at a time, the last one filled up."""
    count, parts = len(inputs[0]), []
    for begin in range(0, count, batch):
        rows = np.minimum(np.arange(begin, begin + batch), count - 1)
        parts.append(np.array(logits([array[rows] for array in inputs]), np.float64))
    found: NDArray[np.float64] = np.concatenate(parts)[:count]
    return found


def compare_top1(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], tie: float = TIE
) -> SameAnswers:
    """How many of both (N, classes) have one top-1, ties of ours included.

    Raises ``ValueError`` for other shapes.
    """
    if ours.shape != theirs.shape or ours.ndim != 2:
        raise ValueError(f"logits must both be (N, classes), got {ours.shape} and {theirs.shape}")
    rows = np.arange(len(ours))
    top = ours.max(axis=1)
    lacks = top - ours[rows, theirs.argmax(axis=1)]
    same = (lacks <= tie * (top - ours.min(axis=1))) & np.isfinite(theirs).all(axis=1)
    return SameAnswers(int(same.sum()), len(ours))


def why_not_same(found: SameAnswers, precision: str) -> str:
    """In words, with the numbers; empty if the peer computes the same."""
    flips = found.images - found.same
    if not flips or (precision != "fp32" and flips <= FLIPS * found.images):
        return ""
    return (
        f"its top-1 is another on {flips} of {found.images} images, so its time counts for nothing"
    )
