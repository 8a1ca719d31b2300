"""CIFAR-10 as arrays: in its published layouts, and the subsets that ship here.

Free of torch, so that export, calibration and benchmarks share it.
CIFAR-10: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, §3.
"""

import io
import pickle
import zipfile
import zlib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_models.data.images import ImageSet
from repr_models.errors import DataError

BUNDLED_SUBSET = "cifar10_eval.npz"
BUNDLED_SUBSET_SHA256 = "9eb9aefebdd0e16c603dc4bf3a4b173d2c559ec9dfaa9db0a7421ed11f22dab8"
"""Of the subset's pixels and labels, as :attr:`ImageSet.sha256` computes it."""
CALIBRATION_SUBSET = "cifar10_calibration.npz"
CALIBRATION_SUBSET_SHA256 = "fc54180158dab35039530b3190c3b9efd105d595dad802218ecdfe5ef915048f"
"""Likewise, of the calibration images."""

_SIZES = {"train": 50_000, "test": 10_000}
_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
_CLASSES = 10

# What numpy, zipfile and pickle raise at bytes that are not what they should be.
_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    MemoryError,
    OverflowError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
)


def bundled_subset() -> ImageSet:
    """The CIFAR-10 test images that ship with the package: the first 200 of each class.

    2,000 images (32, 32, 3) in the order of the test set, pixel for pixel as published.
    Raises :class:`DataError` if the file is missing or altered.
    """
    return _bundled(BUNDLED_SUBSET, BUNDLED_SUBSET_SHA256, "test")


def calibration_subset() -> ImageSet:
    """The CIFAR-10 training images that ship with the package: the first 50 of each class.

    500 images (32, 32, 3) in the order of the training set, pixel for pixel as published: what
    int8 graphs are calibrated on, since no accuracy is ever measured on them.
    Raises :class:`DataError` if the file is missing or altered.
    """
    return _bundled(CALIBRATION_SUBSET, CALIBRATION_SUBSET_SHA256, "training")


def _bundled(name: str, sha256: str, split: str) -> ImageSet:
    path = resources.files("repr_models").joinpath("bundled", name)
    try:
        with path.open("rb") as stream, np.load(stream) as arrays:
            images, labels = arrays["images"], arrays["labels"].astype(np.int64)
    except _DAMAGE as error:
        raise DataError(f"{path} cannot be read ({error}); install the package again") from error
    per_class = len(images) // _CLASSES
    subset = ImageSet(
        images,
        labels,
        f"CIFAR-10 {split} subset: {len(images):,} images, the first {per_class} of each class",
    )
    if subset.sha256 != sha256:
        raise DataError(
            f"{path} holds other images than the package shipped (SHA-256 {subset.sha256}, "
            f"expected {sha256}); install the package again"
        )
    return subset


def load_cifar10(folder: str | Path, split: str) -> ImageSet:
    """All images of ``split`` (``"train"`` or ``"test"``) under ``folder``, in published order.

    ``folder`` holds one of: ``cifar10_train.npz`` and ``cifar10_test.npz`` with arrays
    ``images`` (N, 32, 32, 3) uint8 and ``labels`` (N,) of integers, the official Python
    version (``cifar-10-batches-py`` or its files), or the official binary version
    (``cifar-10-batches-bin`` or its files); the first found is read. Pickles may hold
    arrays and plain values alone: anything else is refused before it is run.
    Raises :class:`DataError` if none is there, or a file is missing or damaged.
    """
    if split not in _SIZES:
        raise DataError(f"split must be 'train' or 'test', got {split!r}")
    root = Path(folder)
    for reader in (_read_npz, _read_python, _read_binary):
        try:
            found = reader(root, split)
            if found is not None:
                images, labels = _checked(*found, _SIZES[split])
                return ImageSet(images, labels, f"CIFAR-10 {split} set: all {len(images):,} images")
        except _DAMAGE as error:
            reason = str(error) or type(error).__name__
            raise DataError(
                f"{root}: the CIFAR-10 {split} set is damaged ({reason}); fetch it again"
            ) from error
    raise DataError(
        f"{root}: no CIFAR-10 {split} set here; looked for cifar10_{split}.npz, "
        f"cifar-10-batches-py/{_BATCHES[split][0]} and cifar-10-batches-bin/{_BATCHES[split][0]}.bin"
    )


_Arrays = tuple[NDArray[Any], NDArray[Any]]


def _checked(
    images: NDArray[Any], labels: NDArray[Any], count: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if images.dtype != np.uint8 or images.shape != (count, 32, 32, 3):
        raise ValueError(
            f"images are {images.shape} {images.dtype}, expected ({count}, 32, 32, 3) uint8"
        )
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise ValueError(f"labels are {labels.shape} {labels.dtype}, expected {count} integers")
    if labels.min() < 0 or labels.max() >= _CLASSES:
        raise ValueError(f"labels span {labels.min()}..{labels.max()}, expected 0..{_CLASSES - 1}")
    return images, labels.astype(np.int64)


def _read_npz(root: Path, split: str) -> _Arrays | None:
    path = root / f"cifar10_{split}.npz"
    if not path.is_file():
        return None
    # Opened here: np.load leaves a file that it opened, and that is no zip file, open.
    with path.open("rb") as stream, np.load(stream) as arrays:
        return arrays["images"], arrays["labels"]


def _batch_paths(root: Path, folder: str, split: str, suffix: str) -> list[Path] | None:
    for base in (root / folder, root):
        paths = [base / f"{name}{suffix}" for name in _BATCHES[split]]
        absent = [path.name for path in paths if not path.is_file()]
        if not absent:
            return paths
        if len(absent) < len(paths):
            raise FileNotFoundError(f"{', '.join(absent)} missing")
    return None


def _read_python(root: Path, split: str) -> _Arrays | None:
    paths = _batch_paths(root, "cifar-10-batches-py", split, "")
    if paths is None:
        return None
    batches = [
        _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load() for path in paths
    ]
    planes = np.concatenate([batch[b"data"] for batch in batches])
    labels = np.concatenate([np.asarray(batch[b"labels"]) for batch in batches])
    return _interleave(planes), labels


def _read_binary(root: Path, split: str) -> _Arrays | None:
    paths = _batch_paths(root, "cifar-10-batches-bin", split, ".bin")
    if paths is None:
        return None
    rows = np.concatenate([np.fromfile(path, np.uint8).reshape(-1, 3073) for path in paths])
    return _interleave(rows[:, 1:]), rows[:, 0]


def _interleave(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rows of 1024 red, 1024 green, 1024 blue values to (N, 32, 32, 3)."""
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


class _ArrayUnpickler(pickle.Unpickler):
    """Reads the published pickles, which hold numpy arrays and plain values, and nothing else."""

    _ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"the file asks for {module}.{name}, which is not data")
        # numpy 2 moved the module; older pickles name the old place, which warns.
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
