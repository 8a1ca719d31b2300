"""In which types a network computes: the parsed network on any machine, the engine on a GPU."""

import json
from typing import Any

import numpy as np
import pytest
from rtx_builds import build, graph

from repr_export.errors import EngineBuildError
from repr_export.tensorrt.build import build_engine
from repr_export.tensorrt.builder_library import open_library
from repr_export.tensorrt.options import EngineOptions
from repr_export.tensorrt.receipt import EngineReceipt, inspect_engine, read_layer_information
from repr_runtime.cuda.driver import cuda_status
from repr_runtime.errors import MissingExtraError


def network(text: str, **weights: Any) -> EngineReceipt:
    """The receipt of the graph ``text`` with ``weights``, as the real builder parsed it."""
    pytest.importorskip("tensorrt_rtx")
    return build(graph(text, **weights)).receipt


def ones(*shape: int, dtype: Any = np.float32) -> Any:
    return np.ones(shape, dtype)


# 4 filters of 3x3x3, padded, 8x8 out: 8 * 8 * 4 * 27; a product of 256 by 5
CONV, PRODUCT = 6912, 1280


@pytest.mark.parametrize(
    ("text", "weights", "layers", "multiply_adds"),
    [
        (
            """(float[batch,3,8,8] x) => (float[batch,5] y) {
                c = Conv <pads=[1,1,1,1]> (x, w) f = Flatten (c) y = Gemm <transB=1> (f, v) }""",
            *({"w": ones(4, 3, 3, 3), "v": ones(5, 256)}, 2, CONV + PRODUCT),
        ),
        (  # neither the batch nor the groups multiply
            """(float[7,4,8,8] x) => (float[7,8,8,8] y)
                { y = Conv <pads=[1,1,1,1], group=4> (x, w) }""",
            *({"w": ones(8, 1, 3, 3)}, 1, 8 * 8 * 8 * 9),
        ),
        (
            """(float[batch,3,8,8] x) => (float[batch,4,16,16] y)
                { y = ConvTranspose <strides=[2,2]> (x, w) }""",
            *({"w": ones(3, 4, 2, 2)}, 1, 8 * 8 * 3 * 4 * 4),
        ),
        (
            """(float[batch,6,8] x) => (float[batch,8,5] y)
                { t = Transpose <perm=[0,2,1]> (x) y = MatMul (t, v) }""",
            *({"v": ones(6, 5)}, 1, 8 * 5 * 6),
        ),
    ],
)
def test_float_network(text: str, weights: Any, layers: int, multiply_adds: int) -> None:
    receipt = network(text, **weights)
    assert receipt == EngineReceipt("network", {"fp32": layers}, {"fp32": multiply_adds})


def test_half_network_with_one_layer_kept() -> None:
    receipt = network(
        """(float[batch,3,8,8] x) => (float[batch,5] y) {
            h = Cast <to=10> (x)
            c = Conv <pads=[1,1,1,1]> (h, w)
            f = Flatten (c)
            s = Cast <to=1> (f)
            y = MatMul (s, v)
        }""",
        w=ones(4, 3, 3, 3, dtype=np.float16),
        v=ones(256, 5),
    )
    assert receipt.layers == {"fp16": 1, "fp32": 1}
    assert receipt.multiply_adds == {"fp16": CONV, "fp32": PRODUCT}
    assert receipt.shares["fp16"] == pytest.approx(CONV / (CONV + PRODUCT))
    assert receipt.as_dict()["source"] == "network"


def test_quantized_layers_count_as_int8_and_those_with_one_quantized_side_do_not() -> None:
    receipt = network(
        """(float[batch,3,8,8] x) => (float[batch,5] y) {
            xq = QuantizeLinear (x, s, z)
            xd = DequantizeLinear (xq, s, z)
            wd = DequantizeLinear <axis=0> (w, ws, wz)
            c = Conv <pads=[1,1,1,1]> (xd, wd)
            f = Flatten (c)
            vd = DequantizeLinear (v, s, z)
            y = MatMul (f, vd)
        }""",
        s=np.float32(0.1),
        z=np.int8(0),
        w=ones(4, 3, 3, 3, dtype=np.int8),
        ws=ones(4),
        wz=np.zeros(4, np.int8),
        v=ones(256, 5, dtype=np.int8),
    )
    assert receipt.layers == {"int8": 1, "fp32": 1}
    assert receipt.multiply_adds == {"int8": CONV, "fp32": PRODUCT}


def test_network_without_products_has_no_shares() -> None:
    receipt = network("(float[batch,3] x) => (float[batch,3] y) { y = Relu (x) }")
    assert receipt == EngineReceipt("network", {}, {})
    assert receipt.shares == {}


