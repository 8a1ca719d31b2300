"""Int8 graphs of both targets compute nearly the same, are the same every time, and others accept them."""

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from half_graphs import engine_of
from int8_graphs import INNER, NET, images, load, run, weights

from repr_export.errors import GraphError, PrecisionError
from repr_export.passes import run_pipeline
from repr_export.precision.int8.quantizable import TARGETS
from repr_export.precision.int8.quantize import quantizable, quantize
from repr_export.precision.int8.ranges import Ranges, measure_ranges


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("batch", [1, 5])
def test_the_int8_graph_computes_nearly_the_same_at_any_batch(
    net: bytes, ranges: Ranges, target: Any, batch: int
) -> None:
    made = quantize(net, ranges, target=target)
    entry = load(made.graph).input[0].type.tensor_type
    assert entry.elem_type == onnx.TensorProto.FLOAT
    assert entry.shape.dim[0].dim_param == "N"
    feed = images().inputs[:batch]
    expected = run(net, feed)
    for optimize in (True, False):
        got = run(made.graph, feed, optimize=optimize)
        assert got.shape == (batch, 5)
        assert got.dtype == np.float32
        difference = np.abs(got - expected).max()
        assert 0 < difference < 0.05 * np.ptp(run(net, images().inputs))


def test_a_fixed_batch_stays_fixed(graphs: Any) -> None:
    text = NET.replace("float[N,", "float[2,")
    content = graphs.content(text, **weights())
    measured = measure_ranges(content, images(17), "percentile")
    assert measured.images == 17
    for target in TARGETS:
        made = quantize(content, measured, target=target)
        assert run(made.graph, images().inputs[:2]).shape == (2, 5)


def test_the_same_arguments_give_the_same_bytes_and_leave_no_trace(
    net: bytes,
    ranges: Ranges,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "cwd").mkdir()
    (tmp_path / "temp").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    handlers = list(logging.getLogger().handlers)
    for target in TARGETS:
        first = quantize(net, measure_ranges(net, images(), "min-max"), target=target)
        again = quantize(net, ranges, target=target)
        assert first.graph == again.graph
        assert first.report == again.report
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert logging.getLogger().handlers == handlers
    assert capfd.readouterr() == ("", "")


def test_the_bytes_do_not_depend_on_the_order_of_sets(net: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(net)
    code = """
import hashlib, sys, pathlib, numpy as np
from repr_export.precision.int8.calibration import CalibrationSet
from repr_export.precision.int8.quantize import quantize
from repr_export.precision.int8.ranges import measure_ranges
net = pathlib.Path(sys.argv[1]).read_bytes()
values = np.random.default_rng(1).normal(size=(24, 3, 8, 8)).astype(np.float32)
ranges = measure_ranges(net, CalibrationSet(values, "noise"), "min-max")
for target in ("tensorrt", "cpu"):
    print(hashlib.sha256(quantize(net, ranges, target=target).graph).hexdigest())
"""
    ranges = measure_ranges(net, images(), "min-max")
    made = [quantize(net, ranges, target=target).graph for target in TARGETS]
    here = [hashlib.sha256(graph).hexdigest() for graph in made]
    for seed in ("1", "2"):
        result = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "net.onnx")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert result.stdout.split() == here


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_registered_networks_are_quantized_and_built(
    graphs: Any, tmp_path: Path, name: str
) -> None:
    model = graphs.capture(name)
    run_pipeline(model)
    content = ir.to_proto(model).SerializeToString()
    calibration = images(16, (3, 32, 32))
    measured = measure_ranges(content, calibration, "min-max")
    made = {target: quantize(content, measured, target=target) for target in TARGETS}
    layers = {"lenet5": 3, "resnet20": 18}[name]
    additions = {"lenet5": 0, "resnet20": 9}[name]
    expected = run(content, calibration.inputs)
    for each in made.values():
        assert len(each.report.quantized) == layers + additions
        noise = np.square(run(each.graph, calibration.inputs) - expected).mean()
        assert 10 * np.log10(expected.var() / noise) > 20
        assert len(each.graph) < 0.4 * len(content)
    assert engine_of(made["tensorrt"].graph)
    # On CPUs every convolution but the first, and every addition, becomes an integer kernel.
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(made["cpu"].graph, options, providers=["CPUExecutionProvider"])
    kinds = [each.op_type for each in onnx.load(tmp_path / "optimized.onnx").graph.node]
    convolutions = {"lenet5": 1, "resnet20": 18 + 2}[name]  # two are shortcuts
    found = [kinds.count(kind) for kind in ("QLinearConv", "QLinearAdd", "Relu")]
    assert found == [convolutions, additions, 0]


# Refusals


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (["left3"], r"there is no node 'left3' .* left2"),
        (INNER, r"nothing is left to quantize: .*left \(excluded\)"),
    ],
)
def test_what_cannot_be_excluded(net: bytes, ranges: Ranges, exclude: Any, message: str) -> None:
    with pytest.raises(PrecisionError, match=message):
        quantize(net, ranges, target="cpu", exclude=exclude)


def test_a_graph_of_first_and_last_layers_is_refused(graphs: Any) -> None:
    content = graphs.content(
        "g (float[N,4] x) => (float[N,4] y) { [a] h = Gemm(x, w) [b] y = Gemm(h, w) }",
        w=graphs.draw(4, 4),
    )
    with pytest.raises(PrecisionError, match=r"no layer to quantize: a \(first layer\), b \(last"):
        quantizable(content, "tensorrt")
    model = graphs.parse("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    with pytest.raises(PrecisionError, match="no Conv, Gemm or MatMul in it"):
        quantizable(ir.to_proto(model).SerializeToString(), "cpu")


@pytest.mark.parametrize("target", TARGETS)
def test_what_cannot_be_quantized(graphs: Any, net: bytes, ranges: Ranges, target: Any) -> None:
    tensors = {name: each for name, each in ranges.tensors.items() if name not in ("lr", "x")}
    for content, measured, message in (
        (b"not a graph", ranges, "cannot be read"),
        (quantize(net, ranges, target=target).graph, ranges, "already; give the fp32 graph"),
        (
            *(graphs.content(NET, opset=12, **weights()), ranges),
            "need opset 13 or later, the graph has 12; .*--opset 13",
        ),
        (
            *(net, Ranges(tensors, "min-max", 24, "noise")),
            "no range was measured for lr, x; measure",
        ),
    ):
        with pytest.raises(GraphError, match=message):
            quantize(content, measured, target=target)
