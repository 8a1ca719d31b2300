"""Made-up results, and real artifacts that are small enough to write in a test."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import page_results
import pytest
from onnx import helper
from onnx_bytes import model_of
from PIL import Image

from repr_bench import inputs
from repr_bench.results.graph import Graph
from repr_bench.results.results import Results
from repr_models.data.images import ImageSet
from repr_runtime.artifact.manifest import (
    Manifest,
    NetworkInfo,
    PreprocessingInfo,
    TensorSpec,
    WeightsInfo,
)
from repr_runtime.artifact.reading import describe_file
from repr_runtime.artifact.writing import write_artifact


@pytest.fixture
def graph() -> Graph:
    return page_results.GRAPH


@pytest.fixture
def results() -> Results:
    return page_results.RESULTS


ArtifactMaker = Callable[..., Path]
PREPROCESSING = PreprocessingInfo(32, (32, 32), (0.0,) * 3, (1.0,) * 3)


@pytest.fixture
def make_artifact(tmp_path: Path) -> ArtifactMaker:
    """Writes an artifact of one linear layer, whose logit c is the mean of the input times c."""

    def make(
        name: str = "linear",
        *,
        batch: int | str = "batch",
        dataset: str | None = "cifar10",
        weights: str = "bundled",
        sha256: str | None = "ab" * 32,
        network: str | None = None,
        parent: Path = tmp_path,
        classes: int = 10,
        size: int | str = 32,
        preprocessing: bool = True,
        record: Mapping[str, Any] | None = None,
        more_precisions: tuple[str, ...] = (),
        golden: bool = False,
    ) -> Path:
        features = 3 * 32 * 32
        matrix = np.outer(np.full(features, 1 / features), np.arange(classes)).astype(np.float32)
        nodes = [
            helper.make_node("Flatten", ["input"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        ]
        image, logits = (batch, 3, size, 32), (batch, classes)
        content = model_of(nodes, {"input": image}, {"logits": logits}, {"w": matrix})
        paths = {"model.onnx": "fp32"} | {f"model.{p}.onnx": p for p in more_precisions}
        files = dict.fromkeys(paths, content)
        entries = [describe_file(path, content, "graph", p) for path, p in paths.items()]
        if golden:
            stream, x = io.BytesIO(), np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
            np.savez(stream, **{"input.input": x, "output.logits": x.reshape(2, -1) @ matrix})
            files["golden.npz"] = stream.getvalue()
            entries.append(describe_file("golden.npz", files["golden.npz"], "golden"))
        manifest = Manifest(
            network=NetworkInfo(network or name, name, dataset, features * classes, None, "onnx"),
            weights=WeightsInfo(weights, "linear.safetensors", sha256, record or {}),
            inputs=(TensorSpec("input", "float32", image),),
            outputs=(TensorSpec("logits", "float32", logits),),
            preprocessing=PREPROCESSING if preprocessing else None,
            labels=None,
            files=tuple(entries),
            receipts={"golden": {"samples": 2, "tolerance": {"logits": 1e-4}}} if golden else {},
        )
        folder = parent / name
        write_artifact(folder, manifest, files)
        return folder

    return make


@pytest.fixture
def no_progress() -> Any:
    """A listener that remembers what it was told."""

    class Heard:
        def __init__(self) -> None:
            self.told: list[str] = []
            self.advanced: list[tuple[str, float, float]] = []

        def tell(self, text: str) -> None:
            self.told.append(text)

        def advance(self, what: str, done: float, total: float) -> None:
            self.advanced.append((what, done, total))

    return Heard()


def _bundled_are(monkeypatch: pytest.MonkeyPatch, images: ImageSet) -> ImageSet:
    load = inputs._load
    monkeypatch.setattr(inputs, "_load", lambda folder: load(folder) if folder else images)
    return images


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> ImageSet:
    """The bundled images are twenty."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    return _bundled_are(
        monkeypatch, ImageSet(pixels, np.zeros(20, np.int64), "twenty noisy images")
    )


@pytest.fixture
def ten_images(monkeypatch: pytest.MonkeyPatch) -> ImageSet:
    """The bundled images are ten; ``make_artifact``'s network, which says 9, is right for three."""
    labels = np.array([9, 9, 9, 0, 1, 2, 3, 4, 5, 6])
    pixels = np.full((10, 32, 32, 3), 200, np.uint8)
    return _bundled_are(monkeypatch, ImageSet(pixels, labels, "ten grey images"))


@pytest.fixture
def cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the package, for this test alone."""
    monkeypatch.setenv("REPR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def in_tmp_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is written without a folder lands in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write_pictures() -> Callable[..., Path]:
    """Writes three grey pictures into a folder, or into each of its folders that are named."""

    def write(root: Path, *folders: str) -> Path:
        for folder in folders or ("",):
            (root / folder).mkdir(parents=True, exist_ok=True)
            for number in range(3):
                image = Image.new("RGB", (40, 36), (200, 10 * number, 0))
                image.save(root / folder / f"{number}.png")
        return root

    return write
