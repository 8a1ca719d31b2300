"""Images as accuracy is measured on them: a batch, what any set of them offers, and a set in memory."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from repr_models.errors import DataError


class Batch(NamedTuple):
    """Some images of a set: which they are (n,), their pixels, and a sentence for each left out.

    ``images`` is (n, H, W, 3) uint8 RGB, or a list of n such (H, W, 3) of differing sizes.
    """

    indices: NDArray[np.int64]
    images: NDArray[np.uint8] | list[NDArray[np.uint8]]
    damaged: tuple[str, ...] = ()


class Images(Protocol):
    """Images that accuracies are measured on; ``labels`` (N,) int64 is None where not known."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """The classes, (N,) int64, or None."""

    @property
    def description(self) -> str:
        """Which images they are."""

    @property
    def sha256(self) -> str:
        """The digest of the images and labels."""

    def __len__(self) -> int: ...

    def batches(self, size: int) -> Iterator[Batch]:
        """All images in order, ``size`` at a time."""
        ...


@dataclass(frozen=True)
class ImageSet:
    """Images (N, H, W, 3) uint8 RGB, labels (N,) int64, and a sentence that says which they are.

    Raises :class:`DataError` if the arrays are not of these shapes and types.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    description: str

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] != 3:
            raise DataError(
                f"images must be (N, H, W, 3) uint8, got {self.images.shape} {self.images.dtype}"
            )
        if self.labels.dtype != np.int64 or self.labels.shape != (len(self.images),):
            raise DataError(
                f"{len(self.images)} images need as many int64 labels, "
                f"got {self.labels.shape} {self.labels.dtype}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int) -> Iterator[Batch]:
        """All images in order, ``size`` at a time."""
        for begin in range(0, len(self), size):
            part = self.images[begin : begin + size]
            yield Batch(np.arange(begin, begin + len(part)), part)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the pixels and then of the labels (as little-endian int64)."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).tobytes())
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()
