"""Multiply-adds and parameters against counts made by hand."""

import numpy as np
import onnx_ir as ir
import pytest

from repr_export.graph.multiply_adds import UncountableError, count_multiply_adds, count_parameters
from repr_export.passes import run_pipeline


def counts(model: ir.Model) -> list[int]:
    return [share.count for share in count_multiply_adds(model)]


@pytest.mark.parametrize("batch", ["N", "?", "1", "4"])
@pytest.mark.parametrize(
    ("data", "node", "shape", "expected"),
    [
        # outputs: 6 channels of 7 x 7; each sums 4 channels of 3 x 3
        (",4,9,9", "Conv(x, w)", (6, 4, 3, 3), 6 * 7 * 7 * 4 * 9),
        # padded to 9 x 9, every second row: 5 x 9; 2 of the 4 channels are in a group
        (
            ",4,9,9",
            "Conv<group=2,pads=[1,1,1,1],strides=[2,1]>(x, w)",
            (6, 2, 3, 3),
            6 * 5 * 9 * 2 * 9,
        ),
        (",4,9", "Conv<group=4>(x, w)", (8, 1, 3), 8 * 7 * 3),
        # inputs: 4 channels of 5 x 5; each goes into 3 channels of 3 x 3
        (",4,5,5", "ConvTranspose<group=2,strides=[2,2]>(x, w)", (4, 3, 3, 3), 4 * 5 * 5 * 3 * 9),
        (",5", "Gemm(x, w)", (5, 6), 30),
        (",5", "Gemm<transB=1>(x, w)", (6, 5), 30),
        (",5", "MatMul(x, w)", (5, 6), 30),
        (",7,5", "MatMul(x, w)", (5, 6), 7 * 30),
    ],
)
def test_one_node(graphs, batch, data, node, shape, expected):
    text = f"g (float[{'U' if batch == '?' else batch}{data}] x) => (float y) {{ y = {node} }}"
    model = graphs.parse(text, w=graphs.draw(*shape))
    model.graph.outputs[0].shape = None
    if batch == "?":  # dynamic, but without a name
        model.graph.inputs[0].shape = ir.Shape([None, *model.graph.inputs[0].shape[1:]])
    before = ir.to_proto(model).SerializeToString(deterministic=True)

    (share,) = count_multiply_adds(model)

    assert (share.node, share.count) == (model.graph[-1], expected)
    assert share.weight_dtype == "float32"
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("text", "dtype", "count"),
    [
        (
            "g (float[1,8] n, float[5,8] x) => (float[8,6] y) { y = Gemm<transA=1>(x, w) }",
            *("float32", 8 * 6 * 5),
        ),
        # of two activations
        (
            """g (float[N,2,3,4] x) => (float[N,A,B,C] y)
            { t = Transpose<perm=[0,1,3,2]>(x) y = MatMul(x, t) }""",
            *("float32", 2 * 3 * 3 * 4),
        ),
        ("g (float16[N,5] x) => (float16[N,6] y) { y = Gemm(x, w) }", "float16", 5 * 6),
    ],
)
def test_other_products(graphs, text, dtype, count):
    model = graphs.using({"w": graphs.draw(5, 6, dtype=dtype)}, text)
    (share,) = count_multiply_adds(model)
    assert (share.count, share.weight_dtype) == (count, dtype)


def test_nodes_add_up_and_flattening_with_a_dynamic_batch_is_understood(graphs):
    model = graphs.parse(
        """g (float[N,3,6,6] x) => (float[N,10] y) {
            c = Conv(x, w) s = Shape(c) b = Slice(s, zero, one) t = Concat<axis=0>(b, rest)
            f = Reshape(c, t) y = Gemm(f, v) }""",
        w=graphs.draw(4, 3, 3, 3),
        v=graphs.draw(64, 10),
        zero=np.array([0]),
        one=np.array([1]),
        rest=np.array([64]),
    )
    conv, gemm = 4 * 4 * 4 * 3 * 9, 64 * 10
    assert counts(model) == [conv, gemm]
    run_pipeline(model)
    assert counts(model) == [conv, gemm]


def test_large_weights_and_defaults_of_inputs_are_no_samples(graphs):
    model = graphs.parse(
        "g (float[64,64] w, float[N,64] x) => (float[N,64] y) { y = Gemm(x, w) }",
        w=graphs.draw(64, 64),
    )
    assert counts(model) == [64 * 64]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "g (float[N,4,H,9] x) => (float y) { y = Conv(x, w) }",
            r"dimension 2 of the input 'x' is dynamic \(H\)",
        ),
        (
            "g (float[N,4,9,9] x) => (float y) { c = local.Magic(x) y = Conv(c, w) }",
            "cannot tell the shape of 'c' at Conv",
        ),
        ("g (float[5,4,5,5] x) => (float y) { y = Conv(v, w) }", "batch of 5.*no whole number"),
        (
            "g (float[N,4,9,9] x) => (float y) { c = other.Magic(x) y = Conv(c, w) }",
            "shape inference fails: .*No opset import for domain other",
        ),
        (
            """g (bool b, float[N,4,9,9] x) => (float y) { y = If (b) <
                then_branch = t () => (float p) { p = Conv(x, w) },
                else_branch = e () => (float q) { q = Relu(x) }> }""",
            "in an If or Loop body",
        ),
        (
            """g (float[N,4,9,9] x) => (float y) { y = local.f(x, w) }
                <domain: "local", opset_import: ["" : 20]> f (x, w) => (y) { y = Conv(x, w) }""",
            "in a function",
        ),
    ],
)
def test_what_cannot_be_counted_is_an_error(graphs, text, message):
    model = graphs.parse(text, w=graphs.draw(4, 4, 3, 3), v=graphs.draw(1, 4, 4, 4))
    with pytest.raises(UncountableError, match=message):
        count_multiply_adds(model)


def test_an_input_without_shape_is_an_error(graphs):
    model = graphs.parse("g (float[N,4] x) => (float y) { y = Gemm(x, w) }", w=graphs.draw(4, 4))
    model.graph.inputs[0].shape = None
    with pytest.raises(UncountableError, match="the input 'x' has no shape"):
        count_multiply_adds(model)


def test_parameters_are_the_floating_point_initializers(graphs):
    model = graphs.parse(
        "g (float[N,5] x) => (float[N,6] y) { g = Gemm(x, w, b) y = Reshape(g, to) }",
        w=graphs.draw(5, 6),
        b=graphs.draw(6, dtype=np.float16),
        to=np.array([-1, 6]),
    )
    assert count_parameters(model) == 5 * 6 + 6


def test_resnet20_is_what_the_paper_says(graphs):
    """He et al. 2016, table 6: 0.27 M parameters; the counts are those of its layers."""
    model = graphs.capture("resnet20")
    run_pipeline(model)
    stem = 3 * 16 * 9 * 32 * 32
    stages = 6 * 16 * 16 * 9 * 32 * 32
    stages += (16 * 32 + 5 * 32 * 32) * 9 * 16 * 16
    stages += (32 * 64 + 5 * 64 * 64) * 9 * 8 * 8
    assert sum(counts(model)) == stem + stages + 64 * 10
    # each BatchNorm's scale and shift (2 C) became the convolution's bias (C)
    assert 268_000 < count_parameters(model) < 270_000
