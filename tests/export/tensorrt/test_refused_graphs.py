"""Graphs that the real TensorRT-RTX parser, or the checks before it, refuse, each with the way out."""

from typing import Any

import numpy as np
import onnx
import pytest
from rtx_builds import build, convolution, graph, quantized, refused

from repr_export.errors import GraphError

pytest.importorskip("tensorrt_rtx")

REFUSED = {
    # name: (graph, its weights, node, operator, reason, hint)
    "uint8 into Transpose": (
        """(uint8[batch,4,4,3] x) => (float[batch,3,4,4] y)
            { [to_nchw] t = Transpose <perm=[0,3,1,2]> (x) y = Cast <to=1> (t) }""",
        *({}, "'to_nchw'", "Transpose", "first input has type UInt8", "Cast to float32"),
    ),
    "int32 bias behind DequantizeLinear": (
        """(float[batch,3] x) => (float[batch,4] y) {
            xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)
            wd = DequantizeLinear(w, s, z) [bias] bd = DequantizeLinear(b, s, z32)
            y = Gemm(xd, wd, bd) }""",
        {
            "w": np.ones((3, 4), np.int8),
            "b": np.ones(4, np.int32),
            "s": np.float32(0.1),
            "z": np.int8(0),
            "z32": np.int32(0),
        },
        *("'bias'", "DequantizeLinear", "", "QuantizeBias=False"),
    ),
    "an operator that TensorRT lacks": (
        "(float[batch,3,3] x) => (float[batch] y) { [it] y = Det(x) }",
        *({}, "'it'", "Det", "no such operator", "write it with other operators"),
    ),
    "an operator that nobody knows": (
        "(float[batch,3,3] x) => (float[batch] y) { [it] y = other.Foo(x) }",
        *({}, "'it'", "Foo", "", "ONNX standard"),
    ),
    "a node without a name": (
        "(float[batch,3,3] x) => (float[batch] volume) { r = Relu(x) volume = Det(r) }",
        *({}, "1, which makes 'volume',", "Det", "", ""),
    ),
    "mixed types": (
        "(float[batch,3] a, float16[batch,3] b) => (float[batch,3] y) { [sum] y = Add(a, b) }",
        *({}, "'sum'", "Add", "types Float and Half", "put a Cast"),
    ),
    "shapes that do not fit": (
        "(float[batch,4] x) => (float[batch,3] y) { [product] y = MatMul(x, w) }",
        *({"w": np.ones((3, 3), np.float32)}, "'product'", "MatMul", "", "onnx.checker"),
    ),
    "double": (
        "(double[batch,3] x) => (double[batch,3] y) { y = Relu(x) }",
        *({}, "", "", "takes 'x', which is double in the graph, for float", "put a Cast"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_way_out(name: str) -> None:
    text, weights, node, operator, reason, hint = REFUSED[name]
    error = refused(graph(text, **weights))
    (issue,) = error.issues
    assert (issue.node, issue.operator) == (node, operator)
    assert reason in issue.reason
    assert hint in issue.hint
    assert not node or f"node {node} ({operator})" in str(error)


@pytest.mark.parametrize(
    ("zero", "words"),
    [
        (np.uint8(0), "it is of uint8"),  # which would become int8 silently
        (None, "it is of uint8"),
        (np.int8(3), "symmetrically"),
    ],
)
def test_quantization_other_than_symmetric_int8(zero: Any, words: str) -> None:
    error = refused(quantized(zero))
    assert (error.issues[0].node, error.issues[0].operator) == ("'quantize'", "QuantizeLinear")
    assert words in str(error)
    assert build(quantized(np.int8(0))).content


def test_external_weights() -> None:
    model = onnx.load_model_from_string(convolution())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    with pytest.raises(GraphError, match="keeps weights in other files"):
        build(model.SerializeToString())


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 40, convolution()[:-20]])
def test_what_is_no_graph(content: bytes) -> None:
    with pytest.raises(GraphError, match="graph"):
        build(content)
