"""The images that int8 ranges are measured on: bundled training images, or a folder of the user's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_export.errors import CalibrationError, first_line
from repr_export.layout import Layout
from repr_export.samples import CpuGraph, SampleSet
from repr_models.data.cifar10 import calibration_subset
from repr_runtime.artifact.manifest import PreprocessingInfo
from repr_runtime.errors import ImageError, MissingExtraError
from repr_runtime.preprocess import preprocess

MOST_IMAGES = 500
"""NVIDIA's and ONNX Runtime's guides call some hundred images enough; more cost memory and time."""

FEWEST_IMAGES = 16
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png")


@dataclass(frozen=True)
class CalibrationSet:
    """Inputs to measure ranges on, and a sentence that says what they are.

    ``inputs`` are images as the network takes them, (N, 3, height, width) float32, or for a network
    of other inputs the samples of each. Raises :class:`CalibrationError` if they are fewer than
    :data:`FEWEST_IMAGES`, or not finite.
    """

    inputs: NDArray[np.float32] | SampleSet
    description: str

    def __post_init__(self) -> None:
        if len(self.inputs) < FEWEST_IMAGES:
            raise CalibrationError(
                f"{len(self.inputs)} samples are too few to calibrate on ({self.description}); "
                f"give at least {FEWEST_IMAGES}, better some hundred"
            )
        if not all(np.isfinite(values).all() for values in self._arrays):
            raise CalibrationError(
                f"the calibration inputs hold infinite or undefined values ({self.description}); "
                "check --mean and --std"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def _arrays(self) -> list[NDArray[Any]]:
        return (
            [*self.inputs.inputs.values()] if isinstance(self.inputs, SampleSet) else [self.inputs]
        )

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the inputs' values in order, floating-point ones as little-endian float32."""
        digest = hashlib.sha256()
        for values in self._arrays:
            dtype = "<f4" if values.dtype.kind == "f" else values.dtype.newbyteorder("<")
            digest.update(np.ascontiguousarray(values, dtype).tobytes())
        return digest.hexdigest()

    def samples_for(self, graph: CpuGraph) -> SampleSet:
        """The inputs as samples of ``graph``."""
        if isinstance(self.inputs, SampleSet):
            return self.inputs
        layout = Layout({}, graph.batch)
        return SampleSet("calibration", self.description, {graph.input: self.inputs}, layout)


def bundled_calibration(preprocessing: PreprocessingInfo) -> CalibrationSet:
    """The bundled CIFAR-10 training images as the network takes them.

    Raises :class:`CalibrationError` if it takes larger images than these and does not resize.
    """
    subset = calibration_subset()
    try:
        inputs = preprocess(subset.images, preprocessing)
    except ImageError as error:
        raise CalibrationError(
            f"the bundled images do not fit the network ({error}); give some with --calibration"
        ) from error
    return CalibrationSet(inputs, subset.description)


def folder_calibration(folder: str | Path, preprocessing: PreprocessingInfo) -> CalibrationSet:
    """The images under ``folder`` (png, jpg, bmp; sub-folders too) as the network takes them.

    Of more than :data:`MOST_IMAGES`, so many are taken at equal distances in the order of their
    names, so that each sub-folder has its share. Raises :class:`CalibrationError` for a folder
    that is missing, holds too few images, or one that cannot be read or is too small; and
    :class:`MissingExtraError` without Pillow.
    """
    found = images_in(folder)
    count = min(len(found), MOST_IMAGES)
    chosen = [found[index] for index in np.linspace(0, len(found) - 1, count).round().astype(int)]
    inputs = np.concatenate([_input(path, preprocessing) for path in chosen])
    of = "" if count == len(found) else f" of {len(found):,}, at equal distances by name"
    return CalibrationSet(inputs, f"{count:,} images{of}, from the folder {Path(folder).name}")


def images_in(folder: str | Path) -> list[Path]:
    """The images under ``folder`` by name; raises :class:`CalibrationError` if they are too few."""
    root = Path(folder)
    if not root.is_dir():
        raise CalibrationError(
            f"{root}: no such folder; --calibration takes a folder of images, or a file of "
            f"numpy.savez (.npz) with an array for each input"
        )
    found = sorted(
        path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    if len(found) < FEWEST_IMAGES:
        raise CalibrationError(
            f"{root} holds {len(found)} images ({', '.join(SUFFIXES)}), too few to calibrate on; "
            f"give at least {FEWEST_IMAGES}, better some hundred"
        )
    return found


def _input(path: Path, preprocessing: PreprocessingInfo) -> NDArray[np.float32]:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("reading calibration images", "export", "PIL") from error
    # Pillow's decoders raise these at bytes that are not what they should be.
    damage: tuple[Any, ...] = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except damage as error:
        raise CalibrationError(
            f"{path} cannot be read as an image ({first_line(error)}); take it out of the folder"
        ) from error
    try:
        return preprocess(pixels, preprocessing)
    except ImageError as error:
        raise CalibrationError(f"{path}: {error}") from error
