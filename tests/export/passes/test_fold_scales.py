"""Sums and products by constants behind a convolution go into it, where that is exact."""

from typing import Any

import numpy as np
import pytest

from repr_export.passes import run_pipeline
from repr_export.passes.fold_constants import fold_constants
from repr_export.passes.fold_scales import fold_scales

CONV = "g (float[N, 4, 5, 5] x) => (float[N, 6, 3, 3] y)"


def weights(graphs: Any, text: str) -> dict[str, np.ndarray]:
    drawn = {
        "w": graphs.draw(6, 4, 3, 3),
        "a": graphs.draw(1, 6, 1, 1, seed=1),
        "b": graphs.draw(6, 1, 1, seed=2),
        "k": np.float32(0.17),
        "map": graphs.draw(3, 3, seed=3),
        "zero": np.zeros((6, 1, 1), np.float32),
        "row": graphs.draw(6, seed=4),
        "column": graphs.draw(7, 1, seed=5),
        "dense": graphs.draw(4, 6, seed=6),
    }
    return {
        name: array
        for name, array in drawn.items()
        if name in text.replace("(", " ").replace(")", " ").replace(",", " ").split()
    }


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        (f"{CONV} {{ c = Conv(x, w) m = Mul(a, c) y = Add(m, b) }}", 2),
        (f"{CONV} {{ c = Conv(x, w) s = Sub(c, b) d = Div(s, a) y = Mul(d, k) }}", 3),
        (f"{CONV} {{ c = Conv(x, w) y = Sub(b, c) }}", 1),
        (
            "g (float[N, 4] x) => (float[N, 6] y) { c = Gemm(x, dense) m = Mul(c, row) y = Add(m, k) }",
            2,
        ),
        (f"{CONV} {{ c = Conv(x, w) y = Div(b, c) }}", 0),
        (f"{CONV} {{ c = Conv(x, w) y = Add(c, map) }}", 0),  # a value for each place
        (f"{CONV} {{ c = Conv(x, w) y = Add(c, c) }}", 0),
        (f"{CONV} {{ c = Conv(x, w) r = Relu(c) y = Mul(r, a) }}", 0),
        (f"{CONV} {{ c = Conv(x, w) m = Mul(c, a) r = Relu(c) y = Add(m, r) }}", 0),  # read twice
        ("g (float[7, 4] x) => (float[7, 6] y) { c = Gemm(x, dense) y = Add(c, column) }", 0),
    ],
)
def test_what_is_affine_in_each_channel_is_folded(graphs: Any, text: str, folded: int) -> None:
    model = graphs.parse(text, **weights(graphs, text))
    before = len(graphs.ops(model))
    assert graphs.assert_preserves(fold_scales, model, batches=(7,)).changed == folded
    assert len(graphs.ops(model)) == before - folded


def test_nothing_is_divided_by_zero(graphs: Any) -> None:
    text = f"{CONV} {{ c = Conv(x, w) y = Div(c, zero) }}"
    model = graphs.parse(text, **weights(graphs, text))
    assert fold_scales(model).changed == 0


def test_a_chain_before_a_batchnorm_does_not_keep_it(graphs: Any) -> None:
    text = f"{CONV} {{ c = Conv(x, w) m = Mul(c, a) y = BN(m) }}"
    model = graphs.parse(text, **weights(graphs, text), **graphs.batchnorm(6))
    fold = graphs.assert_preserves(run_pipeline, model).fold
    assert str(fold) == "1 of 1 BatchNorms folded, 1 sums and products by constants too"
    assert graphs.ops(model) == ["Conv"]


def test_batchnorms_in_a_row_fold_one_after_the_other(graphs: Any) -> None:
    text = f"{CONV} {{ p = BNp_(x) q = BNq_(p) y = Conv(q, w) }}"
    both = graphs.batchnorm(4, prefix="p_") | graphs.batchnorm(4, prefix="q_", seed=1)
    model = graphs.parse(text, **weights(graphs, text), **both)
    assert str(graphs.assert_preserves(run_pipeline, model).fold) == "2 of 2 BatchNorms folded"


def test_a_column_is_not_taken_for_a_bias(graphs: Any) -> None:
    text = (
        "g (float[1, 4] x) => (float[6, 6] y) { m = MatMul(x, dense) c = Add(m, column) y = BN(c) }"
    )
    drawn = {"dense": graphs.draw(4, 6), "column": graphs.draw(6, 1)}
    model = graphs.parse(text, **drawn, **graphs.batchnorm(6))
    graphs.assert_preserves(run_pipeline, model, batches=(1,))


def test_large_fills_are_constants(graphs: Any) -> None:
    """A weight of more elements than the library computes, and a BatchNorm that goes into it."""
    text = """g (float[N, 512, 3, 3] x) => (float[N, 512, 3, 3] y)
        { w = ConstantOfShape <value = float[1] {0.01}>(shape) c = Conv(x, w) y = BN(c) }"""
    model = graphs.parse(
        text, shape=np.array([512, 1024, 1, 1]) // [1, 2, 1, 1], **graphs.batchnorm(512)
    )
    fold = graphs.assert_preserves(run_pipeline, model, batches=(1,)).fold
    assert (fold.changed, graphs.ops(model)) == (1, ["Conv"])


@pytest.mark.parametrize("opset", [11, 13, 17, 18])
def test_sequences_are_split_as_the_opset_knows(graphs: Any, opset: int) -> None:
    text = """g (float[4, 3] x) => (float[2, 3] y)
        { s = SplitToSequence <axis=0>(x, two) y = SequenceAt(s, at) }"""
    model = graphs.parse(text, opset=opset, two=np.array(2), at=np.array(1))
    graphs.assert_preserves(fold_constants, model, batches=(1,))
