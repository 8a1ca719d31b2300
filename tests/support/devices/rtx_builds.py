"""Small graphs, and engines that the real TensorRT-RTX builder makes of them, or refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from repr_export.errors import ParserError
from repr_export.tensorrt.build import BuiltEngine, build_engine
from repr_export.tensorrt.options import EngineOptions


def options(**chosen: Any) -> EngineOptions:
    return EngineOptions(edition="tensorrt-rtx", **chosen)


def build(graph: bytes, progress: Any = None, **chosen: Any) -> BuiltEngine:
    return build_engine(graph, options(**chosen), progress=progress)


def value(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    *,
    domain: str = "local",
    **weights: Any,
) -> bytes:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    return helper.make_model(
        helper.make_graph(nodes, "graph", inputs, outputs, tensors),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(domain, 1)],
        ir_version=10,
    ).SerializeToString()


def convolution(batch: int | str = "batch", size: int | str = 8, channels: int = 3) -> bytes:
    return graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")],
        [value("x", TensorProto.FLOAT, batch, channels, size, size)],
        [value("y", TensorProto.FLOAT, batch, 256, "h", "h")],
        w=np.random.default_rng(0).normal(size=(256, channels, 3, 3)).astype(np.float32),
    )


def refused(content: bytes) -> ParserError:
    with pytest.raises(ParserError) as caught:
        build(content)
    assert "catchCudaError" not in str(caught.value)
    assert ".cpp" not in str(caught.value)
    return caught.value


def quantized(zero: Any, **attributes: int) -> bytes:
    inputs = ["x", "s"] if zero is None else ["x", "s", "z"]
    weights = {} if zero is None else {"z": zero}
    return graph(
        [
            helper.make_node("QuantizeLinear", inputs, ["q"], name="quantize", **attributes),
            helper.make_node("DequantizeLinear", ["q", *inputs[1:]], ["y"]),
        ],
        [value("x", TensorProto.FLOAT, "batch", 3)],
        [value("y", TensorProto.FLOAT, "batch", 3)],
        s=np.float32(0.1),
        **weights,
    )
