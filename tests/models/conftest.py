"""A tiny set in CIFAR-10's layouts, so that the readers and the training can be run in a test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from repr_models import ImageSet
from repr_models.data import cifar10 as data

SIZES = {"train": 160, "test": 40}


def make_colours(count: int, seed: int) -> ImageSet:
    """Images that any network can tell apart: each class has a colour of its own, and noise."""
    rng = np.random.Generator(np.random.PCG64(seed))
    labels = np.arange(count, dtype=np.int64) % 10
    palette = np.random.Generator(np.random.PCG64(1)).integers(20, 236, (10, 3))
    noise = rng.integers(-20, 20, (count, 32, 32, 3))
    images = (palette[labels][:, None, None] + noise).astype(np.uint8)
    return ImageSet(images, labels, "colours")


@pytest.fixture(scope="session")
def colours() -> Callable[[int, int], ImageSet]:
    """Makes ``count`` separable images from ``seed``."""
    return make_colours


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The networks of these tests are small, and other tests run beside them."""
    torch.set_num_threads(1)


@pytest.fixture
def cifar_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the separable set as ``cifar10_*.npz``; CIFAR-10 has 160 and 40 images."""
    monkeypatch.setattr(data, "_SIZES", SIZES)
    folder = tmp_path / "data"
    folder.mkdir()
    for seed, (split, count) in enumerate(SIZES.items()):
        found = make_colours(count, seed)
        np.savez(folder / f"cifar10_{split}.npz", images=found.images, labels=found.labels)
    return folder
