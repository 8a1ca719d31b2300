"""Graphs that few write and someone brings: exported and verified, or refused with a way out."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from repr_export.errors import ExportError, PrecisionError
from repr_export.options import ExportOptions
from repr_export.pipeline import export
from repr_export.precision.options import PrecisionOptions
from repr_runtime import load
from repr_runtime.errors import NonFiniteOutputError

X, Y = "g (float[n,4] x) => ", "(float[n,4] y) "
INFINITE = np.float32([0, -np.inf, 0, 0])


@pytest.fixture
def write(graphs: Any, tmp_path: Path) -> Any:
    def write(text: str, **weights: Any) -> str:
        (tmp_path / "g.onnx").write_bytes(graphs.content(text, **weights))
        return str(tmp_path / "g.onnx")

    return write


@pytest.mark.parametrize(
    ("text", "options", "outputs"),
    [
        (f"{X}{Y} {{ y = Relu(x) }}", {"ir_version": 14}, ["n", 4]),
        (f"{X}(float[n,3] y) {{ y = Relu(x) }}", {}, ["n", 4]),
        (f"{X}(float y) {{ y = Relu(x) }}", {}, ["n", 4]),
        (f"{X}(float[n,4] y) <float[7,7] a> {{ a = Relu(x) y = Neg(a) }}", {}, ["n", 4]),
        (f"{X}(float[n,0] y) {{ y = Slice(x, o, o, i) }}", {"o": [0], "i": [1]}, ["n", 0]),
        (f"{X}{Y} {{ y = Add(x, m) }}", {"m": INFINITE}, ["n", 4]),
        (
            f"{X}(float[n,2,4] y) {{ s = SequenceConstruct(x, x) "
            "y = ConcatFromSequence<axis=1, new_axis=1>(s) }",
            {"opset": 11},
            ["n", 2, 4],
        ),
        (
            f"{X}{Y} {{ e = SequenceEmpty() s = SequenceInsert(e, x) y = SequenceAt(s, i) }}",
            {"i": 0},
            ["n", 4],
        ),
        (
            "g (float16[n,3,8,8] x) => (float16[n,3,6,6] y) { c = Conv(x, w) y = BN(c) }",
            {"w": np.random.default_rng(0).normal(size=(3, 3, 3, 3)).astype(np.float16)},
            ["n", 3, 6, 6],
        ),
    ],
)
def test_exported(
    write: Any,
    graphs: Any,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    text: str,
    options: Any,
    outputs: list[int | str],
) -> None:
    if "BN" in text:
        options = {**options, **graphs.batchnorm(3, dtype=np.float16)}
    artifact = export(write(text, **options), tmp_path / "o").path
    with load(artifact, device="cpu", nonfinite="allow") as session:
        assert list(session.outputs[0].shape) == outputs
    assert capfd.readouterr() == ("", "")


def test_outputs_that_are_infinite_in_the_original_too(write: Any, tmp_path: Path) -> None:
    artifact = export(write(f"{X}{Y} {{ y = Add(x, m) }}", m=INFINITE), tmp_path / "o").path
    with (
        load(artifact, device="cpu") as session,
        pytest.raises(NonFiniteOutputError, match="if it should, load with nonfinite='allow'"),
    ):
        session.run(np.zeros((1, 4), np.float32))


def test_sparse_constants(tmp_path: Path) -> None:
    values = onnx.numpy_helper.from_array(np.float32([2, 3]), "w")
    indices = onnx.numpy_helper.from_array(np.array([0, 5]), "i")
    sparse = helper.make_sparse_tensor(values, indices, [4, 4])
    nodes = [
        helper.make_node("Constant", [], ["w"], sparse_value=sparse),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y])), tmp_path / "s.onnx")
    model = onnx.load(tmp_path / "s.onnx")
    model.opset_import[0].version = 20
    onnx.save(model, tmp_path / "s.onnx")
    with load(export(str(tmp_path / "s.onnx"), tmp_path / "o").path, device="cpu") as session:
        out = session.run(np.ones((1, 4), np.float32))["y"]
    np.testing.assert_array_equal(out, [[2, 3, 0, 0]])


@pytest.mark.parametrize(
    ("text", "weights", "message"),
    [
        (
            f"{X}{Y} {{ r = RandomNormalLike(x) y = Add(x, r) }}",
            {},
            "gives another output 'y' each time .* eval mode",
        ),
        (
            f"{X}{Y} {{ y = Mul(x, w) }}",
            {"w": np.float32([1, np.nan, 1, 1])},
            "weight 'w' holds NaN; train",
        ),
        (f"{X}() {{ y = Relu(x) }}", {}, "g.onnx has no outputs"),
        (
            "g (float[n,4] x, float[n,0] z) => (float[n,4] y) { y = Relu(x) }",
            {},
            r"input z: float32\[n, 0\] is always empty; take it out",
        ),
        (
            "g (float[n,6] x, int64[2] s) => (float[a,b] y) { y = Reshape(x, s) }",
            {},
            "cannot be reshaped .*give real ones with --samples FILE.npz",
        ),
        (
            "g (double[n,3,8,8] x) => (double[n,1,8,8] y) { y = Conv(x, w) }",
            {"w": np.ones((1, 3, 1, 1))},
            "implementation for Conv.*; write it with other operators or types$",
        ),
        (
            "g (float[5,n,4] x) => (float[n,5,4] y) { y = Transpose<perm=[1,0,2]>(x) }",
            {},
            "--input 16x4, or --input x=5xNx4 if n is the batch",
        ),
    ],
)
def test_refused_with_a_way_out(
    write: Any, tmp_path: Path, text: str, weights: Any, message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        export(write(text, **weights), tmp_path / "o")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("text", "opset", "message"),
    [
        (f"{X}(float[n,n] y) {{ t = Transpose(x) y = MatMul(x, t) }}", 20, ""),
        (f"{X}{Y} {{ y = MatMul(x, w) }}", 9, "fp16 needs opset 10, .*export it with --opset 10"),
        (
            "g (float16[n,4] x) => (float16[n,4] y) { y = MatMul(x, h) }",
            20,
            "none is in fp32 as it is.*leave --fp16 out",
        ),
        (f"{X}{Y} {{ y = Relu(x) }}", 20, "no multiply-adds to do in it; leave --fp16 out"),
    ],
)
def test_half_precision(write: Any, tmp_path: Path, text: str, opset: int, message: str) -> None:
    weights = {"w": np.eye(4, dtype=np.float32), "h": np.eye(4, dtype=np.float16)}
    used = {name: values for name, values in weights.items() if f", {name})" in text}
    options = ExportOptions(precision=PrecisionOptions(names=("fp16",)))
    if not message:
        assert export(write(text, opset=opset, **used), tmp_path / "o", options)
        return
    with pytest.raises(PrecisionError, match=message):
        export(write(text, opset=opset, **used), tmp_path / "o", options)


def test_int8_is_refused_before_anything_is_measured(write: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=np.zeros((32, 4), np.float32))
    precision = PrecisionOptions(names=("int8",), calibration=tmp_path / "c.npz")
    target = write("g (float[n,4] x) => (bool[n,4] y) { y = IsNaN(x) }")
    with pytest.raises(PrecisionError, match=r"no Conv, Gemm or MatMul in it.*leave --int8 out"):
        export(target, tmp_path / "o", ExportOptions(precision=precision))
