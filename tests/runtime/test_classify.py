"""`classify`: from images to labels and probabilities, by the manifest's own account."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from repr_models.data.cifar10 import bundled_subset
from repr_runtime import Prediction, load
from repr_runtime.errors import ArtifactError, ImageError, PreprocessingMissingError

LABELS = ("ant", "bee", "cat", "dog", "elk")


def images_of(count: int) -> list[Any]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (4 + i, 9 - i % 5, 3), dtype=np.uint8) for i in range(count)]


def test_predictions_are_the_softmax_of_the_logits(tiny: Any, artifact: Path) -> None:
    images = images_of(6)
    with load(artifact, device="cpu") as session:
        predictions = session.classify(images)
        logits = tiny.logits(session.preprocess(images)).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert len(predictions) == 6
    for row, prediction in zip(expected, predictions, strict=True):
        order = sorted(range(5), key=lambda c: -row[c])
        assert [index for index, _, _ in prediction.top] == order
        assert [label for _, label, _ in prediction.top] == [LABELS[c] for c in order]
        np.testing.assert_allclose([p for _, _, p in prediction.top], row[order], rtol=1e-4)
        assert sum(p for _, _, p in prediction.top) == pytest.approx(1, abs=1e-12)
        assert (prediction.index, prediction.label) == (order[0], LABELS[order[0]])
        assert prediction.probability == prediction.top[0][2]
        assert type(prediction.index) is int
        assert type(prediction.probability) is float


def test_top(artifact: Path) -> None:
    (image,) = images_of(1)
    with load(artifact, device="cpu") as session:
        whole = session.classify(image)[0]
        for top in (1, 2, 5, 50):
            (prediction,) = session.classify(image, top=top)
            assert prediction == Prediction(*whole.top[0], whole.top[:top])
        with pytest.raises(ValueError, match="at least 1, got 0"):
            session.classify(image, top=0)


def test_equal_scores_keep_the_order_of_classes_and_large_ones_do_not_overflow(
    tiny: Any, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("Constant", [], ["scores"], value_floats=[9e4, 9e4, -9e4, 0.0, 9e4]),
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("ReduceMean", ["flat", "axis"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "scores"], ["logits"]),
        helper.make_node("Constant", [], ["axis"], value_ints=[1]),
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
    ]
    nodes = [*nodes[5:], *nodes[:5]]
    manifest, _ = tiny.parts()
    path = tiny.write_model(
        tmp_path / "a",
        nodes,
        {"input": ("batch", 3, 4, 4)},
        {"logits": ("batch", 5)},
        labels=LABELS,
        preprocessing=manifest.preprocessing,
    )
    with load(path, device="cpu") as session:
        (prediction,) = session.classify(images_of(1))
    assert [index for index, _, _ in prediction.top] == [0, 1, 4, 2, 3]
    assert [p for _, _, p in prediction.top] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8])
def test_a_graph_of_a_fixed_batch_gives_the_same(tiny: Any, tmp_path: Path, count: int) -> None:
    images = images_of(count)
    with load(tiny.write(tmp_path / "free"), device="cpu") as session:
        expected = session.classify(images)
    with load(tiny.write(tmp_path / "fixed", batch=4), device="cpu") as session:
        actual = session.classify(images)
        assert session.self_test().samples == 3
    assert len(actual) == count
    for a, b in zip(actual, expected, strict=True):
        assert [t[:2] for t in a.top] == [t[:2] for t in b.top]
        assert [t[2] for t in a.top] == pytest.approx([t[2] for t in b.top], rel=1e-5)


def test_without_labels_classes_are_numbers(tiny: Any, tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "a", labels=None)
    with load(path, device="cpu") as session:
        (prediction,) = session.classify(images_of(1))
    assert prediction.label == str(prediction.index)


def test_labels_that_are_not_as_many_as_classes(tiny: Any, tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "a", labels=LABELS[:3])
    with load(path, device="cpu") as session, pytest.raises(ArtifactError) as caught:
        session.classify(images_of(1))
    assert "3 labels for 5 classes" in str(caught.value)


def test_without_preprocessing(tiny: Any, tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "a", preprocessing=None)
    with load(path, device="cpu") as session, pytest.raises(PreprocessingMissingError) as caught:
        session.classify(images_of(1))
    for part in (str(path), "does not say how images become inputs", "run()", "--mean and --std"):
        assert part in str(caught.value)


def test_an_output_that_is_no_logits(tiny: Any, tmp_path: Path) -> None:
    manifest, _ = tiny.parts()
    shape = {"input": ("batch", 3, 4, 4)}
    path = tiny.write_model(
        tmp_path / "a",
        [helper.make_node("Relu", ["input"], ["map"])],
        shape,
        {"map": ("batch", 3, 4, 4)},
        preprocessing=manifest.preprocessing,
    )
    with load(path, device="cpu") as session, pytest.raises(ArtifactError) as caught:
        session.classify(images_of(1))
    assert "(1, 3, 4, 4), expected (N, classes); use run()" in str(caught.value)


def test_what_is_no_image(artifact: Path) -> None:
    with load(artifact, device="cpu") as session:
        for images in (np.zeros((4, 4), np.uint8), [], np.zeros((4, 4, 3), np.float32)):
            with pytest.raises(ImageError):
                session.classify(images)


def test_real_images_are_recognised(lenet5: Path) -> None:
    subset = bundled_subset()
    with load(lenet5, device="cpu") as session:
        predictions = session.classify(subset.images[:200])
        assert session.manifest.labels is not None
        hits = [p.index == label for p, label in zip(predictions, subset.labels, strict=False)]
        assert np.mean(hits) >= 0.6
        for prediction in predictions:
            assert prediction.label == session.manifest.labels[prediction.index]
        report = session.self_test()
    assert report.samples > 0
    assert report.max_abs <= report.tolerance
    assert report.top1_agreement == 1
