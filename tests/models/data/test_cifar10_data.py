"""CIFAR-10 from its three layouts, damaged and hostile files, and the bundled subset."""

import hashlib
import pickle
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import Hostile
from numpy.typing import NDArray

from repr_models import DataError, ImageSet, bundled_subset, load_cifar10
from repr_models.data import cifar10 as data
from repr_models.data.cifar10 import calibration_subset

SIZES = {"train": 20, "test": 6}
Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


@pytest.fixture(autouse=True)
def tiny_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_SIZES", SIZES)


def arrays(split: str) -> Arrays:
    rng = np.random.Generator(np.random.PCG64(len(split)))
    images = rng.integers(0, 256, (SIZES[split], 32, 32, 3), dtype=np.uint8)
    return images, rng.integers(0, 10, SIZES[split])


def planes(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As published: 1024 red values of an image, row by row, then green, then blue."""
    rows = [
        [image[y, x, c] for c in range(3) for y in range(32) for x in range(32)] for image in images
    ]
    return np.array(rows, np.uint8)


def batches(split: str) -> dict[str, Arrays]:
    names = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    parts = (np.split(array, len(names)) for array in arrays(split))
    return dict(zip(names, zip(*parts, strict=True), strict=True))


def write_npz(folder: Path) -> None:
    for split in SIZES:
        images, labels = arrays(split)
        np.savez_compressed(
            folder / f"cifar10_{split}.npz", images=images, labels=labels.astype(np.uint8)
        )


def write_python(folder: Path) -> None:
    for split in SIZES:
        for name, (images, labels) in batches(split).items():
            batch = {
                b"batch_label": b"of the test",
                b"labels": [int(label) for label in labels],
                b"data": planes(images),
                b"filenames": [b"a.png"] * len(labels),
            }
            # The published files are of protocol 2 and name numpy's module by its old place.
            content = pickle.dumps(batch, protocol=2)
            (folder / name).write_bytes(content.replace(b"numpy._core", b"numpy.core"))


def write_binary(folder: Path) -> None:
    for split in SIZES:
        for name, (images, labels) in batches(split).items():
            rows = np.concatenate([labels.astype(np.uint8)[:, None], planes(images)], axis=1)
            rows.tofile(folder / f"{name}.bin")


LAYOUTS = [
    pytest.param(write_npz, "", id="npz"),
    pytest.param(write_python, "cifar-10-batches-py", id="python"),
    pytest.param(write_python, "", id="python-files"),
    pytest.param(write_binary, "cifar-10-batches-bin", id="binary"),
    pytest.param(write_binary, "", id="binary-files"),
]


@pytest.mark.parametrize(("write", "inside"), LAYOUTS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_each_layout_gives_the_same_images(
    write: Callable[[Path], None], inside: str, split: str, tmp_path: Path
) -> None:
    (tmp_path / inside).mkdir(exist_ok=True)
    write(tmp_path / inside)
    found = load_cifar10(tmp_path, split)
    images, labels = arrays(split)
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.labels.dtype == np.int64
    assert found.images.flags.c_contiguous
    assert found.description == f"CIFAR-10 {split} set: all {SIZES[split]} images"


def test_a_pickle_of_a_later_protocol_is_read(tmp_path: Path) -> None:
    """Protocol 4 names numpy's functions by strings on the stack, not by opcodes."""
    images, labels = arrays("test")
    batch = {b"data": planes(images), b"labels": labels.tolist()}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol=4))
    np.testing.assert_array_equal(load_cifar10(tmp_path, "test").images, images)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_code_in_a_pickle_is_refused_and_not_run(protocol: int, tmp_path: Path) -> None:
    made = tmp_path / "made-by-the-pickle"
    content = pickle.dumps({b"data": Hostile(made), b"labels": []}, protocol=protocol)
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=r"asks for \w+\.mkdir, which is not data"):
        load_cifar10(tmp_path, "test")
    assert not made.exists()
    pickle.loads(content)
    assert made.exists(), "the pickle is harmless: this test would pass without the check"


def test_an_object_array_in_an_npz_is_refused(tmp_path: Path) -> None:
    made = tmp_path / "made-by-the-array"
    hostile = np.empty(1, object)
    hostile[0] = Hostile(made)
    np.savez(tmp_path / "cifar10_test.npz", images=hostile, labels=hostile, allow_pickle=True)
    with pytest.raises(DataError, match="damaged"):
        load_cifar10(tmp_path, "test")
    assert not made.exists()


FILES = [
    pytest.param(write_npz, "cifar10_test.npz", id="npz"),
    pytest.param(write_python, "test_batch", id="python"),
    pytest.param(write_binary, "test_batch.bin", id="binary"),
]


@pytest.mark.parametrize(("write", "file"), FILES)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.5, 0.9, 0.99, 0.9999])
def test_a_truncated_file_is_damaged(
    write: Callable[[Path], None], file: str, share: float, tmp_path: Path
) -> None:
    write(tmp_path)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"CIFAR-10 test set is damaged \(.+\); fetch it again"):
        load_cifar10(tmp_path, "test")


