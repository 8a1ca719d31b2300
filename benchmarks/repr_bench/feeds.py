"""What is fed to a network: evaluation images where there are any, noise of its shapes elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repr_bench.errors import UsageError

if TYPE_CHECKING:
    from repr_models.data import ImageSet
    from repr_runtime import Manifest, Session
    from repr_runtime.manifest import TensorSpec

NOISE = "standard normal noise, seed 0"


@dataclass(frozen=True)
class EvaluationImages:
    """The labelled images that accuracies are measured on: the bundled ones, or ``folder``'s."""

    folder: Path | None = None

    def check(self) -> None:
        """Raise the error of a ``folder`` without CIFAR-10, before anything is measured."""
        if self.folder is not None:
            _load(self.folder)

    def for_artifact(self, manifest: Manifest) -> tuple[ImageSet | None, str]:
        """Images for the artifact, or None and the reason why there are none."""
        if manifest.network.dataset != "cifar10":
            return None, f"no evaluation images for dataset {manifest.network.dataset or 'unknown'}"
        if manifest.preprocessing is None:
            return None, "the artifact does not say how images become inputs"
        return _load(self.folder), ""


@cache
def _load(folder: Path | None) -> ImageSet:
    from repr_models.data import bundled_subset, load_cifar10

    return bundled_subset() if folder is None else load_cifar10(folder, "test")


def make_feed(
    session: Session, images: ImageSet | None, batch: int
) -> tuple[Sequence[NDArray[Any]], str]:
    """One batch, an array an input in the session's order, and the words that say what it is.

    Raises :class:`UsageError` if the graph takes no batch of that size, or leaves another
    dimension free.
    """
    if session.batch_size not in (None, batch):
        raise UsageError(f"the graph's batch is fixed at {session.batch_size}")
    if images is not None and len(session.inputs) == 1:
        chosen = np.arange(batch) % len(images)
        return [session.preprocess(images.images[chosen])], "evaluation images"
    generator = np.random.default_rng(0)
    return [_noise(spec, batch, generator) for spec in session.inputs], NOISE


def _noise(spec: TensorSpec, batch: int, generator: np.random.Generator) -> NDArray[Any]:
    shape = []
    for axis, size in enumerate(spec.shape):
        if isinstance(size, str) and axis > 0:
            raise UsageError(
                f"the graph leaves {size!r} of input {spec} free, and only the batch, the first "
                f"dimension, can be chosen here; export it with that size fixed"
            )
        shape.append(batch if isinstance(size, str) else size)
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return generator.standard_normal(shape, np.float32).astype(dtype)
    return np.zeros(shape, dtype)  # the one value that any index or mask may have
