"""Small graphs, and engines that the real TensorRT-RTX builder makes of them, or refuses."""

from typing import Any

import numpy as np
import onnx
import pytest

from repr_export.errors import ParserError
from repr_export.tensorrt.build import BuiltEngine, build_engine
from repr_export.tensorrt.options import EngineOptions


def options(**chosen: Any) -> EngineOptions:
    return EngineOptions(edition="tensorrt-rtx", **chosen)


def build(graph: bytes, progress: Any = None, **chosen: Any) -> BuiltEngine:
    return build_engine(graph, options(**chosen), progress=progress)


def graph(text: str, **weights: Any) -> bytes:
    """The graph ``text`` (ONNX's own syntax) with ``weights`` as initializers by name."""
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20, "other": 1]> g {text}'
    )
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return model.SerializeToString()


def convolution(batch: int | str = "batch", size: int | str = 8, channels: int = 3) -> bytes:
    return graph(
        f"""(float[{batch},{channels},{size},{size}] x) => (float[{batch},256,h,h] y)
            {{ [conv] y = Conv(x, w) }}""",
        w=np.random.default_rng(0).normal(size=(256, channels, 3, 3)).astype(np.float32),
    )


def refused(content: bytes) -> ParserError:
    with pytest.raises(ParserError) as caught:
        build(content)
    assert "catchCudaError" not in str(caught.value)
    assert ".cpp" not in str(caught.value)
    return caught.value


def quantized(zero: Any) -> bytes:
    pair, weights = ("s", {}) if zero is None else ("s, z", {"z": zero})
    return graph(
        f"""(float[batch,3] x) => (float[batch,3] y)
            {{ [quantize] q = QuantizeLinear(x, {pair}) y = DequantizeLinear(q, {pair}) }}""",
        s=np.float32(0.1),
        **weights,
    )
