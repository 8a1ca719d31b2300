"""Every case that folds, every reason that refuses, and what must stay untouched."""

import json
import re

import numpy as np
import pytest

from repr_export.passes import Folded, FoldReport, Refused, fold_batchnorm

BN = "BatchNormalization"


def with_linear(graphs, text, node, data, weight, channels, bias=None):
    """``text`` around the linear ``node``; its bias has ``channels`` values unless told otherwise."""
    dims = ",".join(f"D{axis}" for axis in range(data.count(",") + 1))
    weights = {"w": graphs.draw(*weight, seed=1)} | graphs.batchnorm(channels)
    if ", b)" in node:
        weights["b"] = graphs.draw(*((channels,) if bias is None else bias), seed=1)
    return graphs.parse(f"g (float[{data}] x) => (float[{dims}] y) {{ {text} }}", **weights)


AFTER = {
    # name: (the producer, its input, its weight's shape, channels, its bias's shape)
    "conv": ("Conv(x, w)", "N,4,9,9", (6, 4, 3, 3), 6),
    "conv with bias": ("Conv(x, w, b)", "N,4,9,9", (6, 4, 3, 3), 6),
    "conv, padded": (
        "Conv<pads=[1,2,0,1],strides=[2,1],dilations=[1,2]>(x, w)",
        *("N,4,9,9", (6, 4, 3, 3), 6),
    ),
    "conv, same": ('Conv<auto_pad="SAME_UPPER">(x, w, b)', "N,4,9,9", (6, 4, 3, 3), 6),
    "conv, grouped": ("Conv<group=2>(x, w, b)", "N,4,9,9", (6, 2, 3, 3), 6),
    "conv, depthwise": ("Conv<group=4>(x, w)", "N,4,9,9", (8, 1, 3, 3), 8),
    "conv, 1-D": ("Conv(x, w, b)", "N,4,9", (6, 4, 3), 6),
    "conv, 3-D": ("Conv(x, w)", "N,4,5,5,5", (6, 4, 2, 2, 2), 6),
    "transposed": ("ConvTranspose(x, w)", "N,4,5,5", (4, 6, 3, 3), 6),
    "transposed, grouped": (
        "ConvTranspose<group=2,strides=[2,2],pads=[1,1,1,1],output_padding=[1,1]>(x, w, b)",
        *("N,4,5,5", (4, 3, 3, 3), 6),
    ),
    "transposed, 1-D depthwise": ("ConvTranspose<group=4>(x, w)", "N,4,5", (4, 1, 3), 4),
    "gemm": ("Gemm(x, w)", "N,5", (5, 6), 6),
    "gemm, transposed B": ("Gemm<transB=1>(x, w, b)", "N,5", (6, 5), 6),
    "gemm, transposed A": ("Gemm<transA=1>(x, w, b)", "5,N", (5, 6), 6),
    "gemm, alpha and beta": ("Gemm<alpha=0.3,beta=-1.7>(x, w, b)", "N,5", (5, 6), 6),
    "gemm, scalar C": ("Gemm<beta=0.5>(x, w, b)", "N,5", (5, 6), 6, ()),
    "gemm, C of one": ("Gemm(x, w, b)", "N,5", (5, 6), 6, (1,)),
    "gemm, C a row": ("Gemm(x, w, b)", "N,5", (5, 6), 6, (1, 6)),
    "gemm, C a column": ("Gemm(x, w, b)", "7,5", (5, 6), 6, (7, 1)),
    "gemm, C a matrix": ("Gemm(x, w, b)", "7,5", (5, 6), 6, (7, 6)),
    "conv, identity": ("Conv(x, w) i = Identity(c) j = Identity(i)", "N,4,9,9", (6, 4, 3, 3), 6),
}


@pytest.mark.parametrize("name", AFTER)
def test_folds_into_the_producer(graphs, name):
    node, *shapes = AFTER[name]
    read = "j" if "Identity" in node else "c"
    model = with_linear(graphs, f"c = {node} y = BN<epsilon=0.001>({read})", node, *shapes)
    op_type = re.match(r"\w+", node)[0]

    report = graphs.assert_preserves(fold_batchnorm, model)

    assert str(report) == "1 of 1 BatchNorms folded"
    assert report.folded[0].case == f"{op_type} -> BatchNorm"
    assert BN not in graphs.ops(model)
    # nothing of the BatchNorm is left behind, and no weight twice
    linear = next(node for node in model.graph if node.op_type == op_type)
    assert set(model.graph.initializers.values()) == set(linear.inputs[1:])