@pytest.mark.parametrize(("write", "file"), FILES)
@pytest.mark.parametrize("content", [b"<html>404</html>", b"\x80\x02}q\x00.", b"\x93NUMPY", b"."])
def test_another_file_of_that_name_is_damaged(
    write: Callable[[Path], None], file: str, content: bytes, tmp_path: Path
) -> None:
    write(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        load_cifar10(tmp_path, "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": lambda x: x[:-1]}, r"images are \(5, 32, 32, 3\) uint8, expected \(6,"),
        ({"images": lambda x: x.astype(np.float32)}, "float32"),
        ({"images": lambda x: x[:, :16]}, r"\(6, 16, 32, 3\)"),
        ({"labels": lambda x: x[:-1]}, r"labels are \(5,\)"),
        ({"labels": lambda x: x.astype(np.float32)}, "labels are .* float32"),
        ({"labels": lambda x: x + 5}, r"labels span \d\.\.1\d, expected 0\.\.9"),
        ({"labels": lambda x: x - 9}, "labels span -"),
        ({"images": None}, "images is not"),
        ({"labels": None}, "labels is not"),
    ],
)
def test_arrays_that_are_not_cifar_or_not_there_are_damaged(
    change: dict[str, Callable[[NDArray[Any]], NDArray[Any]] | None], message: str, tmp_path: Path
) -> None:
    content: dict[str, NDArray[Any]] = dict(zip(("images", "labels"), arrays("test"), strict=True))
    for key, function in change.items():
        array = content.pop(key)
        if function is not None:
            content[key] = function(array)
    np.savez(tmp_path / "cifar10_test.npz", **content)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        load_cifar10(tmp_path, "test")


def test_a_batch_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_python(tmp_path)
    (tmp_path / "data_batch_3").unlink()
    with pytest.raises(DataError, match="data_batch_3 missing"):
        load_cifar10(tmp_path, "train")
    assert len(load_cifar10(tmp_path, "test")) == SIZES["test"]


@pytest.mark.parametrize("folder", [".", "nowhere"])
def test_an_empty_folder_says_what_was_looked_for(folder: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no CIFAR-10 train set here; .*cifar10_train\.npz"):
        load_cifar10(tmp_path / folder, "train")


def test_there_are_two_splits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'train' or 'test', got 'val'"):
        load_cifar10(tmp_path, "val")


def test_an_image_set_checks_its_arrays() -> None:
    images, labels = arrays("test")
    with pytest.raises(DataError, match=r"must be .* uint8"):
        ImageSet(images.transpose(0, 3, 1, 2), labels, "planes first")
    with pytest.raises(DataError, match="6 images need as many int64 labels"):
        ImageSet(images, labels[:-1], "a label short")
    with pytest.raises(DataError, match="uint8"):
        ImageSet(images, labels.astype(np.uint8), "labels of uint8")


def test_the_hash_is_of_pixels_then_labels() -> None:
    images, labels = arrays("test")
    by_hand = images.tobytes() + b"".join(int(label).to_bytes(8, "little") for label in labels)
    first = ImageSet(images, labels, "a")
    assert first.sha256 == hashlib.sha256(by_hand).hexdigest()
    assert ImageSet(images[::-1], labels, "b").sha256 != first.sha256


# --- what ships -----------------------------------------------------------------------------

SHIPPED = [
    # reader, file, split, images a class, labels of the published set's first images
    pytest.param(bundled_subset, data.BUNDLED_SUBSET, "test", 200, [3, 8, 8, 0, 6, 6], id="test"),
    pytest.param(
        calibration_subset, data.CALIBRATION_SUBSET, "training", 50, [6, 9, 9, 4, 1], id="training"
    ),
]
FOLDER = Path(str(resources.files("repr_models"))) / "bundled"


@pytest.mark.parametrize(("read", "file", "split", "each", "first"), SHIPPED)
def test_the_first_images_of_each_class_ship(
    read: Callable[[], ImageSet], file: str, split: str, each: int, first: list[int]
) -> None:
    subset = read()
    assert subset.images.shape == (10 * each, 32, 32, 3)
    assert np.bincount(subset.labels).tolist() == [each] * 10
    assert subset.labels[: len(first)].tolist() == first
    assert subset.description == (
        f"CIFAR-10 {split} subset: {10 * each:,} images, the first {each} of each class"
    )
    assert len(np.unique(subset.images.reshape(10 * each, -1), axis=0)) == 10 * each
    assert (FOLDER / file).stat().st_size <= {200: 6, 50: 1.5}[each] * 2**20
    with np.load(FOLDER / file) as arrays:
        indices, labels = arrays["indices"].astype(int), arrays["labels"]
    assert (np.diff(indices) > 0).all()
    assert indices[-1] < {"test": 10_000, "training": 50_000}[split]
    # Up to the first class that is full, no image of the whole set is left out.
    first_full = min(np.flatnonzero(labels == label)[each - 1] for label in range(10))
    np.testing.assert_array_equal(indices[: first_full + 1], np.arange(first_full + 1))


def test_no_calibration_image_is_one_that_the_accuracy_is_measured_on() -> None:
    measured = {image.tobytes() for image in bundled_subset().images}
    assert not measured & {image.tobytes() for image in calibration_subset().images}


def test_the_pixels_are_those_of_the_published_set() -> None:
    pixels = hashlib.sha256(bundled_subset().images.tobytes()).hexdigest()
    assert pixels == "2604dccd3d4c3aa0e6504b43cdf8a5f3f5e37f783ec0922625192b99368b2a9d"


@pytest.mark.parametrize(("read", "file"), [param.values[:2] for param in SHIPPED])
def test_an_altered_subset_is_noticed(
    read: Callable[[], ImageSet], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundled").mkdir()
    with np.load(FOLDER / file) as arrays:
        content = dict(arrays)
    content["images"][7, 0, 0, 0] ^= 1
    altered = tmp_path / "bundled" / file
    np.savez(altered, **content)
    monkeypatch.setattr(resources, "files", lambda _: tmp_path)
    with pytest.raises(DataError, match="holds other images than the package shipped"):
        read()
    altered.write_bytes(altered.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"cannot be read .*; install the package again"):
        read()
    altered.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        read()
