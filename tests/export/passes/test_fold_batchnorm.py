"""Every case that folds, every reason that refuses, and what must stay untouched."""

from __future__ import annotations

import json

import numpy as np
import pytest

from repr_export.passes import Folded, FoldReport, Refused, fold_batchnorm

BN = "BatchNormalization"
PARAMETERS = "scale, shift, mean, var"


def any_shape(rank: int) -> str:
    """Dimensions of that rank with a name each."""
    return ",".join(f"D{axis}" for axis in range(rank))


AFTER = {
    # name: (the producer, its weights' shapes, channels, its input, its rank)
    "conv": ("Conv(x, w)", {"w": (6, 4, 3, 3)}, 6, "N,4,9,9", 4),
    "conv with bias": ("Conv(x, w, b)", {"w": (6, 4, 3, 3), "b": (6,)}, 6, "N,4,9,9", 4),
    "conv, padded": (
        "Conv<pads=[1,2,0,1],strides=[2,1],dilations=[1,2]>(x, w)",
        {"w": (6, 4, 3, 3)},
        6,
        "N,4,9,9",
        4,
    ),
    "conv, same": (
        'Conv<auto_pad="SAME_UPPER">(x, w, b)',
        {"w": (6, 4, 3, 3), "b": (6,)},
        6,
        "N,4,9,9",
        4,
    ),
    "conv, grouped": ("Conv<group=2>(x, w, b)", {"w": (6, 2, 3, 3), "b": (6,)}, 6, "N,4,9,9", 4),
    "conv, depthwise": ("Conv<group=4>(x, w)", {"w": (8, 1, 3, 3)}, 8, "N,4,9,9", 4),
    "conv, 1-D": ("Conv(x, w, b)", {"w": (6, 4, 3), "b": (6,)}, 6, "N,4,9", 3),
    "conv, 3-D": ("Conv(x, w)", {"w": (6, 4, 2, 2, 2)}, 6, "N,4,5,5,5", 5),
    "transposed": ("ConvTranspose(x, w)", {"w": (4, 6, 3, 3)}, 6, "N,4,5,5", 4),
    "transposed, grouped": (
        "ConvTranspose<group=2,strides=[2,2],pads=[1,1,1,1],output_padding=[1,1]>(x, w, b)",
        {"w": (4, 3, 3, 3), "b": (6,)},
        6,
        "N,4,5,5",
        4,
    ),
    "transposed, 1-D depthwise": ("ConvTranspose<group=4>(x, w)", {"w": (4, 1, 3)}, 4, "N,4,5", 3),
    "gemm": ("Gemm(x, w)", {"w": (5, 6)}, 6, "N,5", 2),
    "gemm, transposed B": ("Gemm<transB=1>(x, w, b)", {"w": (6, 5), "b": (6,)}, 6, "N,5", 2),
    "gemm, transposed A": ("Gemm<transA=1>(x, w, b)", {"w": (5, 6), "b": (6,)}, 6, "5,N", 2),
    "gemm, alpha and beta": (
        "Gemm<alpha=0.3,beta=-1.7>(x, w, b)",
        {"w": (5, 6), "b": (6,)},
        6,
        "N,5",
        2,
    ),
    "gemm, scalar C": ("Gemm<beta=0.5>(x, w, b)", {"w": (5, 6), "b": ()}, 6, "N,5", 2),
    "gemm, C of one": ("Gemm(x, w, b)", {"w": (5, 6), "b": (1,)}, 6, "N,5", 2),
    "gemm, C a row": ("Gemm(x, w, b)", {"w": (5, 6), "b": (1, 6)}, 6, "N,5", 2),
    "gemm, C a column": ("Gemm(x, w, b)", {"w": (5, 6), "b": (7, 1)}, 6, "7,5", 2),
    "gemm, C a matrix": ("Gemm(x, w, b)", {"w": (5, 6), "b": (7, 6)}, 6, "7,5", 2),
    "conv, identity": (
        "Conv(x, w) i = Identity(c) j = Identity(i)",
        {"w": (6, 4, 3, 3)},
        6,
        "N,4,9,9",
        4,
    ),
}


@pytest.mark.parametrize("name", AFTER)
def test_folds_into_the_producer(graphs, name):
    node, shapes, channels, data, rank = AFTER[name]
    read = "j" if "Identity" in node else "c"
    text = f"""g (float[{data}] x) => (float[{any_shape(rank)}] y)
        {{ c = {node} y = {BN}<epsilon=0.001>({read}, {PARAMETERS}) }}"""
    weights = {key: graphs.draw(*shape, seed=len(key)) for key, shape in shapes.items()}
    model = graphs.parse(text, **weights, **graphs.batchnorm(channels))
    op_type = node.split("(")[0].split("<")[0]

    report = graphs.assert_preserves(fold_batchnorm, model)

    assert str(report) == "1 of 1 BatchNorms folded"
    assert report.folded[0].case == f"{op_type} -> BatchNorm"
    assert BN not in graphs.ops(model)
    # nothing of the BatchNorm is left behind, and no weight twice
    linear = next(node for node in model.graph if node.op_type == op_type)
    assert set(model.graph.initializers.values()) == set(linear.inputs[1:])