BEFORE = {
    # name: (the consumer, the graph's input, its weight's shape, its bias's shape)
    "conv": ("Conv(c, w)", "N,4,9,9", (6, 4, 3, 3)),
    "conv with bias": ("Conv<strides=[2,2]>(c, w, b)", "N,4,9,9", (6, 4, 3, 3), (6,)),
    "conv, grouped": ("Conv<group=2>(c, w, b)", "N,4,9,9", (6, 2, 3, 3), (6,)),
    "conv, depthwise 1-D": ("Conv<group=4>(c, w)", "N,4,9", (8, 1, 3)),
    "conv, 3-D": ("Conv(c, w)", "N,4,5,5,5", (6, 4, 2, 2, 2)),
    "conv, valid": ('Conv<auto_pad="VALID">(c, w)', "N,4,9,9", (6, 4, 3, 3)),
    "gemm": ("Gemm(c, w)", "N,4", (4, 6)),
    "gemm, all attributes": (
        "Gemm<transB=1,alpha=0.3,beta=-1.7>(c, w, b)",
        *("N,4", (6, 4), (1, 6)),
    ),
    "gemm, C a matrix": ("Gemm<beta=2.0>(c, w, b)", "7,4", (4, 6), (7, 1)),
}


@pytest.mark.parametrize("name", BEFORE)
def test_folds_into_the_consumer(graphs, name):
    node, data, weight, *bias = BEFORE[name]
    text = f"n = BN(x) c = Identity(n) y = {node}"
    model = with_linear(graphs, text, node, data, weight, 4, *bias)
    report = graphs.assert_preserves(fold_batchnorm, model)
    op_type = re.match(r"\w+", node)[0]
    assert [item.case for item in report.folded] == [f"BatchNorm -> {op_type}"]
    assert BN not in graphs.ops(model)


@pytest.mark.parametrize("padding", ["pads=[1,1,1,1]", 'auto_pad="SAME_LOWER"'])
def test_a_padded_conv_takes_a_batchnorm_without_shift(graphs, padding):
    zero = np.zeros(4, np.float32)
    model = graphs.parse(
        f"g (float[N,4,5,5] x) => (float[N,6,A,B] y) {{ c = BN(x) y = Conv<{padding}>(c, w) }}",
        w=graphs.draw(6, 4, 3, 3),
        **graphs.batchnorm(4) | {"shift": zero, "mean": zero},
    )
    report = graphs.assert_preserves(fold_batchnorm, model)
    assert [item.case for item in report.folded] == ["BatchNorm -> Conv"]


CONV = "g (float[N,4,9,9] x) => (float[N,C,H,W] y)"


@pytest.mark.parametrize("opset", [9, 13, 14, 15])
def test_folds_from_opset_9_on(graphs, opset):
    weights = {"w": graphs.draw(6, 4, 3, 3), **graphs.batchnorm(6)}
    text = f"{CONV} {{ c = Conv(x, w) y = BN(c) }}"
    model = graphs.parse(text, opset=opset, ir_version=4, **weights)
    assert str(graphs.assert_preserves(fold_batchnorm, model)) == "1 of 1 BatchNorms folded"


@pytest.mark.parametrize(
    ("nodes", "total"),
    [("c = Conv(x, w) y = local.BN(c)", 0), ("c = local.Conv(x, w) y = BN(c)", 1)],
)
def test_namesakes_of_another_domain_are_left(graphs, nodes, total):
    weights = {"w": graphs.draw(6, 4, 3, 3), **graphs.batchnorm(6)}
    report = fold_batchnorm(graphs.parse(f"{CONV} {{ {nodes} }}", **weights))
    assert (report.folded, report.total) == ((), total)


def test_the_report_is_plain_data():
    report = FoldReport.of(
        (Folded("bn1", "conv1", "Conv -> BatchNorm"),), (Refused("bn2", "no reason"),)
    )
    assert str(report) == "1 of 2 BatchNorms folded"
    assert json.loads(json.dumps(report.as_dict())) == {
        "total": 2,
        "scales": 0,
        "shortcuts": 0,
        "shuffles": 0,
        "affines": 0,
        "folded": [{"batchnorm": "bn1", "into": "conv1", "case": "Conv -> BatchNorm"}],
        "refused": [{"batchnorm": "bn2", "reason": "no reason"}],
    }
