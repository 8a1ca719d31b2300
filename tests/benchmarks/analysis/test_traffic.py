"""Bytes and multiply-adds of tiny graphs, against numbers computed by hand."""

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_bytes import model_of

from repr_bench.analysis.traffic import LayerTraffic, layer_traffic
from repr_export.graph.multiply_adds import UncountableError

node = helper.make_node


def model(
    *nodes: onnx.NodeProto,
    given: tuple[int | str, ...],
    made: tuple[int | str, ...] | None = None,
    **constants: np.ndarray,
) -> bytes:
    """From ``x`` to ``y``, both of one shape unless ``made`` says otherwise."""
    content = model_of(nodes, {"x": given}, {"y": made or given}, constants)
    onnx.checker.check_model(onnx.load_model_from_string(content))
    return content


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


SCALE, ZERO = np.array(0.5, np.float32), np.array(0, np.int8)
CONV_RELU_GEMM = model(
    node("Conv", ["x", "w", "b"], ["c"], "conv", kernel_shape=[3, 3]),
    node("Relu", ["c"], ["r"], "relu"),
    node("Flatten", ["r"], ["f"], "flat"),
    node("Gemm", ["f", "m", "v"], ["y"], "gemm"),
    given=("batch", 3, 6, 6),
    made=("batch", 10),
    w=floats(4, 3, 3, 3),
    b=floats(4),
    m=floats(64, 10),
    v=floats(10),
)


@pytest.mark.parametrize("batch", [1, 5])
def test_a_convolution_and_a_gemm_by_hand(batch: int) -> None:
    # Conv: 4·4·4 outputs of 27 products; 108 + 4 weights; 108 in and 64 out a sample.
    # Gemm: 64·10 products; 640 + 10 weights; 64 in and 10 out a sample. float32: 4 bytes.
    assert layer_traffic(CONV_RELU_GEMM, batch) == (
        LayerTraffic("conv", "Conv", batch * 64 * 27, 4 * 112, 4 * batch * (108 + 64)),
        LayerTraffic("gemm", "Gemm", batch * 640, 4 * 650, 4 * batch * (64 + 10)),
    )


def test_shared_weights_are_read_once_and_products_of_activations_have_none() -> None:
    graph = model(
        node("MatMul", ["x", "m"], ["a"], "first"),
        node("MatMul", ["a", "m"], ["b"], "second"),
        node("MatMul", ["a", "b"], ["y"], "both"),
        given=("batch", 4, 4),
        m=floats(4, 4),
    )
    first, second, both = layer_traffic(graph, 2)
    assert (first.weight_bytes, second.weight_bytes, both.weight_bytes) == (64, 0, 0)
    assert first.activation_bytes == second.activation_bytes == 4 * 2 * (16 + 16)
    assert both.activation_bytes == 4 * 2 * (16 + 16 + 16)


def test_quantized_tensors_have_a_byte_an_element() -> None:
    graph = model(
        node("QuantizeLinear", ["x", "s", "z"], ["xq"], "q"),
        node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "dq"),
        node("DequantizeLinear", ["wq", "s", "z"], ["wd"], "dqw"),
        node("Conv", ["xd", "wd", "b"], ["c"], "conv", kernel_shape=[1, 1]),
        node("Relu", ["c"], ["r"], "relu"),
        node("QuantizeLinear", ["r", "s", "z"], ["rq"], "q2"),
        node("DequantizeLinear", ["rq", "s", "z"], ["y"], "dq2"),
        given=("batch", 2, 3, 3),
        made=("batch", 5, 3, 3),
        s=SCALE,
        z=ZERO,
        wq=np.ones((5, 2, 1, 1), np.int8),
        b=floats(5),
    )
    # weights 10 bytes and a float32 bias of 20; 18 bytes in, 45 out, a sample
    assert layer_traffic(graph, 3) == (LayerTraffic("conv", "Conv", 3 * 90, 10 + 20, 3 * 63),)


def test_an_output_that_something_else_reads_too_is_not_quantized() -> None:
    graph = model(
        node("MatMul", ["x", "m"], ["a"], "product"),
        node("QuantizeLinear", ["a", "s", "z"], ["q"], "q"),
        node("DequantizeLinear", ["q", "s", "z"], ["d"], "dq"),
        node("Add", ["a", "d"], ["y"], "add"),
        given=("batch", 2),
        m=floats(2, 2),
        s=SCALE,
        z=ZERO,
    )
    assert layer_traffic(graph, 1)[0].activation_bytes == 4 * (2 + 2)


def test_a_fixed_batch_counts_whole_and_a_size_that_nobody_knows_is_an_error() -> None:
    product = node("MatMul", ["x", "m"], ["y"], "product")
    fixed = model(product, given=(4, 8), made=(4, 2), m=floats(8, 2))
    # 4·2 outputs of 8 products; 16 weights; 32 in, 8 out
    assert layer_traffic(fixed, 4) == (LayerTraffic("product", "MatMul", 64, 64, 4 * 40),)
    graph = model(product, given=("batch", "length", 2), m=floats(2, 2))
    with pytest.raises(UncountableError, match="length"):
        layer_traffic(graph, 1)
