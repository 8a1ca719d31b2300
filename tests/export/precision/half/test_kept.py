"""What stays in fp32 in a half-precision graph, and why."""

from typing import Any

import numpy as np
import pytest
from half_graphs import FLOAT, FP16, folded, reasons, types_of

from repr_export.errors import PrecisionError
from repr_export.layout import Layout
from repr_export.precision.half.convert import to_half
from repr_export.precision.half.emulate import emulate_half
from repr_export.precision.half.formats import FORMATS
from repr_export.precision.half.overflow import Overflow, find_overflows, largest_values
from repr_export.precision.half.rules import largest_window
from repr_export.samples import SampleSet


def samples(x: np.ndarray) -> SampleSet:
    return SampleSet("given", "x", {"x": x})


def test_statistics_and_exponentials_stay_in_fp32(graphs: Any, halve: Any) -> None:
    model = graphs.parse(
        """g (float[N, 4, 8, 8] x) => (float[N, 4] y) {
            c = Conv <pads = [1, 1, 1, 1]> (x, w)  i = InstanceNormalization(c, scale, shift)
            r = Relu(i)  z = Resize <mode = "nearest"> (r, , scales)
            d = Conv(z, w)  m = GlobalAveragePool(d)  f = Flatten(m)  y = Softmax(f)
        }""",
        w=graphs.draw(4, 4, 3, 3),
        scale=graphs.draw(4, seed=1),
        shift=graphs.draw(4, seed=2),
        scales=np.array([1, 1, 2, 2], np.float32),
    )
    report = halve(model)
    assert reasons(report) == {
        "InstanceNormalization": "normalisation statistics",
        "GlobalAveragePool": "it averages over 196 values; fp16 is left 128 at most",
        "Flatten": "it stands between nodes in fp32",
        "Softmax": "exponentials",
    }
    assert set(types_of(model, "Conv")) == {FP16}
    assert types_of(model, "Resize") == types_of(model, "Relu") == [FP16]
    assert report.casts == 4  # in, around the normalisation twice, before the mean
    resize = next(node for node in model.graph if node.op_type == "Resize")
    assert resize.inputs[2].dtype == FLOAT  # ONNX has no other type for it


def test_hand_made_normalisation_stays_in_fp32_as_a_whole(graphs: Any, halve: Any) -> None:
    model = graphs.parse(
        """g (float[N, 8] x) => (float[N, 4] y) {
            a = Gemm(x, w)  m = ReduceMean <keepdims = 1> (a, axes)  d = Sub(a, m)
            q = Pow(d, two)  v = ReduceMean <keepdims = 1> (q, axes)  e = Add(v, eps)
            s = Sqrt(e)  n = Div(d, s)  y = Gemm(n, u)
        }""",
        w=graphs.draw(8, 300),
        u=graphs.draw(300, 4, seed=5),
        two=np.float32(2),
        eps=np.float32(1e-12),
        axes=np.array([1]),
    )
    report = halve(model)
    assert {"ReduceMean", "Pow", "Add", "Sqrt"} <= set(reasons(report))
    assert set(types_of(model, "Gemm")) == {FP16}
    assert types_of(model, "Add") == [FLOAT]
    assert "would be 0 in fp16" in reasons(report)["Add"]


def test_weight_that_would_be_infinite_keeps_its_node(graphs: Any, halve: Any) -> None:
    weight = graphs.draw(4, 3, 3, 3)
    weight[1, 2, 0, 0] = 1e5
    model = graphs.parse(
        """g (float[N, 3, 8, 8] x) => (float[N, 4, 4, 4] y) {
            c = Conv(x, w)  s = Mul(c, small)  y = Conv(s, u)
        }""",
        w=weight,
        small=np.float32(1e-1),
        u=graphs.draw(4, 4, 3, 3, seed=4),
    )
    report = halve(model, feeds={"x": 1e-3 * graphs.draw(4, 3, 8, 8, seed=5)})
    assert reasons(report) == {"Conv": "its constant 'w' holds 1e+05; fp16 ends at 65504"}
    assert types_of(model, "Conv") == [FLOAT, FP16]


def test_values_too_large_on_samples_keep_who_makes_and_who_reads_them(
    graphs: Any, halve: Any
) -> None:
    text = """g (float[N, 3, 8, 8] x) => (float[N, 4, 4, 4] y) {
        [first] c = Conv(x, w)  [relu] r = Relu(c)  [shrink] s = Mul(r, small)
        [second] y = Conv(s, u)
    }"""
    weights = {
        "w": 5e3 * graphs.draw(4, 3, 3, 3),
        "small": np.float32(1e-4),
        "u": graphs.draw(4, 4, 3, 3, seed=4),
    }
    blind = graphs.parse(text, **weights)
    feeds = graphs.feeds(blind, 40)
    to_half(blind, "fp16")
    assert not np.isfinite(graphs.run(emulate_half(blind), feeds)[0]).all()

    model = graphs.parse(text.replace("y)", "y, float[N, 4, 6, 6] c)"), **weights)
    expected, first = graphs.run(model, feeds)
    largest = float(np.abs(first).max())
    model = graphs.parse(text, **weights)
    report = halve(model, samples=SampleSet("given", "x", feeds))
    assert [kept.node for kept in report.kept] == ["first", "relu", "shrink"]
    assert report.overflows[0] == Overflow("c", pytest.approx(largest), ("first", "relu"))
    assert f"'c' reaches {largest:.4g}; fp16 ends at 65504" in report.kept[0].reason
    got = graphs.run(emulate_half(model), feeds)[0]
    assert np.abs(got - expected).max() < 2e-2 * np.ptp(expected)


