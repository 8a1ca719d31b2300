"""Every reason for which a BatchNorm stays, and that the graph is left as it was."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest

from repr_export.passes import fold_batchnorm

BN = "BatchNormalization"
PARAMETERS = "scale, shift, mean, var"


CONV = "g (float[N,4,9,9] x) => (float[N,C,H,W] y)"
PAIR = "g (float[N,4,9,9] x) => (float[N,C,H,W] y, float[N,C2,H2,W2] z)"
BOTH = f"c = Conv(x, w) y = {BN}(c, {PARAMETERS})"

REFUSED = {
    # name: (graph, changes to the weights, reason)
    "training mode": (
        f"{CONV} {{ c = Conv(x, w) y = {BN}<training_mode=1>(c, {PARAMETERS}) }}",
        {},
        "training_mode is 1",
    ),
    "running statistics": (
        f"""g (float[N,4,9,9] x) => (float[N,C,H,W] y, float[C] a)
        {{ c = Conv(x, w) y, a, b = {BN}<training_mode=1>(c, {PARAMETERS}) }}""",
        {},
        "training_mode is 1",
    ),
    "scale is computed": (
        f"""g (float[N,4,9,9] x, float[6] r) => (float[N,C,H,W] y)
        {{ q = Abs(r) c = Conv(x, w) y = {BN}(c, q, shift, mean, var) }}""",
        {},
        "its scale 'q' is not constant",
    ),
    "variance is an input": (
        f"""g (float[N,4,9,9] x, float[6] r) => (float[N,C,H,W] y)
        {{ c = Conv(x, w) y = {BN}(c, scale, shift, r, var) }}""",
        {},
        "its mean 'r' is not constant",
    ),
    "a caller may override the mean": (
        f"g (float[N,4,9,9] x, float[6] mean) => (float[N,C,H,W] y) {{ {BOTH} }}",
        {},
        "its mean 'mean' is not constant",
    ),
    "a caller may override the weight": (
        f"g (float[N,4,9,9] x, float[6,4,3,3] w) => (float[N,C,H,W] y) {{ {BOTH} }}",
        {},
        "the weight of Conv .* is not constant",
    ),
    "a caller may override the bias": (
        f"""g (float[N,4,9,9] x, float[6] b) => (float[N,C,H,W] y)
        {{ c = Conv(x, w, b) y = {BN}(c, {PARAMETERS}) }}""",
        {"b": np.ones(6, np.float32)},
        "the bias of Conv .* is not constant",
    ),
    "the weight is computed": (
        f"{CONV} {{ v = Abs(w) c = Conv(x, v) y = {BN}(c, {PARAMETERS}) }}",
        {},
        "the weight of Conv .* is not constant",
    ),
    "Relu before": (
        f"{CONV} {{ c = Conv(x, w) r = Relu(c) y = {BN}(r, {PARAMETERS}) }}",
        {},
        "comes from Relu .*, which is not a Conv, ConvTranspose or Gemm; no node reads its output",
    ),
    "Add before": (
        f"{CONV} {{ c = Conv(x, w) r = Add(c, c) y = {BN}(r, {PARAMETERS}) }}",
        {},
        "comes from Add",
    ),
    "an input before": (
        f"g (float[N,6,9,9] x) => (float[N,C,H,W] y) {{ y = {BN}(x, {PARAMETERS}) }}",
        {},
        "its input 'x' is an input of the graph",
    ),
    "a constant before": (
        f"""g (float[N,6,1,1] x) => (float[N,C,H,W] y)
        {{ c = {BN}(k, {PARAMETERS}) y = Add(c, x) }}""",
        {"k": np.ones((1, 6, 1, 1), np.float32)},
        "its input 'k' is a constant; its output goes to Add",
    ),
    "the conv is read twice": (
        f"{PAIR} {{ {BOTH} z = Relu(c) }}",
        {},
        "the output 'c' of Conv .* is also read by Relu",
    ),
    "the conv's identity is read twice": (
        f"{PAIR} {{ c = Conv(x, w) i = Identity(c) y = {BN}(i, {PARAMETERS}) z = Relu(i) }}",
        {},
        "the output 'i' of Conv .* is also read by Relu",
    ),
    "the conv before an identity is read twice": (
        f"{PAIR} {{ c = Conv(x, w) i = Identity(c) y = {BN}(i, {PARAMETERS}) z = Relu(c) }}",
        {},
        "the output 'c' of Conv .* is also read by Relu",
    ),
    "two BatchNorms read one conv": (
        f"""{PAIR} {{ c = Conv(x, w) y = {BN}(c, {PARAMETERS})
        z = {BN}(c, scale, shift, mean, scale2) }}""",
        {"scale2": np.full(6, 2, np.float32)},
        "is also read by BatchNormalization",
    ),
    "the conv is an output": (
        f"g (float[N,4,9,9] x) => (float[N,C,H,W] y, float[N,C,H,W] c) {{ {BOTH} }}",
        {},
        "the output 'c' of Conv .* is also an output of the graph",
    ),
    "a variance below zero": (
        f"{CONV} {{ {BOTH} }}",
        {"var": np.array([1, 1, -1, 1, 1, 1], np.float32)},
        "variance \\+ epsilon is -0.99999 in channel 2",
    ),
    "a variance of zero without epsilon": (
        f"{CONV} {{ c = Conv(x, w) y = {BN}<epsilon=0.0>(c, {PARAMETERS}) }}",
        {"var": np.zeros(6, np.float32)},
        "variance \\+ epsilon is 0 in channel 0",
    ),
    "a scale that is not a number": (
        f"{CONV} {{ {BOTH} }}",
        {"scale": np.array([1, 1, np.nan, 1, 1, 1], np.float32)},
        "not all finite",
    ),
    "a mean that is infinite": (
        f"{CONV} {{ {BOTH} }}",
        {"mean": np.array([1, 1, np.inf, 1, 1, 1], np.float32)},
        "not all finite",
    ),
    "a weight that overflows": (
        f"{CONV} {{ {BOTH} }}",
        {"w": np.full((6, 4, 3, 3), 1e30, np.float32), "scale": np.full(6, 1e30, np.float32)},
        "the folded weight of Conv .* would not be finite in float32",
    ),
    "a bias that overflows": (
        f"{CONV} {{ c = Conv(x, w, b) y = {BN}(c, {PARAMETERS}) }}",
        {"b": np.full(6, 1e30, np.float32), "scale": np.full(6, 1e30, np.float32)},
        "the folded bias of Conv .* would not be finite in float32",
    ),
    "zero padding after a shift": (
        f"{CONV} {{ c = {BN}(x, s4, h4, m4, v4) y = Conv<pads=[0,0,1,0]>(c, w) }}",
        {},
        "pads with zeros \\(pads \\[0, 0, 1, 0\\]\\)",
    ),
    "automatic padding after a shift": (
        f'{CONV} {{ c = {BN}(x, s4, h4, m4, v4) y = Conv<auto_pad="SAME_UPPER">(c, w) }}',
        {},
        "pads with zeros \\(auto_pad SAME_UPPER\\)",
    ),
    "a conv and another after": (
        f"{PAIR} {{ c = {BN}(x, s4, h4, m4, v4) y = Conv(c, w) z = Relu(c) }}",
        {},
        "its output 'c' is also read by Relu|also read by Conv",
    ),
    "a conv after, itself an output": (
        f"{PAIR} {{ z = {BN}(x, s4, h4, m4, v4) y = Conv(z, w) }}",
        {},
        "its output 'z' is also an output",
    ),
    "a transposed conv after": (
        f"{CONV} {{ c = {BN}(x, s4, h4, m4, v4) y = ConvTranspose(c, wt) }}",
        {},
        "goes to ConvTranspose .*, which is not a Conv or Gemm",
    ),
    "a conv with dynamic weights after": (
        f"{CONV} {{ v = Abs(w) c = {BN}(x, s4, h4, m4, v4) y = Conv(c, v) }}",
        {},
        "the weight of Conv .* is not constant",
    ),
    "a gemm after that transposes": (
        f"""g (float[4,4] x) => (float[A,B] y)
        {{ c = {BN}(x, s4, h4, m4, v4) y = Gemm<transA=1>(c, square) }}""",
        {},
        "reads it transposed",
    ),
    "a gemm after that takes it as weights": (
        f"""g (float[4,4] x, float[4,4] a) => (float[A,B] y)
        {{ c = {BN}(x, s4, h4, m4, v4) y = Gemm(a, c) }}""",
        {},
        "its output is a weight of Gemm",
    ),
    "a gemm after that takes it twice": (
        f"""g (float[4,4] x) => (float[A,B] y)
        {{ c = {BN}(x, s4, h4, m4, v4) y = Gemm(c, square, c) }}""",
        {},
        "its output 'c' is read twice by Gemm",
    ),
    "a gemm before whose weights are data": (
        f"""g (float[4,4] x) => (float[A,B] y)
        {{ c = Gemm(square, x) y = {BN}(c, s4, h4, m4, v4) }}""",
        {},
        "the weight of Gemm .* is not constant",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_and_leaves_the_graph_as_it_was(graphs, name):
    text, changes, reason = REFUSED[name]
    four = graphs.batchnorm(4, seed=1)
    weights = {
        "w": graphs.draw(6, 4, 3, 3),
        "wt": graphs.draw(4, 6, 3, 3),
        "square": graphs.draw(4, 4),
        **graphs.batchnorm(6),
        **dict(zip(("s4", "h4", "m4", "v4"), four.values(), strict=True)),
        **changes,
    }
    weights = {key: array for key, array in weights.items() if re.search(rf"\b{key}\b", text)}
    model = graphs.parse(text, **weights)
    before = ir.to_proto(model).SerializeToString(deterministic=True)

    report = fold_batchnorm(model)

    assert not report.folded
    assert report.total == len(report.refused) > 0
    for refused in report.refused:
        assert re.search(reason, refused.reason), refused.reason
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("opset", [7, 8])
def test_refuses_the_batchnorm_of_old_opsets(graphs, opset):
    text = f"{CONV} {{ c = Conv(x, w) y = {BN}<spatial=0>(c, {PARAMETERS}) }}"
    model = graphs.parse(
        text, opset=opset, ir_version=4, w=graphs.draw(6, 4, 3, 3), **graphs.batchnorm(6)
    )
    report = fold_batchnorm(model)
    assert str(report) == "0 of 1 BatchNorms folded"
    assert f"opset {opset} defines BatchNormalization differently" in report.refused[0].reason
    assert BN in graphs.ops(model)


def test_refuses_statistics_as_outputs_before_opset_14(graphs):
    model = graphs.parse(
        f"{CONV} {{ c = Conv(x, w) y, rm, rv, sm, sv = {BN}(c, {PARAMETERS}) }}",
        opset=13,
        w=graphs.draw(6, 4, 3, 3),
        **graphs.batchnorm(6),
    )
    report = fold_batchnorm(model)
    assert "gives the statistics of each batch ('rm')" in report.refused[0].reason


MALFORMED = {
    "parameters of two shapes": (BOTH, {"mean": (1,)}, "must be of one shape"),
    "parameters with two axes": (
        BOTH,
        dict.fromkeys(("scale", "shift", "mean", "var"), (1, 6)),
        "must be of one shape",
    ),
    "more channels than the conv": (BOTH, {"w": (5, 4, 3, 3)}, "6 channels where Conv .* has 5"),
    "a weight without kernel": (BOTH, {"w": (6, 4)}, "no kernel axis"),
    "groups that do not divide": (
        f"c = ConvTranspose<group=3>(x, w) y = {BN}(c, {PARAMETERS})",
        {"w": (4, 2, 3, 3)},
        "3 groups, which do not divide",
    ),
    "a bias of one": (
        f"c = Conv(x, w, b) y = {BN}(c, {PARAMETERS})",
        {"w": (6, 4, 3, 3), "b": (1,)},
        "the bias of Conv .* has shape \\(1,\\), not \\(6,\\)",
    ),
    "a gemm with stacked weights": (
        f"c = Gemm(x, w) y = {BN}(c, {PARAMETERS})",
        {"w": (2, 4, 6)},
        "not two axes",
    ),
    "a gemm of other width": (
        f"c = Gemm(x, w) y = {BN}(c, {PARAMETERS})",
        {"w": (4, 5)},
        "6 channels where Gemm .* has 5",
    ),
    "a gemm whose C does not fit": (
        f"c = Gemm(x, w, b) y = {BN}(c, {PARAMETERS})",
        {"w": (4, 6), "b": (6, 2)},
        "does not broadcast",
    ),
    "a conv after of other width": (
        f"c = {BN}(x, {PARAMETERS}) y = Conv(c, w)",
        {"w": (6, 4, 3, 3)},
        "6 channels where Conv .* has 4",
    ),
    "a gemm after of other width": (
        f"c = {BN}(x, {PARAMETERS}) y = Gemm(c, w)",
        {"w": (4, 6)},
        "6 channels where Gemm .* has 4",
    ),
    "four parameters": (
        f"c = Conv(x, w) y = {BN}(c, scale, shift, mean)",
        {"w": (6, 4, 3, 3)},
        "4 inputs instead of 5",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_refuses_shapes_that_do_not_fit(graphs, name):
    body, shapes, reason = MALFORMED[name]
    shapes = {"w": (6, 4, 3, 3)} | shapes
    weights = graphs.batchnorm(6) | {
        key: np.abs(graphs.draw(*shape)) for key, shape in shapes.items()
    }
    model = graphs.parse(f"g (float[N,4,9,9] x) => (float y) {{ {body} }}", **weights)
    report = fold_batchnorm(model)
    assert re.search(reason, report.refused[0].reason), report.refused
    assert BN in graphs.ops(model)
