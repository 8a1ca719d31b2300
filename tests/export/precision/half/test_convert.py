"""Half precision is written into the graph: types and Casts of whole networks, constants, bodies."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from half_graphs import BF16, FLOAT, FP16, folded, reasons, types_of

from repr_export.graph.values import unrounded
from repr_export.precision.half.convert import to_half


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_whole_network_becomes_fp16_with_one_cast_at_each_end(
    graphs: Any, halve: Any, name: str
) -> None:
    model = folded(graphs, name)
    floats = [node for node in model.graph if node.outputs[0].dtype == FLOAT]
    report = halve(model, tolerance=2e-3)
    assert (report.kept, report.casts, report.half) == ((), 2, len(floats))
    assert set(types_of(model, "Conv")) == set(types_of(model, "Gemm")) == {FP16}
    assert types_of(model, "Cast") == [FP16, FLOAT]
    assert FLOAT not in {value.dtype for value in model.graph.initializers.values()}
    assert report.weights.values > 10_000
    assert report.weights.underflowed == report.weights.overflowed == 0
    assert str(report).startswith(f"{len(floats)} nodes in fp16, 2 casts")


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_bf16_raises_the_opset_and_averages_many_values_in_fp32(
    graphs: Any, halve: Any, name: str
) -> None:
    model = folded(graphs, name)
    report = halve(model, "bf16", tolerance=2e-2)
    assert model.opset_imports[""] == 22
    assert model.ir_version >= 10
    assert set(types_of(model, "Conv")) == {BF16}
    mean = {"ReduceMean": "it averages over 64 values; bf16 is left 16 at most"}
    expected = (mean, 4) if name == "resnet20" else ({}, 2)
    assert (reasons(report), report.casts) == expected


def test_half_inputs_and_outputs_take_no_casts(graphs: Any, halve: Any) -> None:
    model = folded(graphs, "lenet5")
    report = halve(model, io="half", tolerance=2e-3)
    assert report.casts == 0
    assert [model.graph.inputs[0].dtype, model.graph.outputs[0].dtype] == [FP16, FP16]


def content(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def test_running_twice_changes_nothing_more(graphs: Any) -> None:
    model = folded(graphs, "lenet5")
    to_half(model, "fp16")
    before = content(model)
    again = to_half(model, "fp16")
    assert (again.casts, again.weights.values) == (0, 0)
    assert content(model) == before


def test_clone_leaves_the_fp32_graph_and_its_float64_values(graphs: Any) -> None:
    model = folded(graphs, "resnet20")
    before = content(model)
    for precision in ("fp16", "bf16"):
        half = model.clone()
        to_half(half, precision)
        assert content(model) == before
        weight = next(node for node in model.graph if node.op_type == "Conv").inputs[1]
        assert not np.array_equal(unrounded(weight), unrounded(weight).astype(np.float32))


def test_a_value_is_cast_once_for_all_who_read_it(graphs: Any, halve: Any) -> None:
    model = graphs.parse(
        """g (float[N, 4] x) => (float[N, 4] y, float[N, 4] h) {
            h = Gemm(x, w)  a = Exp(h)  b = Softmax(h)  c = Gemm(h, w)  d = Gemm(x, w)
            e = Add(c, d)  s = Add(a, b)  t = Gemm(e, w)  y = Mul(s, t)
        }""",
        w=graphs.draw(4, 4) / 4,
    )
    report = halve(model)
    # x, a and b to fp16; h to fp32 once, for two readers and the output; y to fp32
    assert report.casts == 5
    assert types_of(model, "Cast").count(FP16) == 3


def test_constant_read_in_both_types_is_stored_in_both(graphs: Any, halve: Any) -> None:
    model = graphs.parse(
        """g (float[N, 4] x) => (float[N, 4] y) {
            [a] h = Gemm(x, w)  [b] k = Relu(h)  [c] y = Gemm(k, w)
        }""",
        w=graphs.draw(4, 4),
    )
    halve(model, keep=["a"])
    stored = {name: value.dtype for name, value in model.graph.initializers.items()}
    assert stored == {"w": FLOAT, "w.fp16": FP16}
    gemms = [node for node in model.graph if node.op_type == "Gemm"]
    assert [node.inputs[1].name for node in gemms] == ["w", "w.fp16"]


def test_bodies_go_on_reading_fp32(graphs: Any, halve: Any) -> None:
    model = graphs.parse(
        """g (float[N, 4] x, bool flag) => (float[N, 4] y) {
            h = Gemm(x, w)
            b = If(flag) <
                then_branch = then () => (float[N, 4] p) { q = Mul(h, h)  p = Add(q, w0) },
                else_branch = els () => (float[N, 4] r) { r = Neg(h) }
            >
            y = Gemm(b, w)
        }""",
        w=graphs.draw(4, 4),
        w0=graphs.draw(4),
    )
    for flag in (True, False):
        feeds = {"x": graphs.draw(4, 4, seed=3), "flag": np.array(flag)}
        report = halve(model.clone(), feeds=feeds, build=False)
        assert reasons(report) == {"If": "the body of If is left as it is"}
        assert report.casts == 4


def test_default_of_an_input_stays_a_default(graphs: Any) -> None:
    text = "g (float[N, 4] x, float[4] k) => (float[N, 4] y) { h = Gemm(x, w)  y = Mul(h, k) }"
    default = graphs.draw(4, seed=2)
    for io, dtype in (("fp32", FLOAT), ("half", FP16)):
        model = graphs.parse(text, w=graphs.draw(4, 4), k=default)
        to_half(model, "fp16", io=io)
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
        assert model.graph.initializers["k"].dtype == dtype
        assert model.graph.inputs[1].dtype == dtype
        kept = model.graph.initializers["k"].const_value.numpy()
        np.testing.assert_allclose(kept, default, rtol=1e-3)


def test_arithmetic_on_shapes_stays_exact(graphs: Any) -> None:
    model = graphs.parse(
        """g (float[N, 1, L] x) => (float[N, 1, M] y, int64[1] m) {
            c = Conv(x, w)  s = Shape <start = 2> (c)  f = Cast <to = 1> (s)  h = Mul(f, two)
            m = Cast <to = 7> (h)  sizes = Concat <axis = 0> (minus, m)
            t = Concat <axis = 2> (c, c)  y = Reshape(t, sizes)
        }""",
        w=graphs.draw(1, 1, 1),
        two=np.float32(2),
        minus=np.array([-1, 1]),  # N, then the one channel
    )
    report = to_half(model, "fp16")
    assert report.kept == ()
    assert types_of(model, "Mul") == [FLOAT]
    y, m = graphs.run(model, {"x": graphs.draw(1, 1, 2049)})
    assert m.tolist() == [4098]  # 2049 is no fp16 number
    assert y.shape == (1, 1, 4098)


def test_images_of_bytes_become_half_at_once(graphs: Any) -> None:
    model = graphs.parse(
        "g (uint8[N, 4] x, int64[N, 4] i) => (float[N, 4] y, float[N, 4] z) {"
        " f = Cast <to = 1> (x)  y = Gemm(f, w)  j = Cast <to = 1> (i)  z = Gemm(j, w) }",
        w=np.eye(4, dtype=np.float32),
    )
    report = to_half(model, "fp16")
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    x = np.array([[0, 1, 254, 255]], np.uint8)
    assert graphs.run(model, {"x": x, "i": x.astype(np.int64)})[0].tolist() == x.tolist()
    assert [kept.op for kept in report.kept] == ["Cast"]  # of int64


def test_floats_made_of_integers_become_half_by_a_cast(graphs: Any) -> None:
    model = graphs.parse(
        "g (float[N, 4] x, int64[2] n) => (float[M, 4] y) {"
        " c = ConstantOfShape <value = float[1] {2.5}> (n)  h = Gemm(x, w)  y = MatMul(c, h) }",
        w=np.eye(4, dtype=np.float32),
    )
    report = to_half(model, "fp16")
    assert reasons(report) == {"ConstantOfShape": "its output's type is not that of its inputs"}
    assert types_of(model, "MatMul") == [FP16]
    feeds = {"x": np.ones((3, 4), np.float32), "n": np.array([2, 3])}
    assert graphs.run(model, feeds)[0].tolist() == [[7.5] * 4] * 2


def test_quantized_nodes_stay_and_the_rest_becomes_half(graphs: Any, halve: Any) -> None:
    model = graphs.parse(
        """g (float[N, 3, 6, 6] x) => (float[N, 4, 2, 2] y) {
            c = Conv(x, w)  r = Relu(c)  q = QuantizeLinear(r, s, zero)
            d = DequantizeLinear(q, s, zero)  e = DequantizeLinear(v, t, zero)  y = Conv(d, e)
        }""",
        w=graphs.draw(4, 3, 3, 3),
        v=np.random.default_rng(0).integers(-127, 128, (4, 4, 3, 3)).astype(np.int8),
        s=np.float32(0.05),
        t=np.float32(1e-6),
        zero=np.int8(0),
    )
    report = halve(model, tolerance=5e-2)
    assert types_of(model, "Conv") == [FP16, FLOAT]
    assert model.graph.initializers["s"].dtype == model.graph.initializers["t"].dtype == FLOAT
    assert reasons(report)["Conv"] == "it reads quantized values"
    assert report.casts == 2
