"""What is fed to a network: evaluation images where there are any, noise of its shapes elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repr_bench.errors import UsageError

if TYPE_CHECKING:
    from repr_models.data.folder import ClassNames
    from repr_models.data.images import Images, ImageSet
    from repr_runtime import Manifest, Session
    from repr_runtime.artifact.manifest import TensorSpec

NOISE = "standard normal noise, seed 0"


@dataclass(frozen=True)
class EvaluationImages:
    """The images that accuracies are measured on.

    Those of ``folder`` (CIFAR-10, or images by class), or without one the bundled ones; or
    those under ``label_free``, whatever they are, for agreement alone. ``limit``: so many,
    drawn evenly by class.
    """

    folder: Path | None = None
    label_free: Path | None = None
    limit: int | None = None

    def check(self) -> None:
        """Raise the error of a folder without images, before anything is measured."""
        from repr_models.data.folder import unlabelled_folder
        from repr_models.errors import DataError

        if self.label_free is not None:
            unlabelled_folder(self.label_free)
        if self.folder is not None:
            try:
                _load(self.folder)
            except DataError as missing:
                try:
                    unlabelled_folder(self.folder)
                except DataError as error:
                    raise DataError(f"{missing}; nor are there other images: {error}") from error

    def for_artifact(self, manifest: Manifest) -> tuple[Images | None, str]:
        """Images for the artifact, or None and the reason why there are none.

        Raises :class:`repr_models.errors.DataError` if those of the folder are not its classes.
        """
        from repr_models.data.folder import labelled_folder, unlabelled_folder
        from repr_models.errors import DataError
        from repr_models.spec import CIFAR10

        dataset = manifest.network.dataset
        if manifest.preprocessing is None:
            return None, "the artifact does not say how images become inputs"
        if self.label_free is not None:
            return unlabelled_folder(self.label_free, limit=self.limit), ""
        is_cifar10 = CIFAR10.name == dataset or manifest.labels == CIFAR10.labels
        if self.folder is None:
            if is_cifar10:
                return _drawn(_load(None), self.limit), ""
            return None, (
                f"no evaluation images for dataset {dataset or 'unknown'}; "
                f"give some with --data DIR, or --label-free DIR"
            )
        with contextlib.suppress(DataError):  # it holds other images
            cifar10 = _load(self.folder)
            if is_cifar10:
                return _drawn(cifar10, self.limit), ""
            return None, f"{self.folder} holds CIFAR-10, which is not what it was made for"
        classes = _classes(manifest)
        if classes is None:
            return None, "the first output is not (N, classes)"
        return labelled_folder(self.folder, classes, limit=self.limit), ""


def _classes(manifest: Manifest) -> ClassNames | None:
    """What folders may call the artifact's classes; None if it does not classify."""
    from repr_models.data.folder import ClassNames, imagenet_wnids
    from repr_models.spec import IMAGENET

    shape, labels = manifest.outputs[0].shape, manifest.labels
    count = shape[1] if len(shape) == 2 else None
    if isinstance(count, str):
        count = len(labels) if labels is not None else None
    if count is None:
        return None
    # A network of anyone's own with as many classes is ImageNet's too, where the names are its ids.
    ids = imagenet_wnids() if count == IMAGENET.class_count else None
    return ClassNames(count, labels, ids)


def _drawn(images: ImageSet, limit: int | None) -> ImageSet:
    """``limit`` of the images, evenly by class, or all."""
    from repr_models.data.folder import DRAW_SEED, draw_evenly
    from repr_models.data.images import ImageSet

    chosen = draw_evenly(images.labels, len(images), limit)
    if len(chosen) == len(images):
        return images
    what = f"{len(chosen):,} drawn evenly by class (seed {DRAW_SEED}) from {images.description}"
    return ImageSet(images.images[chosen], images.labels[chosen], what)


@cache
def _load(folder: Path | None) -> ImageSet:
    from repr_models.data.cifar10 import bundled_subset, load_cifar10

    return bundled_subset() if folder is None else load_cifar10(folder, "test")


def make_feed(
    session: Session, images: Images | None, batch: int
) -> tuple[Sequence[NDArray[Any]], str]:
    """One batch, an array an input in the session's order, and the words that say what it is.

    Raises :class:`UsageError` if the graph takes no batch of that size, or leaves another
    dimension free.
    """
    if session.batch_size not in (None, batch):
        raise UsageError(f"the graph's batch is fixed at {session.batch_size}")
    if images is not None and len(session.inputs) == 1:
        first = next(iter(images.batches(batch))).images
        repeated = [first[index % len(first)] for index in range(batch)]
        inputs = session.preprocess(repeated).astype(session.inputs[0].dtype, copy=False)
        return [inputs], "evaluation images"
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