def test_overflow_search_runs_in_batches_and_skips_bf16(graphs: Any) -> None:
    model = graphs.parse(
        "g (float[2, 3] x) => (float[2, 3] y) { y = Mul(x, k) }", k=np.float32(1e4)
    )
    x = np.zeros((6, 3), np.float32)
    x[5, 1], x[4, 0] = -4.0, np.inf  # infinity, as of a mask, is infinity in fp16 too
    samples = SampleSet("given", "x", {"x": x}, Layout({}, 2))
    largest = {value.name: size for value, size in largest_values(model, samples).items()}
    assert largest == {"x": 4.0, "y": 4e4}
    assert [o.value for o in find_overflows(model, FORMATS["fp16"], samples)] == ["y"]
    assert find_overflows(model, FORMATS["bf16"], samples) == ()


@pytest.mark.parametrize(("name", "factor"), [("x", 1e5), ("y", 1.0)])
def test_half_ends_refuse_what_would_overflow_in_them(
    graphs: Any, name: str, factor: float
) -> None:
    model = graphs.parse(
        "g (float[N, 2] x) => (float[N, 2] y) { y = Gemm(x, w) }",
        w=np.full((2, 2), 1e-6 if name == "x" else 5e4, np.float32),
    )
    with pytest.raises(PrecisionError, match=f"'{name}' reaches .* in fp32"):
        to_half(
            model,
            "fp16",
            io="half",
            samples=SampleSet("given", "x", {"x": np.full((1, 2), factor, np.float32)}),
        )


def test_named_nodes_stay_and_what_lies_between_them(graphs: Any, halve: Any) -> None:
    model = folded(graphs, "lenet5")
    convs = [node.name for node in model.graph if node.op_type == "Conv"]
    report = halve(model, keep=convs)
    assert types_of(model, "Conv") == [FLOAT, FLOAT]
    assert types_of(model, "Relu")[0] == FLOAT
    assert set(types_of(model, "Gemm")) == {FP16}
    assert [kept.reason for kept in report.kept if kept.node in convs] == ["asked for"] * 2
    assert report.casts == 2  # none before or between the two


@pytest.mark.parametrize(
    ("precision", "opset", "options", "message"),
    [
        ("fp16", 20, {"keep": ["relo"]}, "'relo' to be kept; did you mean relu"),
        ("bf16", 20, {"io": "half"}, "NumPy knows no bfloat16"),
        ("bf16", 13, {}, "needs opset 22, the graph has 13"),
        ("fp16", 20, {"samples": samples(np.full((2, 3), np.nan, "f4"))}, "'x' is not a number"),
    ],
)
def test_what_cannot_be_half_is_refused(
    graphs: Any, precision: Any, opset: int, options: Any, message: str
) -> None:
    text = "g (float[N, 3] x) => (float[N, 3] y) { [relu] y = Relu(x) }"
    with pytest.raises(PrecisionError, match=message):
        to_half(graphs.parse(text, opset=opset), precision, **options)


def test_types_that_onnx_does_not_admit_keep_the_node(graphs: Any) -> None:
    text = """g (float[N, 3, 4, 4] x) => (float[N, 3, 1, 1] y, float[N, 3] z) {
        a = Relu(x)  y = local.Strange(a)
        b = Flatten <axis = 1> (a)  c = Gemm(b, w)  z = local.Other(c)
    }
    <domain: "elsewhere", opset_import: ["": 20]> unused (p) => (q) { q = Relu(p) }"""
    model = graphs.parse(text, w=graphs.draw(48, 3))
    report = to_half(model, "fp16")
    assert reasons(report)["Strange"] == "local's Strange is not known to take fp16"
    assert types_of(model, "Gemm") == [FP16]
    for node in model.graph:
        if node.domain == "local":
            assert node.inputs[0].dtype == FLOAT


@pytest.mark.parametrize(("precision", "size"), [("fp16", 128), ("bf16", 16)])
def test_windows_up_to_the_bound_are_averaged_in_half(
    graphs: Any, precision: str, size: int
) -> None:
    assert largest_window(FORMATS[precision]) == size
    for over in (0, 1):
        model = graphs.parse(
            f"""g (float[N, 2, {size + over}] x) => (float[N, 2, 1] y) {{
                c = Conv(x, w)  m = GlobalAveragePool(c)  y = Conv(m, w)
            }}""",
            opset=22,
            w=graphs.draw(2, 2, 1),
        )
        kept = reasons(to_half(model, precision))
        assert ("GlobalAveragePool" in kept) == bool(over)


def test_window_that_the_graph_leaves_open_is_averaged_in_fp32(graphs: Any, halve: Any) -> None:
    model = graphs.parse(
        """g (float[N, 2, H, 8] x) => (float[N, 2, 1, 1] y) {
            c = Conv(x, w)  m = ReduceMean(c, axes)  y = Conv(m, w)
        }""",
        w=graphs.draw(2, 2, 1, 1),
        axes=np.array([2, 3]),
    )
    assert "leaves open" in reasons(halve(model, build=False))["ReduceMean"]
