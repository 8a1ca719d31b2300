"""What folding does to the numbers: the algebra in float64, one rounding, every weight type."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repr_export.passes import fold_batchnorm

BN = "BatchNormalization"
ELEMENT = {
    np.dtype(np.float32): "float",
    np.dtype(np.float64): "double",
    np.dtype(np.float16): "float16",
    np.dtype(ml_dtypes.bfloat16): "bfloat16",
}


def conv_batchnorm(graphs, dtype):
    """Conv with bias and BatchNorm, all in ``dtype``."""
    element = ELEMENT[np.dtype(dtype)]
    text = f"""g ({element}[N,4,7,7] x) => ({element}[N,C,H,W] y)
        {{ c = Conv<pads=[1,1,1,1]>(x, w, b) y = BN<epsilon=0.001>(c) }}"""
    weights = {
        "w": graphs.draw(6, 4, 3, 3, dtype=dtype),
        "b": graphs.draw(6, seed=3, dtype=dtype),
        **graphs.batchnorm(6, dtype=dtype),
    }
    return graphs.parse(text, **weights), weights


def expected_fold(weights, epsilon):
    """Weight and bias by the formula in longdouble, independent of the pass."""
    wide = {name: array.astype(np.longdouble) for name, array in weights.items()}
    s = wide["scale"] / np.sqrt(wide["var"] + np.longdouble(np.float32(epsilon)))
    bias = (wide["b"] - wide["mean"]) * s + wide["shift"]
    return wide["w"] * s[:, None, None, None], bias


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_weights_are_rounded_once(graphs, dtype):
    model, weights = conv_batchnorm(graphs, dtype)
    fold_batchnorm(model)
    (conv,) = model.graph
    for value, expected in zip(conv.inputs[1:], expected_fold(weights, 1e-3), strict=True):
        got = value.const_value.numpy()
        assert got.dtype == dtype
        if dtype == np.float64:
            np.testing.assert_allclose(got, expected.astype(np.float64), rtol=1e-14, atol=1e-14)
        else:
            np.testing.assert_array_equal(got, expected.astype(np.float64).astype(dtype))


def test_single_precision_batchnorm_after_a_half_precision_conv(graphs):
    """Opset 15 lets the parameters be wider than the data, as mixed-precision training has them."""
    text = """g (float16[N,4,7,7] x) => (float16[N,C,H,W] y)
        { c = Conv(x, w) y = BN(c) }"""
    model = graphs.parse(text, w=graphs.draw(6, 4, 3, 3, dtype=np.float16), **graphs.batchnorm(6))
    fold_batchnorm(model)
    (conv,) = model.graph
    assert [value.const_value.dtype for value in conv.inputs[1:]] == [ir.DataType.FLOAT16] * 2


def test_epsilon_and_beta_count_as_a_file_stores_them(graphs):
    model, weights = conv_batchnorm(graphs, np.float64)
    batchnorm = next(node for node in model.graph if node.op_type == BN)
    batchnorm.attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.1)  # 0.1 is no float32
    fold_batchnorm(model)
    (conv,) = model.graph
    expected, _ = expected_fold(weights, 0.1)
    got = conv.inputs[1].const_value.numpy()
    np.testing.assert_allclose(got, expected.astype(np.float64), rtol=1e-13)


def test_the_default_epsilon(graphs):
    text = "g (float[N,1,3] x) => (float[N,C,W] y) { c = Conv(x, w) y = BN(c, a, z, z, z) }"
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    model = graphs.parse(text, w=np.ones((1, 1, 1), np.float32), a=one, z=zero)
    fold_batchnorm(model)
    (conv,) = model.graph
    np.testing.assert_allclose(conv.inputs[1].const_value.numpy(), 1 / np.sqrt(1e-5), rtol=1e-6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_conv_computes_the_same(graphs, data):
    rank = data.draw(st.integers(1, 3), "spatial axes")
    groups = data.draw(st.integers(1, 3), "groups")
    per_in, per_out = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    transposed = data.draw(st.booleans(), "transposed")
    before = data.draw(st.booleans(), "BatchNorm first") and not transposed
    bias = data.draw(st.booleans(), "bias")
    half = data.draw(st.booleans(), "float16")
    epsilon = data.draw(st.sampled_from([1e-5, 1e-3, 0.1]), "epsilon")
    kernel = data.draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank), "kernel")
    strides = data.draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank), "strides")
    pads = [0] * (2 * rank)
    if not before:
        pads = data.draw(st.lists(st.integers(0, 1), min_size=2 * rank, max_size=2 * rank))
        if transposed:  # what it crops must be there
            pads = [min(pad, kernel[i % rank] - 1) for i, pad in enumerate(pads)]

    dtype = np.float16 if half else np.float32
    element = ELEMENT[np.dtype(dtype)]
    c_in, c_out = groups * per_in, groups * per_out
    shape = (c_in, per_out, *kernel) if transposed else (c_out, per_in, *kernel)
    op = "ConvTranspose" if transposed else "Conv"
    conv = f"{op}<group={groups},strides={strides},pads={pads}>"
    inputs = "w, b" if bias else "w"
    nodes = (
        f"c = BN<epsilon={epsilon}>(x) y = {conv}(c, {inputs})"
        if before
        else f"c = {conv}(x, {inputs}) y = BN<epsilon={epsilon}>(c)"
    )
    dims, size = ",".join(f"D{i}" for i in range(rank + 2)), ",5" * rank
    model = graphs.parse(
        f"g ({element}[N,{c_in}{size}] x) => ({element}[{dims}] y) {{ {nodes} }}",
        w=graphs.draw(*shape, dtype=dtype),
        **({"b": graphs.draw(c_out, seed=2, dtype=dtype)} if bias else {}),
        **graphs.batchnorm(c_in if before else c_out, dtype=dtype),
    )
    report = graphs.assert_preserves(
        fold_batchnorm, model, batches=(2,), tolerance=1e-2 if half else 1e-5
    )
    assert str(report) == "1 of 1 BatchNorms folded"
    assert graphs.ops(model) == [op]