# What the engine inspector writes (layout as in NVIDIA's documentation of it)


def tensor(kind: str, *dimensions: int) -> dict[str, Any]:
    return {"Name": "t", "Dimensions": list(dimensions), "Format/Datatype": kind}


def convolution(kind: str, count: int, data: str, *out: int) -> dict[str, Any]:
    return {
        "Name": "conv + relu",
        "LayerType": "CaskConvolution",
        "Inputs": [tensor(data, out[0], 512, 28, 28)],
        "Outputs": [tensor(data, *out)],
        "ParameterType": "Convolution",
        "Weights": {"Type": kind, "Count": count},
        "Bias": {"Type": "Float", "Count": 256},
    }


REFORMAT = {
    "Name": "copy",
    "LayerType": "Reformat",
    "Inputs": [tensor("Row major linear FP32", 16, 3, 224, 224)],
    "Outputs": [tensor("Row major linear FP16 format", 16, 3, 224, 224)],
}
INT8 = "Thirty-two wide channel vectorized row major Int8 format"


def read(*layers: Any) -> EngineReceipt:
    return read_layer_information(json.dumps({"Layers": layers, "Bindings": ["x", "y"]}))


def test_engine_with_several_types() -> None:
    receipt = read(
        REFORMAT,
        convolution("Half", 1000, "Channel major FP16 format", 16, 256, 28, 28),
        convolution("Int8", 131072, INT8, 16, 256, 28, 28),
        convolution("Float", 10, "Row major linear FP32", 16, 256, 2, 2),
    )
    assert receipt.source == "engine"
    assert receipt.layers == {"fp16": 1, "int8": 1, "fp32": 1}
    assert receipt.multiply_adds == {"fp16": 1000 * 784, "int8": 131072 * 784, "fp32": 40}


def test_free_sizes_leave_the_count_of_layers() -> None:
    receipt = read(
        convolution("Half", 1000, "N/A due to dynamic shapes", -1, 256, -1, -1),
        convolution("Half", 1000, "N/A due to dynamic shapes", -1, 256, 2, 2),
        convolution("BFloat16", 1000, "N/A due to dynamic shapes", -1, 256, 2, 2),
    )
    assert receipt.layers == {"fp16": 2, "bf16": 1}
    assert receipt.multiply_adds == {}
    assert receipt.shares == {"fp16": 2 / 3, "bf16": 1 / 3}


def test_type_is_that_of_the_input_where_weights_are_not_shown() -> None:
    product = {
        "Name": "fc",
        "LayerType": "gemm",
        "Inputs": [tensor("Half", 8, 64)],
        "Outputs": [tensor("Float", 8, 10)],
    }
    assert read(product).layers == {"fp16": 1}
    assert read(product).multiply_adds == {}


def test_what_an_engine_keeps_to_itself_is_unknown() -> None:
    assert read("{ForeignNode[conv...fc]}").layers == {"unknown": 1}
    opaque = {"Name": "{ForeignNode[conv...fc]}", "LayerType": "Myelin", "Inputs": []}
    assert read(opaque).shares == {"unknown": 1.0}


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "Layers: conv"])
def test_other_answers_are_refused(text: str) -> None:
    with pytest.raises(EngineBuildError, match="not a list of layers"):
        read_layer_information(text)


@pytest.mark.skipif(cuda_status().devices > 0, reason="is about a machine without a GPU")
def test_inspecting_needs_a_gpu() -> None:
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(EngineBuildError, match="cannot load the engine to inspect it"):
        inspect_engine(open_library("tensorrt-rtx"), small_engine("tensorrt-rtx"))


@pytest.mark.gpu
@pytest.mark.skipif(cuda_status().devices == 0, reason="needs a GPU")
@pytest.mark.parametrize("edition", ["tensorrt", "tensorrt-rtx"])
def test_engine_is_inspected(edition: str) -> None:
    try:
        receipt = inspect_engine(open_library(edition), small_engine(edition))
    except MissingExtraError as error:
        pytest.skip(str(error))
    except EngineBuildError as error:
        if "compute capability" not in str(error):  # TensorRT-RTX is not for all of them
            raise
        pytest.skip(str(error))
    assert receipt.source == "engine"
    assert set(receipt.layers) == ({"fp32"} if edition == "tensorrt" else {"unknown"})


def small_engine(edition: str) -> bytes:
    content = graph(
        "(float[1,3,8,8] x) => (float[1,4,6,6] y) { y = Conv(x, w) }", w=ones(4, 3, 3, 3)
    )
    return build_engine(content, EngineOptions(edition=edition)).content
