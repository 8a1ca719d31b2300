"""The scan and the search find the layer that was made to break under int8, and only that."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from repr_export.errors import PrecisionError
from repr_export.precision.int8.calibration import CalibrationSet
from repr_export.precision.int8.quantizable import TARGETS
from repr_export.precision.int8.quantize import quantizable
from repr_export.precision.int8.ranges import Ranges, measure_ranges
from repr_export.precision.int8.sensitivity import NodeSensitivity, bisect, scan

WIDTH, CLASSES, LAYERS = 16, 6, 7
BAD = 3


def chain(graphs: Any, bad: tuple[int, ...] = (BAD,)) -> bytes:
    """A stem, ``LAYERS`` linear layers with ReLU, and a head.

    In front of a bad layer one channel is 1000 times as large as the others, and the layer's
    weights for it are 0: exact in fp32, while int8 has one scale for all and loses the others.
    """
    rng = np.random.default_rng(2)
    lines, weights = ["h0 = Gemm(x, w_stem)"], {}
    weights["w_stem"] = rng.normal(size=(8, WIDTH)).astype(np.float32)
    matrices = [
        np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0].astype(np.float32) for _ in range(LAYERS)
    ]
    for index, matrix in enumerate(matrices):
        lines.append(f"[layer{index}] l{index} = Gemm(h{index}, w{index}, b{index})")
        lines.append(f"h{index + 1} = Relu(l{index})")
        weights[f"w{index}"] = matrix
        weights[f"b{index}"] = np.full(WIDTH, 0.5, np.float32)
    for index in bad:
        weights[f"w{index - 1}"][:, 0] = 0  # the layer before makes the channel, by its bias
        weights[f"b{index - 1}"][0] = 5000.0
        weights[f"w{index}"][0, :] = 0
    lines.append(f"[head] y = Gemm(h{LAYERS}, w_head)")
    weights["w_head"] = rng.normal(size=(WIDTH, CLASSES)).astype(np.float32)
    text = f"g (float[N,8] x) => (float[N,{CLASSES}] y) {{ {' '.join(lines)} }}"
    return graphs.content(text, **weights)


def images(count: int, seed: int) -> CalibrationSet:
    values = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    return CalibrationSet(values, "noise")


def logits(graph: bytes, inputs: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": inputs})[0]
    return result


def agreement(graph: bytes) -> Callable[[bytes], float]:
    """The share of 1,000 inputs that another graph classifies as ``graph`` does.

    Of logits less their mean over the inputs, so that all classes occur.
    """
    inputs = images(1000, 9).inputs
    reference = logits(graph, inputs)
    mean = reference.mean(axis=0)
    labels = (reference - mean).argmax(1)
    return lambda other: float(((logits(other, inputs) - mean).argmax(1) == labels).mean())


def measured(graph: bytes) -> tuple[bytes, Ranges, CalibrationSet]:
    """What :func:`scan` and :func:`bisect` begin with."""
    calibration = images(64, 4)
    return graph, measure_ranges(graph, calibration, "min-max"), calibration


def test_the_scan_ranks_the_planted_layer_first(graphs: Any) -> None:
    graph, *_ = given = measured(chain(graphs))
    seen: list[tuple[str, int, int]] = []
    rows = scan(*given, target="tensorrt", progress=lambda *args: seen.append(args))
    assert rows[0].node == f"layer{BAD}"
    assert sorted(row.node for row in rows) == sorted(quantizable(graph, "tensorrt").weighted)
    assert rows[0].sqnr_db < 10
    assert rows[1].sqnr_db > 25
    assert [row.sqnr_db for row in rows] == sorted(row.sqnr_db for row in rows)
    assert {row.multiply_adds for row in rows} == {WIDTH * WIDTH}
    assert seen == [("quantizing one node at a time", i + 1, LAYERS) for i in range(LAYERS)]
    assert scan(*given, target="tensorrt") == rows


def test_the_ratio_is_the_signal_over_the_change(graphs: Any) -> None:
    """One layer that int8 represents exactly is infinitely good; another by hand."""
    eye = np.eye(4, dtype=np.float32)
    graph = graphs.content(
        """g (float[N,4] x) => (float[N,4] y) {
            [a] h = Gemm(x, w) [b] i = Gemm(h, w) [c] y = Gemm(i, w) }""",
        w=eye,
    )
    whole = np.random.default_rng(0).integers(-127, 128, (32, 4)).astype(np.float32)
    whole[0, 0] = 127  # so the scale is 1
    calibration = CalibrationSet(whole, "whole numbers")
    ranges = measure_ranges(graph, calibration, "min-max")
    rows = scan(graph, ranges, calibration, target="tensorrt")
    assert rows == (NodeSensitivity("b", float("inf"), 16, 32),)
    calibration = CalibrationSet(whole + np.float32(0.25), "with a quarter")
    ranges = Ranges(ranges.tensors, "min-max", 32, "")  # the scale stays 1: a quarter is lost
    (row,) = scan(graph, ranges, calibration, target="tensorrt")
    change = np.clip(np.rint(calibration.inputs), -128, 127) - calibration.inputs
    expected = 10 * np.log10(calibration.inputs.var() / np.square(change).mean())
    assert row.sqnr_db == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("target", TARGETS)
def test_bisecting_finds_the_planted_layer(graphs: Any, target: Any) -> None:
    graph, *_ = given = measured(chain(graphs))
    evaluate = agreement(graph)
    found = bisect(*given, evaluate, target=target, reference=1.0, max_drop=8.0)
    # On CPUs the layer before writes its output in bytes, and so has to be kept with it.
    expected = {f"layer{BAD}"} if target == "tensorrt" else {f"layer{BAD}", f"layer{BAD - 1}"}
    assert set(found.keep) == expected
    assert found.accuracy == evaluate(found.quantized.graph) >= 0.92
    assert set(found.quantized.report.quantized) == {f"layer{i}" for i in range(LAYERS)} - set(
        found.keep
    )
    total = 8 * WIDTH + LAYERS * WIDTH**2 + WIDTH * CLASSES
    assert found.kept_share == pytest.approx(len(expected) * WIDTH**2 / total)
    assert f"{len(expected)} nodes kept, {found.kept_share:.1%} of the multiply-adds" in str(found)
    assert found.as_dict()["keep"] == found.keep


def test_no_member_of_the_result_can_be_left_out(graphs: Any) -> None:
    graph, *_ = given = measured(chain(graphs, bad=(2, 5)))
    evaluate = agreement(graph)
    found = bisect(*given, evaluate, target="tensorrt", reference=1.0, max_drop=8.0)
    assert set(found.keep) == {"layer2", "layer5"}


def test_a_harmless_network_keeps_nothing_and_is_measured_once(graphs: Any) -> None:
    given = measured(chain(graphs, bad=()))
    calls: list[bytes] = []

    def evaluate(made: bytes) -> float:
        calls.append(made)
        return 0.995

    found = bisect(*given, evaluate, target="tensorrt", reference=1.0, max_drop=0.5)
    assert found.keep == ()
    assert found.kept_share == 0
    assert found.evaluations == len(calls) == 1
    assert "0.50 points below fp32 with every node quantized; none has to be kept" in str(found)


def test_members_that_are_not_needed_go_back(graphs: Any) -> None:
    """The accuracy hangs on one layer that the scan ranks last: all before it are let go."""
    given = measured(chain(graphs, bad=()))
    last = scan(*given, target="tensorrt")[-2].node

    def evaluate(made: bytes) -> float:
        nodes = {each.name: each for each in onnx.load_model_from_string(made).graph.node}
        return 0.5 if nodes[last].input[0].endswith("_dq") else 0.9

    seen: list[str] = []
    found = bisect(
        *given,
        evaluate,
        target="tensorrt",
        reference=0.9,
        max_drop=0.0,
        progress=lambda what, *_: seen.append(what),
    )
    assert found.keep == (last,)
    assert found.accuracy == 0.9
    assert "accuracy with 0 nodes kept: 50.00%" in seen
    assert sum(what.startswith("accuracy") for what in seen) == found.evaluations


def test_a_bound_that_no_set_reaches_and_an_accuracy_in_percent_are_errors(graphs: Any) -> None:
    given = measured(chain(graphs, bad=()))
    with pytest.raises(PrecisionError, match=r"alone in int8 .* 20\.00 points .* allowed are 0\.5"):
        bisect(*given, lambda _: 0.7, target="tensorrt", reference=0.9, max_drop=0.5)
    with pytest.raises(PrecisionError, match=r"must lie in 0\.\.1, got 91"):
        bisect(*given, lambda _: 91.0, target="cpu", reference=0.9, max_drop=0.5)