BEFORE = {
    "conv": ("Conv(c, w)", {"w": (6, 4, 3, 3)}, "N,4,9,9", 4),
    "conv with bias": (
        "Conv<strides=[2,2]>(c, w, b)",
        {"w": (6, 4, 3, 3), "b": (6,)},
        "N,4,9,9",
        4,
    ),
    "conv, grouped": ("Conv<group=2>(c, w, b)", {"w": (6, 2, 3, 3), "b": (6,)}, "N,4,9,9", 4),
    "conv, depthwise 1-D": ("Conv<group=4>(c, w)", {"w": (8, 1, 3)}, "N,4,9", 3),
    "conv, 3-D": ("Conv(c, w)", {"w": (6, 4, 2, 2, 2)}, "N,4,5,5,5", 5),
    "conv, valid": ('Conv<auto_pad="VALID">(c, w)', {"w": (6, 4, 3, 3)}, "N,4,9,9", 4),
    "gemm": ("Gemm(c, w)", {"w": (4, 6)}, "N,4", 2),
    "gemm, all attributes": (
        "Gemm<transB=1,alpha=0.3,beta=-1.7>(c, w, b)",
        {"w": (6, 4), "b": (1, 6)},
        "N,4",
        2,
    ),
    "gemm, C a matrix": ("Gemm<beta=2.0>(c, w, b)", {"w": (4, 6), "b": (7, 1)}, "7,4", 2),
}


@pytest.mark.parametrize("name", BEFORE)
def test_folds_into_the_consumer(graphs, name):
    node, shapes, data, rank = BEFORE[name]
    text = f"""g (float[{data}] x) => (float[{any_shape(rank)}] y)
        {{ n = {BN}(x, {PARAMETERS}) c = Identity(n) y = {node} }}"""
    weights = {key: graphs.draw(*shape, seed=len(key)) for key, shape in shapes.items()}
    model = graphs.parse(text, **weights, **graphs.batchnorm(4))

    report = graphs.assert_preserves(fold_batchnorm, model)

    op_type = node.split("(")[0].split("<")[0]
    assert [item.case for item in report.folded] == [f"BatchNorm -> {op_type}"]
    assert BN not in graphs.ops(model)


@pytest.mark.parametrize("padding", ["pads=[1,1,1,1]", 'auto_pad="SAME_LOWER"'])
def test_a_padded_conv_takes_a_batchnorm_without_shift(graphs, padding):
    zero = np.zeros(4, np.float32)
    parameters = graphs.batchnorm(4) | {"shift": zero, "mean": zero}
    model = graphs.parse(
        f"""g (float[N,4,5,5] x) => (float[N,6,A,B] y)
        {{ c = {BN}(x, {PARAMETERS}) y = Conv<{padding}>(c, w) }}""",
        w=graphs.draw(6, 4, 3, 3),
        **parameters,
    )
    report = graphs.assert_preserves(fold_batchnorm, model)
    assert [item.case for item in report.folded] == ["BatchNorm -> Conv"]


CONV = "g (float[N,4,9,9] x) => (float[N,C,H,W] y)"


@pytest.mark.parametrize("opset", [9, 13, 14, 15])
def test_folds_from_opset_9_on(graphs, opset):
    model = graphs.parse(
        f"{CONV} {{ c = Conv(x, w) y = {BN}(c, {PARAMETERS}) }}",
        opset=opset,
        ir_version=4,
        w=graphs.draw(6, 4, 3, 3),
        **graphs.batchnorm(6),
    )
    assert str(graphs.assert_preserves(fold_batchnorm, model)) == "1 of 1 BatchNorms folded"


def test_a_namesake_of_another_domain_is_no_batchnorm(graphs):
    model = graphs.parse(
        f"{CONV} {{ c = Conv(x, w) y = local.{BN}(c, {PARAMETERS}) }}",
        w=graphs.draw(6, 4, 3, 3),
        **graphs.batchnorm(6),
    )
    assert fold_batchnorm(model) == FoldReport.of((), ())


def test_a_conv_of_another_domain_is_no_conv(graphs):
    model = graphs.parse(
        f"{CONV} {{ c = local.Conv(x, w) y = {BN}(c, {PARAMETERS}) }}",
        w=graphs.draw(6, 4, 3, 3),
        **graphs.batchnorm(6),
    )
    assert not fold_batchnorm(model).folded


def test_the_report_is_plain_data():
    report = FoldReport.of(
        (Folded("bn1", "conv1", "Conv -> BatchNorm"),), (Refused("bn2", "no reason"),)
    )
    assert str(report) == "1 of 2 BatchNorms folded"
    assert json.loads(json.dumps(report.as_dict())) == {
        "total": 2,
        "folded": [{"batchnorm": "bn1", "into": "conv1", "case": "Conv -> BatchNorm"}],
        "refused": [{"batchnorm": "bn2", "reason": "no reason"}],
    }
