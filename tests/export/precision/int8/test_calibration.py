"""Calibration images from the package and from folders, and the three methods that make ranges."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repr_export.errors import CalibrationError, GraphError, OptionError
from repr_export.precision.int8.calibration import (
    MOST_IMAGES,
    CalibrationSet,
    bundled_calibration,
    folder_calibration,
)
from repr_export.precision.int8.ranges import (
    METHODS,
    Range,
    entropy_threshold,
    histogram,
    measure_ranges,
    percentile_threshold,
)
from repr_models.data.cifar10 import bundled_subset, calibration_subset
from repr_runtime.artifact.manifest import PreprocessingInfo
from repr_runtime.errors import MissingExtraError
from repr_runtime.preprocess import preprocess

CIFAR = PreprocessingInfo(32, (32, 32), (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
SMALL = PreprocessingInfo(8, (8, 8), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def noise(count: int = 20, shape: tuple[int, ...] = (4,)) -> CalibrationSet:
    values = np.random.default_rng(5).normal(size=(count, *shape)).astype(np.float32)
    return CalibrationSet(values, "noise")


def write_images(folder: Path, count: int, size: tuple[int, int] = (8, 8)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(count)
    for index in range(count):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:04}.png")


# Images


def test_the_bundled_images_are_training_images_as_the_network_takes_them() -> None:
    calibration = bundled_calibration(CIFAR)
    assert calibration.inputs.shape == (500, 3, 32, 32)
    assert calibration.inputs.dtype == np.float32
    assert "CIFAR-10 training subset" in calibration.description
    np.testing.assert_array_equal(
        calibration.inputs[:2], preprocess(calibration_subset().images[:2], CIFAR)
    )
    measured = {image.tobytes() for image in preprocess(bundled_subset().images, CIFAR)}
    assert not measured & {image.tobytes() for image in calibration.inputs}
    large = PreprocessingInfo(None, (64, 64), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(CalibrationError, match=r"do not fit the network .*--calibration"):
        bundled_calibration(large)


def test_a_folder_of_images_in_any_format_and_depth(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 14)
    write_images(tmp_path / "b", 3, (20, 11))
    Image.new("L", (9, 9), 128).save(tmp_path / "grey.JPG")
    Image.new("P", (9, 9)).save(tmp_path / "palette.bmp")
    Image.new("RGBA", (9, 9)).save(tmp_path / "alpha.png")
    (tmp_path / "labels.txt").write_text("no image")
    calibration = folder_calibration(tmp_path, SMALL)
    assert calibration.inputs.shape == (20, 3, 8, 8)
    assert calibration.description == f"20 images, from the folder {tmp_path.name}"
    with Image.open(tmp_path / "a" / "0000.png") as image:
        expected = preprocess(np.asarray(image), SMALL)
    np.testing.assert_array_equal(calibration.inputs[:1], expected)
    assert folder_calibration(tmp_path, SMALL).sha256 == calibration.sha256
    assert noise(20, (3, 8, 8)).sha256 != calibration.sha256


def test_a_large_folder_gives_each_sub_folder_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_IMAGES == 500
    monkeypatch.setattr("repr_export.precision.int8.calibration.MOST_IMAGES", 20)
    for index, shade in enumerate((0, 255)):
        folder = tmp_path / f"class{index}"
        folder.mkdir()
        for number in range(30):
            Image.new("RGB", (8, 8), (shade, shade, shade)).save(folder / f"{number}.png")
    calibration = folder_calibration(tmp_path, SMALL)
    assert len(calibration) == 20
    assert (calibration.inputs[:, 0, 0, 0] > 0).sum() == 10
    assert "20 images of 60, at equal distances by name" in calibration.description


def test_a_folder_that_is_missing_or_holds_too_few_images(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("none", "file"):
        with pytest.raises(CalibrationError, match="no such folder; --calibration takes a folder"):
            folder_calibration(tmp_path / name, SMALL)
    for count in (0, 15):
        write_images(tmp_path, count)
        with pytest.raises(CalibrationError, match=f"holds {count} images .* give at least 16"):
            folder_calibration(tmp_path, SMALL)


def test_an_image_that_is_corrupt_or_smaller_than_the_crop_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, 16, (30, 30))
    broken = tmp_path / "0007.png"
    for content in (b"<html>", broken.read_bytes()[:500], b""):
        broken.write_bytes(content)
        with pytest.raises(
            CalibrationError, match=r"0007\.png cannot be read as an image \(.+take"
        ):
            folder_calibration(tmp_path, SMALL)
    Image.new("RGB", (4, 4)).save(broken)
    with pytest.raises(CalibrationError, match=r"0007\.png: .*4x4 pixels is smaller than"):
        folder_calibration(tmp_path, replace(SMALL, resize=None))


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, 16)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'repr-deploy\[export\]'"):
        folder_calibration(tmp_path, SMALL)


def test_a_set_must_be_large_enough_and_finite() -> None:
    with pytest.raises(CalibrationError, match=r"15 samples are too few to calibrate on \(noise\)"):
        noise(15)
    values = np.zeros((16, 4), np.float32)
    values[3, 2] = np.inf
    with pytest.raises(CalibrationError, match=r"infinite or undefined .*check --mean and --std"):
        CalibrationSet(values, "images")


# Thresholds


def test_a_histogram_counts_every_absolute_value_once() -> None:
    values = np.array([[0.0, -1.0, 1.0], [0.5, -0.25, 0.2499999]], np.float32)
    counts = histogram(values, 1.0)
    assert counts.sum() == 6
    assert counts.nonzero()[0].tolist() == [0, 1023, 1024, 2048, 4095]
    assert counts[4095] == 2  # the largest value belongs to the last bin


def test_the_percentile_leaves_one_value_in_ten_thousand_out() -> None:
    counts = np.zeros(100, np.int64)
    counts[9] = 99_990
    counts[99] = 10
    assert percentile_threshold(counts) == 0.10
    counts[99] = 11  # one more than one in ten thousand
    assert percentile_threshold(counts) == 1.0


def heavy_tailed(count: int) -> np.ndarray:
    """Student's t with 3 degrees of freedom: most values below 2, a few far out."""
    return np.random.default_rng(0).standard_t(3, size=count).astype(np.float32)


