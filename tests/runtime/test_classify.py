"""`classify`: from images to labels and probabilities, by the manifest's own account."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from refusals import refuses

from repr_models.data.cifar10 import bundled_subset
from repr_runtime import Prediction, load
from repr_runtime.errors import (
    ArtifactError,
    InputShapeError,
    InputTypeError,
    NonFiniteInputError,
    OptionError,
    PreprocessingMissingError,
)

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
        for wrong in (0, 1.5, None):
            for act in (session.classify, session.predictions):
                with refuses(OptionError, f"top must be a whole number, 1 or more, got {wrong}"):
                    act(image, top=wrong)


def test_logits_that_were_run_elsewhere(artifact: Path) -> None:
    images = images_of(4)
    with load(artifact, device="cpu") as session:
        logits = session.run(session.preprocess(images))["logits"]
        expected = session.classify(images, top=2)
        assert session.predictions(logits, top=2) == expected
        assert session.predictions(logits.tolist(), top=2) == expected
        assert session.predictions(logits[0], top=2) == expected[:1]
        for wrong in ({"logits": logits}, "logits"):
            with refuses(InputTypeError, f"logits are {type(wrong).__name__}", "'logits'"):
                session.predictions(wrong)  # type: ignore[arg-type]
        for shape in ((2, 7), (7,), (0, 5), (2, 5, 1), ()):
            with refuses(InputShapeError, f"shape {shape}", "expected (N, 5)"):
                session.predictions(np.zeros(shape))
        with refuses(NonFiniteInputError, "'logits' holds 1 values"):
            session.predictions([0, 1, np.inf, 3, 4])
    with load(artifact, device="cpu", nonfinite="allow") as session:
        (prediction,) = session.predictions([0, 1, np.inf, 3, 4])
        assert np.isnan(prediction.probability)


def test_equal_scores_keep_the_order_of_classes_and_large_ones_do_not_overflow(
    tiny: Any, tmp_path: Path
) -> None:
    model = onnx.load_from_string(tiny.graph())
    weight, bias = model.graph.initializer
    weight.CopyFrom(numpy_helper.from_array(np.zeros((48, 5), np.float32), "weight"))
    scores = np.array([9e4, 9e4, -9e4, 0.0, 9e4], np.float32)
    bias.CopyFrom(numpy_helper.from_array(scores, "bias"))
    path = tiny.write(tmp_path / "a", graph=model.SerializeToString())
    with load(path, device="cpu") as session:
        (prediction,) = session.classify(images_of(1))
    assert [index for index, _, _ in prediction.top] == [0, 1, 4, 2, 3]
    assert [p for _, _, p in prediction.top] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])


def test_what_the_manifest_must_say_for_it(tiny: Any, tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "a", labels=None)
    with load(path, device="cpu") as session:
        (prediction,) = session.classify(images_of(1))
    assert prediction.label == str(prediction.index)
    tiny.write(path, labels=LABELS[:3])
    with load(path, device="cpu") as session, refuses(ArtifactError, "3 labels for 5 classes"):
        session.classify(images_of(1))
    tiny.write(path, preprocessing=None)
    parts = ("does not say how images become inputs", "run()", "--mean and --std")
    with load(path, device="cpu") as session, refuses(PreprocessingMissingError, str(path), *parts):
        session.classify(images_of(1))


def test_an_output_that_is_no_logits(tiny: Any, tmp_path: Path) -> None:
    image, relu = ("batch", 3, 4, 4), helper.make_node("Relu", ["input"], ["map"])
    pre = tiny.parts()[0].preprocessing
    path = tiny.write_model(
        tmp_path / "a", [relu], {"input": image}, {"map": image}, preprocessing=pre
    )
    expected = "(1, 3, 4, 4), expected (N, classes); use run()"
    with load(path, device="cpu") as session, refuses(ArtifactError, expected):
        session.classify(images_of(1))


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
