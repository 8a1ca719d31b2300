"""Graphs of strangers: each is exported and proves itself, or is refused with a reason."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from repr_export import cli
from repr_export.errors import ExportError, GraphError, OptionError, PrecisionError
from repr_export.options import ExportOptions
from repr_export.pipeline import Exported, export
from repr_export.sources import trial
from repr_runtime import Batcher, load
from repr_runtime.errors import NotBatchableError


@pytest.fixture
def bring(tmp_path: Path, graphs: Any) -> Any:
    """Export the graph of that text, with its initializers, and load the artifact."""

    def exported(
        text: str, options: ExportOptions | None = None, change: Any = None, **weights: Any
    ) -> Exported:
        proto = onnx.load_model_from_string(graphs.content(text, **weights))
        if change is not None:
            change(proto)
        path = tmp_path / "graph.onnx"
        onnx.save(proto, path)
        return export(str(path), tmp_path / "out", options)

    return exported


def inseparable(done: Exported) -> str:
    """Why requests must not be joined; the artifact proves itself on the way."""
    with load(done.path, device="cpu") as session:
        session.self_test()
        if session.inseparable:
            with pytest.raises(NotBatchableError):
                Batcher(session, max_batch=4, max_delay=0, queue_limit=8)
        return session.inseparable


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }", ""),
        ("g (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }", ""),
        ("g (float[N, 3] x) => (float[3, N] y) { y = Transpose(x) }", "output 'y' has no row"),
        (
            "g (float[N, 3] x) => (float y) { y = ReduceSum <keepdims=0>(x) }",
            "output 'y' has no row",
        ),
        ("g (float k, float[N, 3] x) => (float[N, 3] y) { y = Mul(x, k) }", "input 'k' has no row"),
        (
            "g (float[N, 3] x, float[5, 3] w) => (float[N, 5] y) { y = Gemm <transB=1>(x, w) }",
            "input 'w'",
        ),
        ("g (float[N, 3] x) => (int64[2, n] y) { y = NonZero(x) }", "output 'y' has no row"),
        (
            "g (float[N, 3] x) => (float[N, 3] y) { m = ReduceMean <keepdims=1>(x, a) y = Sub(x, m) }",
            "depends on the others of its batch",
        ),
        (
            "g (float[4, 3] x) => (float[4, 3] y) { m = ReduceMean <keepdims=1>(x, a) y = Sub(x, m) }",
            "depends on the others of its batch",
        ),
        ("g (float[N, 3] x) => (float[N, 3] y) { y = Reshape(x, one) }", "one sample at a time"),
    ],
)
def test_where_the_batch_is_and_whether_it_can_be_cut_is_found_out(
    bring: Any, text: str, reason: str
) -> None:
    weights = {"a": np.array([0]), "one": np.array([1, 3])}
    done = bring(text, **{name: w for name, w in weights.items() if f", {name})" in text})
    assert reason in inseparable(done)
    assert bool(reason) == bool(inseparable(done))


def test_hidden_states_have_their_batch_where_they_have_it(bring: Any, graphs: Any) -> None:
    """An LSTM: (steps, batch, inputs), and states whose second axis is the batch."""
    text = """g (float[T, B, 4] x, float[1, B, 5] h) => (float[T, 1, B, 5] o, float[1, B, 5] k)
        { o, k = LSTM <hidden_size=5>(x, w, r, , , h) }"""
    weights = {"w": graphs.draw(1, 20, 4), "r": graphs.draw(1, 20, 5, seed=1)}
    shapes = {"x": (6, "N", 4), "h": (1, "N", 5)}
    done = bring(text, ExportOptions(input_shapes=shapes), **weights)
    assert "input 'x' has no row" in inseparable(done)
    assert done.manifest.network.multiply_adds is not None


def test_sizes_of_minus_one_are_free(bring: Any) -> None:
    def minus_one(proto: onnx.ModelProto) -> None:
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = -1

    done = bring("g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }", change=minus_one)
    assert inseparable(done) == ""
    with load(done.path, device="cpu") as session:
        assert session.run(np.ones((7, 3), np.float32))["y"].shape == (7, 3)


def test_sparse_initializers_are_kept(bring: Any) -> None:
    def sparse(proto: onnx.ModelProto) -> None:
        values = numpy_helper.from_array(np.float32([2, 3]), "w")
        indices = numpy_helper.from_array(np.array([[0, 1], [2, 0]]), "at")
        proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3, 3]))

    done = bring("g (float[N, 3] x) => (float[N, 3] y) { y = MatMul(x, w) }", change=sparse)
    with load(done.path, device="cpu") as session:
        y = session.run(np.eye(3, dtype=np.float32))["y"]
    assert y.tolist() == [[0, 2, 0], [0, 0, 0], [3, 0, 0]]


def test_integers_are_drawn_from_what_the_graph_can_take(bring: Any, graphs: Any) -> None:
    """A table of four rows, a code that it is compared with, and a byte: others would not run."""
    text = """g (int64[N] row, uint8[N] byte, int64[N] code) => (float[N, 3] y)
        { t = Gather(table, row) b = Cast <to=1>(byte) u = Unsqueeze(b, last) s = Add(t, u)
          c = Equal(code, known) f = Cast <to=1>(c) v = Unsqueeze(f, last) y = Mul(s, v) }"""
    weights = {"table": graphs.draw(4, 3), "last": np.array([1]), "known": np.array(16000)}
    done = bring(text, **weights)
    content = np.load(done.path / "golden.npz")
    assert set(content["input.row"].tolist()) <= set(range(4))
    assert content["input.code"].tolist() == [16000] * 4
    assert len(set(content["input.byte"].tolist())) > 2


def test_samples_of_ones_own_are_what_is_proven_on(bring: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=np.float32([[1, 2], [3, 4], [5, 6]]))
    text = "g (float[N, T] x) => (float[N, T] y) { y = Relu(x) }"
    done = bring(text, ExportOptions(samples=tmp_path / "mine.npz"))
    golden = done.manifest.receipts["golden"]
    assert (golden["samples"], "3 samples of" in golden["description"]) == (3, True)
    assert np.load(done.path / "golden.npz")["input.x"].tolist() == [[1, 2], [3, 4], [5, 6]]

    for arrays, message in (
        ({"z": np.ones((1, 2), "f4")}, "holds z; the graph's inputs are x"),
        ({"x": np.ones((1, 2), "f8")}, r"is float64\[1, 2\]"),
        ({"x": np.float32([[np.nan, 1]])}, "holds NaN"),
    ):
        np.savez(tmp_path / "mine.npz", **arrays)
        with pytest.raises(OptionError, match=message):
            bring(text, ExportOptions(samples=tmp_path / "mine.npz"))
    (tmp_path / "mine.npz").write_bytes(b"no archive")
    with pytest.raises(OptionError, match="cannot be read"):
        bring(text, ExportOptions(samples=tmp_path / "mine.npz"))


def test_a_graph_that_cancels_is_judged_by_what_it_is_in_float64(bring: Any, graphs: Any) -> None:
    text = """g (float[N, 256] x) => (float[N, 8] y)
        { h = Add(x, far) d = MatMul(h, w) y = Sub(d, back) }"""
    w = np.abs(graphs.draw(256, 8))
    weights = {"far": np.float32(1e4), "w": w, "back": np.float32(1e4) * w.sum(0)}
    (row,) = bring(text, **weights).manifest.receipts["parity"]["differences"]
    assert row["own_rounding"] is None or row["own_rounding"] > 1e-5


def test_masks_of_infinity_go_to_half_precision(bring: Any, graphs: Any) -> None:
    from repr_export.precision.options import PrecisionOptions

    text = """g (float[N, 4] x) => (float[N, 4] y)
        { m = Add(x, hidden) s = Softmax(m) y = MatMul(s, w) }"""
    weights = {"hidden": np.float32([0, -np.inf, 0, 0]), "w": graphs.draw(4, 4)}
    options = ExportOptions(precision=PrecisionOptions(names=("fp16",)))
    receipt = bring(text, options, **weights).manifest.receipts["precision"]["model.fp16.onnx"]
    assert receipt["conversion"]["overflows"] == ()


def test_half_precision_that_would_be_none_is_refused(bring: Any) -> None:
    """All there is stands in the branches of an If, where types are left as they are."""
    from repr_export.precision.options import PrecisionOptions

    text = """g (float[N, 4] x, bool b) => (float[N, 4] y)
        { y = If (b) <then_branch = yes () => (float[N, 4] p) { p = MatMul(x, w) },
                      else_branch = no () => (float[N, 4] p) { p = Relu(x) }> }"""
    options = ExportOptions(precision=PrecisionOptions(names=("fp16",)))
    with pytest.raises(PrecisionError, match="no node can compute in fp16"):
        bring(text, options, w=np.eye(4, dtype=np.float32))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("g () => (float[1] y) { y = Identity(k) }", "has no inputs"),
        ("g (float[0, 3] x) => (float[0, 3] y) { y = Relu(x) }", "fixed to 0"),
        (
            "g (float[N, 3] x) => (seq(float[N, 3]) y) { y = SequenceConstruct(x) }",
            "'y' is no tensor",
        ),
    ],
)
def test_what_cannot_be_served_is_refused(bring: Any, text: str, message: str) -> None:
    weights = {"k": np.ones(1, np.float32)} if "k" in text.split("{")[1] else {}
    with pytest.raises(GraphError, match=message):
        bring(text, **weights)


def test_a_crash_of_onnx_runtime_is_not_ours(
    bring: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "crash.py"
    program.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(trial, "__file__", str(program))
    with pytest.raises(GraphError, match=r"crashes \(signal 11\)"):
        bring("g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }")
    assert not (tmp_path / "out").exists()


def test_shapes_are_given_by_name(
    tmp_path: Path, graphs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "g (float[N, T] x, float[2, N, S] s) => (float[N, T] y) { y = Relu(x) }"
    (tmp_path / "g.onnx").write_bytes(graphs.content(text))
    command = [str(tmp_path / "g.onnx"), "-o", str(tmp_path), "--input", "5", "--input", "s=2xNx3"]
    assert cli.main(command) == 0
    assert "input 's' has no row for each sample" in capsys.readouterr().out
    with pytest.raises(ExportError, match="--input NAME= does not go with lenet5"):
        export("lenet5", tmp_path, ExportOptions(input_shapes={"x": (3,)}))


def test_what_is_written_must_prove_itself(
    bring: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The golden samples are damaged on their way to the file: there is no artifact."""
    savez = np.savez_compressed

    def damaged(stream: Any, **arrays: Any) -> None:
        kept = {
            k: v + 1 if isinstance(v, np.ndarray) and k == "output.y" else v
            for k, v in arrays.items()
        }
        savez(stream, **kept)

    monkeypatch.setattr(np, "savez_compressed", damaged)
    with pytest.raises(ExportError, match="does not pass its own check, self-test"):
        bring("g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }")
    assert not [*(tmp_path / "out").glob("*")]


def test_the_types_of_the_reference_are_widened(graphs: Any) -> None:
    from repr_export.graph.widen import widen

    text = """g (float16[N, 3] x, bool[1] b) => (float[N, 3] y)
        { c = Constant <value_float = 0.1>() h = Cast <to=1>(x)
          y = If (t) <then_branch = yes () => (float[N, 3] p) { p = Mul(h, c) },
                      else_branch = no () => (float[N, 3] p) { p = Add(h, k) }> }"""
    proto = onnx.load_model_from_string(
        graphs.content(text.replace("(t)", "(b)").replace("bool[1] b", "bool b"), k=np.float32([1]))
    )
    from onnx.reference import ReferenceEvaluator

    wide = widen(proto)
    x = np.full((1, 3), 1 / 3)
    (y,) = ReferenceEvaluator(wide).run(None, {"x": x, "b": np.array(True)})
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, x * np.float64(np.float32(0.1)))
    assert proto.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
