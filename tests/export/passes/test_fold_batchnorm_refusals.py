"""Every reason for which a BatchNorm stays, and that the graph is left as it was."""

import re

import numpy as np
import onnx_ir as ir
import pytest

from repr_export.passes import fold_batchnorm
from repr_export.passes.result import kept_lines

BN = "BatchNormalization"
CONV = "g (float[N,4,9,9] x) => (float[N,C,H,W] y)"
PAIR = "g (float[N,4,9,9] x) => (float[N,C,H,W] y, float[N,C2,H2,W2] z)"
SQUARE = "g (float[4,4] x) => (float[A,B] y)"
BOTH = "c = Conv(x, w) y = BN(c)"
BIASED = "c = Conv(x, w, b) y = BN(c)"


def six(**changed: float) -> dict[str, np.ndarray]:
    """Ones for six channels by name, but for channel 2."""
    return {name: np.array([1, 1, v, 1, 1, 1], np.float32) for name, v in changed.items()}


HUGE = np.full(6, 1e30, np.float32)

REFUSED = {
    # name: (graph, its nodes, reason, changes to the weights)
    "training mode": (CONV, "c = Conv(x, w) y = BN<training_mode=1>(c)", "training_mode is 1"),
    "running statistics": (
        "g (float[N,4,9,9] x) => (float[N,C,H,W] y, float[C] a)",
        "c = Conv(x, w) y, a, b = BN<training_mode=1>(c)",
        "training_mode is 1",
    ),
    "scale is computed": (
        "g (float[N,4,9,9] x, float[6] r) => (float[N,C,H,W] y)",
        "q = Abs(r) c = Conv(x, w) y = BN(c, q, shift, mean, var)",
        "its scale 'q' is not constant",
    ),
    "variance is an input": (
        "g (float[N,4,9,9] x, float[6] r) => (float[N,C,H,W] y)",
        "c = Conv(x, w) y = BN(c, scale, shift, r, var)",
        "its mean 'r' is not constant",
    ),
    "a caller may override the mean": (
        "g (float[N,4,9,9] x, float[6] mean) => (float[N,C,H,W] y)",
        *(BOTH, "its mean 'mean' is not constant"),
    ),
    "a caller may override the weight": (
        "g (float[N,4,9,9] x, float[6,4,3,3] w) => (float[N,C,H,W] y)",
        *(BOTH, "the weight of Conv .* is not constant"),
    ),
    "a caller may override the bias": (
        "g (float[N,4,9,9] x, float[6] b) => (float[N,C,H,W] y)",
        *(BIASED, "the bias of Conv .* is not constant", {"b": np.ones(6, np.float32)}),
    ),
    "the weight is computed": (
        *(CONV, "v = Abs(w) c = Conv(x, v) y = BN(c)", "the weight of Conv .* is not constant"),
    ),
    "Relu before": (
        *(CONV, "c = Conv(x, w) r = Relu(c) y = BN(r)"),
        "comes from Relu .*, which is not a Conv, ConvTranspose or Gemm; no node reads its output",
    ),
    "Add before": (CONV, "c = Conv(x, w) r = Add(c, c) y = BN(r)", "comes from Add"),
    "an input before": (
        "g (float[N,6,9,9] x) => (float[N,C,H,W] y)",
        *("y = BN(x)", "its input 'x' is an input of the graph"),
    ),
    "a constant before": (
        "g (float[N,6,1,1] x) => (float[N,C,H,W] y)",
        *("c = BN(k) y = Add(c, x)", "its input 'k' is a constant; its output goes to Add"),
        {"k": np.ones((1, 6, 1, 1), np.float32)},
    ),
    "the conv is read twice": (
        *(PAIR, f"{BOTH} z = Relu(c)", "the output 'c' of Conv .* is also read by Relu"),
    ),
    "the conv's identity is read twice": (
        *(PAIR, "c = Conv(x, w) i = Identity(c) y = BN(i) z = Relu(i)"),
        "the output 'i' of Conv .* is also read by Relu",
    ),
    "the conv before an identity is read twice": (
        *(PAIR, "c = Conv(x, w) i = Identity(c) y = BN(i) z = Relu(c)"),
        "the output 'c' of Conv .* is also read by Relu",
    ),
    "two BatchNorms read one conv": (
        *(PAIR, "c = Conv(x, w) y = BN(c) z = BN(c, scale, shift, mean, scale2)"),
        *("is also read by BatchNormalization", {"scale2": np.full(6, 2, np.float32)}),
    ),
    "the conv is an output": (
        "g (float[N,4,9,9] x) => (float[N,C,H,W] y, float[N,C,H,W] c)",
        *(BOTH, "the output 'c' of Conv .* is also an output of the graph"),
    ),
    "a variance below zero": (
        *(CONV, BOTH, "variance \\+ epsilon is -0.99999 in channel 2", six(var=-1)),
    ),
    "a variance of zero without epsilon": (
        *(CONV, "c = Conv(x, w) y = BN<epsilon=0.0>(c)"),
        *("variance \\+ epsilon is 0 in channel 0", {"var": np.zeros(6, np.float32)}),
    ),
    "a scale that is not a number": (CONV, BOTH, "not all finite", six(scale=np.nan)),
    "a mean that is infinite": (CONV, BOTH, "not all finite", six(mean=np.inf)),
    "a weight that overflows": (
        *(CONV, BOTH, "the folded weight of Conv .* would not be finite in float32"),
        {"w": np.full((6, 4, 3, 3), 1e30, np.float32), "scale": HUGE},
    ),
    "a bias that overflows": (
        *(CONV, BIASED, "the folded bias of Conv .* would not be finite in float32"),
        {"b": HUGE, "scale": HUGE},
    ),
    "zero padding after a shift": (
        *(CONV, "c = BNs_(x) y = Conv<pads=[0,0,1,0]>(c, w)"),
        "pads with zeros \\(pads \\[0, 0, 1, 0\\]\\)",
    ),
    "automatic padding after a shift": (
        *(CONV, 'c = BNs_(x) y = Conv<auto_pad="SAME_UPPER">(c, w)'),
        "pads with zeros \\(auto_pad SAME_UPPER\\)",
    ),
    "a conv and another after": (
        *(PAIR, "c = BNs_(x) y = Conv(c, w) z = Relu(c)"),
        "its output 'c' is also read by Relu|also read by Conv",
    ),
    "a conv after, itself an output": (
        *(PAIR, "z = BNs_(x) y = Conv(z, w)", "its output 'z' is also an output"),
    ),
    "a transposed conv after": (
        *(CONV, "c = BNs_(x) y = ConvTranspose(c, wt)"),
        "goes to ConvTranspose .*, which is not a Conv or Gemm",
    ),
    "a conv with dynamic weights after": (
        *(CONV, "v = Abs(w) c = BNs_(x) y = Conv(c, v)", "the weight of Conv .* is not constant"),
    ),
    "a gemm after that transposes": (
        *(SQUARE, "c = BNs_(x) y = Gemm<transA=1>(c, square)", "reads it transposed"),
    ),
    "a gemm after that takes it as weights": (
        "g (float[4,4] x, float[4,4] a) => (float[A,B] y)",
        *("c = BNs_(x) y = Gemm(a, c)", "its output is a weight of Gemm"),
    ),
    "a gemm after that takes it twice": (
        *(SQUARE, "c = BNs_(x) y = Gemm(c, square, c)", "its output 'c' is read twice by Gemm"),
    ),
    "a gemm before whose weights are data": (
        *(SQUARE, "c = Gemm(square, x) y = BNs_(c)", "the weight of Gemm .* is not constant"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_and_leaves_the_graph_as_it_was(graphs, name):
    header, nodes, reason, *changes = REFUSED[name]
    weights = {
        "w": graphs.draw(6, 4, 3, 3),
        "wt": graphs.draw(4, 6, 3, 3),
        "square": graphs.draw(4, 4),
        **graphs.batchnorm(6),
        **graphs.batchnorm(4, seed=1, prefix="s_"),
        **(changes[0] if changes else {}),
    }
    model = graphs.using(weights, f"{header} {{ {nodes} }}")
    before = ir.to_proto(model).SerializeToString(deterministic=True)

    report = fold_batchnorm(model)

    assert not report.folded
    assert report.total == len(report.refused) > 0
    for refused in report.refused:
        assert re.search(reason, refused.reason), refused.reason
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("opset", "nodes", "reason"),
    [
        (7, "y = BN<spatial=0>(c)", "opset 7 defines BatchNormalization differently"),
        (8, "y = BN<spatial=0>(c)", "opset 8 defines BatchNormalization differently"),
        (13, "y, rm, rv, sm, sv = BN(c)", "gives the statistics of each batch ('rm')"),
    ],
)
def test_refuses_what_old_opsets_define_otherwise(graphs, opset, nodes, reason):
    weights = {"w": graphs.draw(6, 4, 3, 3), **graphs.batchnorm(6)}
    text = f"{CONV} {{ c = Conv(x, w) {nodes} }}"
    model = graphs.parse(text, opset=opset, ir_version=4, **weights)
    report = fold_batchnorm(model)
    assert str(report) == "0 of 1 BatchNorms folded"
    assert reason in report.refused[0].reason
    assert BN in graphs.ops(model)


GEMM = "c = Gemm(x, w) y = BN(c)"
MALFORMED = {
    # name: (nodes, shapes that are not those of a fitting graph, reason)
    "parameters of two shapes": (BOTH, {"mean": (1,)}, "must be of one shape"),
    "parameters with two axes": (
        *(BOTH, dict.fromkeys(("scale", "shift", "mean", "var"), (1, 6)), "must be of one shape"),
    ),
    "more channels than the conv": (BOTH, {"w": (5, 4, 3, 3)}, "6 channels where Conv .* has 5"),
    "a weight without kernel": (BOTH, {"w": (6, 4)}, "no kernel axis"),
    "groups that do not divide": (
        *("c = ConvTranspose<group=3>(x, w) y = BN(c)", {"w": (4, 2, 3, 3)}),
        "3 groups, which do not divide",
    ),
    "a bias of one": (BIASED, {"b": (1,)}, "the bias of Conv .* has shape \\(1,\\), not \\(6,\\)"),
    "a gemm with stacked weights": (GEMM, {"w": (2, 4, 6)}, "not two axes"),
    "a gemm of other width": (GEMM, {"w": (4, 5)}, "6 channels where Gemm .* has 5"),
    "a gemm whose C does not fit": (
        *("c = Gemm(x, w, b) y = BN(c)", {"w": (4, 6), "b": (6, 2)}, "does not broadcast"),
    ),
    "a conv after of other width": (
        "c = BN(x) y = Conv(c, w)",
        {},
        "6 channels where Conv .* has 4",
    ),
    "a gemm after of other width": (
        *("c = BN(x) y = Gemm(c, w)", {"w": (4, 6)}, "6 channels where Gemm .* has 4"),
    ),
    "four parameters": (
        *("c = Conv(x, w) y = BN(c, scale, shift, mean)", {}, "4 inputs instead of 5"),
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_refuses_shapes_that_do_not_fit(graphs, name):
    nodes, shapes, reason = MALFORMED[name]
    shapes = {"w": (6, 4, 3, 3)} | shapes
    drawn = {key: np.abs(graphs.draw(*shape)) for key, shape in shapes.items()}
    text = f"g (float[N,4,9,9] x) => (float y) {{ {nodes} }}"
    model = graphs.parse(text, **graphs.batchnorm(6) | drawn)
    report = fold_batchnorm(model)
    assert re.search(reason, report.refused[0].reason), report.refused
    assert BN in graphs.ops(model)


def test_what_is_kept_for_one_reason_is_said_in_one_line() -> None:
    """A DenseNet keeps some fifty."""
    after = "its input comes from Concat '{}', which is not a Conv"
    rows = [{"batchnorm": f"bn{i}", "reason": after.format(f"cat{i}")} for i in range(50)]
    rows.insert(1, {"batchnorm": "odd", "reason": "its mean 'r' is not constant"})
    assert list(kept_lines(rows)) == [
        "50 kept, bn0 and others: its input comes from Concat, which is not a Conv",
        "odd kept: its mean 'r' is not constant",
    ]
    assert list(kept_lines(rows[:1])) == [f"bn0 kept: {after.format('cat0')}"]
