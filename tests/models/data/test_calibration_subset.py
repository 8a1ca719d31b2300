"""The bundled calibration images: training images, balanced, apart from those of the accuracy."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from repr_models import DataError, bundled_subset
from repr_models.data import cifar10 as data
from repr_models.data.cifar10 import calibration_subset

FILE = Path(str(resources.files("repr_models"))) / "bundled" / data.CALIBRATION_SUBSET


def test_there_are_500_balanced_images_of_the_training_set() -> None:
    subset = calibration_subset()
    assert subset.images.shape == (500, 32, 32, 3)
    assert np.bincount(subset.labels).tolist() == [50] * 10
    assert "CIFAR-10 training subset: 500 images" in subset.description
    assert subset.sha256 == data.CALIBRATION_SUBSET_SHA256
    # The first training images are a frog, two trucks, a deer and a car.
    assert subset.labels[:5].tolist() == [6, 9, 9, 4, 1]


def test_the_file_is_small_and_says_which_images_it_holds() -> None:
    assert FILE.stat().st_size <= 1.5 * 2**20
    with np.load(FILE) as arrays:
        indices, labels = arrays["indices"], arrays["labels"]
    assert len(np.unique(indices)) == 500
    assert (np.diff(indices.astype(int)) > 0).all()
    # Up to the first class that reaches 50, no image of the training set is left out.
    first_full = min(np.flatnonzero(labels == label)[49] for label in range(10))
    np.testing.assert_array_equal(indices[: first_full + 1], np.arange(first_full + 1))


def test_no_image_is_one_that_the_accuracy_is_measured_on() -> None:
    measured = {image.tobytes() for image in bundled_subset().images}
    assert not measured & {image.tobytes() for image in calibration_subset().images}


def test_an_altered_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundled").mkdir()
    monkeypatch.setattr(data.resources, "files", lambda _: tmp_path)
    with pytest.raises(DataError, match=r"cannot be read .*; install the package again"):
        calibration_subset()
    with np.load(FILE) as arrays:
        content = dict(arrays)
    content["images"] = content["images"].copy()
    content["images"][7, 3, 3, 1] ^= 1
    np.savez_compressed(tmp_path / "bundled" / data.CALIBRATION_SUBSET, **content)
    with pytest.raises(DataError, match="holds other images than the package shipped"):
        calibration_subset()