def test_entropy_keeps_a_flat_histogram_whole_and_cuts_a_thin_tail() -> None:
    assert entropy_threshold(np.full(4096, 50)) == 1.0
    values = heavy_tailed(200_000)
    largest = float(np.abs(values).max())
    cut = largest * entropy_threshold(histogram(values, largest))
    assert 2 < cut < 0.5 * largest
    assert (np.abs(values) > cut).mean() < 1e-3


def test_entropy_agrees_with_the_definition() -> None:
    """Kullback and Leibler's sum, written out loop by loop."""
    values = np.abs(heavy_tailed(50_000))
    counts = histogram(values, float(values.max()))

    def divergence(width: int) -> float:
        bins = [float(count) for count in counts]
        bins[0] = bins[1]
        p = bins[:width]
        p[-1] += sum(bins[width:])
        q = [0.0] * width
        for level in range(128):
            members = [b for b in range(width) if b * 128 // width == level and bins[b] > 0]
            for member in members:
                q[member] = sum(bins[m] for m in members) / len(members)
        total_p, total_q = sum(p), sum(q)
        pairs = [(a / total_p, b / total_q) for a, b in zip(p, q, strict=True) if a > 0]
        if any(b == 0 for _, b in pairs):
            return float("inf")
        return sum(a * np.log(a / b) for a, b in pairs)

    chosen = round(entropy_threshold(counts) * 4096)
    assert 128 < chosen < 4096
    least = divergence(chosen)
    for width in (chosen - 16, chosen + 16, 1024, 2048, 4096):
        assert divergence(width) >= least


# Ranges of graphs

RELU = "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"


def test_ranges_of_each_method_where_few_values_are_far_out(graphs: Any) -> None:
    content = graphs.content("g (float[N,2000] x) => (float[N,2000] y) { y = Relu(x) }")
    values = heavy_tailed(100_000).reshape(50, 2000)
    calibration = CalibrationSet(values, "heavy-tailed")
    measured = {method: measure_ranges(content, calibration, method) for method in METHODS}
    low, high = float(values.min()), float(values.max())
    assert measured["min-max"].tensors["x"] == Range(low, high)
    assert measured["min-max"].tensors["y"] == Range(0.0, high)
    for method in ("entropy", "percentile"):
        found = measured[method]
        assert 2 < found.tensors["x"].largest < 0.7 * max(-low, high)
        assert found.tensors["y"].low == 0.0
        assert 2 < found.tensors["y"].high < 0.7 * high
        assert (found.images, found.description) == (50, "heavy-tailed")
    cut = measured["percentile"].tensors["x"].largest
    # One value in ten thousand is cut, but for what falls in one bin of the histogram.
    assert 5 <= (np.abs(values) > cut).sum() <= 10


def test_ranges_do_not_depend_on_the_batches(graphs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    content = graphs.content("g (float[N,4] x) => (float[N,4] y) { h = Tanh(x) y = Neg(h) }")
    fixed = graphs.content("g (float[1,4] x) => (float[1,4] y) { h = Tanh(x) y = Neg(h) }")
    for method in METHODS:
        expected = measure_ranges(content, noise(), method)
        assert measure_ranges(fixed, noise(), method) == expected
        with monkeypatch.context() as patch:
            patch.setattr("repr_export.precision.int8.ranges._LARGEST_BATCH", 3)
            assert measure_ranges(content, noise(), method) == expected


def test_memory_bounds_the_batch(graphs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tensors of 4 floats are 32 bytes an image: of 200 bytes, three images on each core at once."""
    monkeypatch.setattr("repr_export.precision.int8.ranges._BATCH_BYTES", 200)
    monkeypatch.setattr("repr_export.precision.int8.ranges.usable_cores", lambda: 2)
    seen: list[tuple[str, int, int]] = []
    content = graphs.content(RELU)
    measure_ranges(content, noise(), "min-max", progress=lambda *args: seen.append(args))
    assert [done for _, done, _ in seen] == [3, 6, 9, 12, 15, 18, 20]
    assert {(what, total) for what, _, total in seen} == {("measuring ranges", 20)}


def test_only_float_tensors_have_ranges_and_one_that_overflows_is_named(graphs: Any) -> None:
    content = graphs.content(
        "g (float[N,4] x) => (float[N,4] y) { s = Shape(x) big = Exp(x) y = Reshape(big, s) }"
    )
    assert list(measure_ranges(content, noise(), "min-max").tensors) == ["x", "big", "y"]
    large = CalibrationSet(np.full((16, 4), 1000, np.float32), "large")
    with pytest.raises(CalibrationError, match="the tensor 'big' overflows"):
        measure_ranges(content, large)
    unknown: Any = "median"
    with pytest.raises(OptionError, match="one of min-max, entropy, percentile, got median"):
        measure_ranges(content, noise(), unknown)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "g (float[N,4] x, float[N,4] z) => (float[N,4] y) { y = Add(x, z) }",
            r"\['z'\]\)? are missing",
        ),
        ("g (int64[N,4] x) => (int64[N,4] y) { y = Neg(x) }", "Unexpected input data type"),
        (RELU.replace("4", "3"), "cannot run the graph: "),
        ("", "cannot be read"),
    ],
)
def test_graphs_that_take_no_images(graphs: Any, text: str, message: str) -> None:
    content = graphs.content(text) if text else b"not a graph"
    with pytest.raises(GraphError, match=message):
        measure_ranges(content, noise())
