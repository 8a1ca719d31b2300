"""Graphs that the real TensorRT-RTX parser, or the checks before it, refuse, each with the way out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from rtx_builds import build, convolution, graph, quantized, refused, value

from repr_export.errors import GraphError

pytest.importorskip("tensorrt_rtx")


def test_uint8_into_transpose() -> None:
    error = refused(
        graph(
            [
                helper.make_node("Transpose", ["x"], ["t"], name="to_nchw", perm=[0, 3, 1, 2]),
                helper.make_node("Cast", ["t"], ["y"], to=TensorProto.FLOAT),
            ],
            [value("x", TensorProto.UINT8, "batch", 4, 4, 3)],
            [value("y", TensorProto.FLOAT, "batch", 3, 4, 4)],
        )
    )
    (issue,) = error.issues
    assert (issue.node, issue.operator) == ("'to_nchw'", "Transpose")
    assert "first input has type UInt8" in issue.reason
    assert "Cast to float32" in issue.hint
    assert "node 'to_nchw' (Transpose)" in str(error)


def test_int32_bias_behind_dequantize() -> None:
    pair = ["s", "z"]
    error = refused(
        graph(
            [
                helper.make_node("QuantizeLinear", ["x", *pair], ["xq"]),
                helper.make_node("DequantizeLinear", ["xq", *pair], ["xd"]),
                helper.make_node("DequantizeLinear", ["w", *pair], ["wd"]),
                helper.make_node("DequantizeLinear", ["b", "s", "z32"], ["bd"], name="bias"),
                helper.make_node("Gemm", ["xd", "wd", "bd"], ["y"]),
            ],
            [value("x", TensorProto.FLOAT, "batch", 3)],
            [value("y", TensorProto.FLOAT, "batch", 4)],
            w=np.ones((3, 4), np.int8),
            b=np.ones(4, np.int32),
            s=np.float32(0.1),
            z=np.int8(0),
            z32=np.int32(0),
        )
    )
    (issue,) = error.issues
    assert (issue.node, issue.operator) == ("'bias'", "DequantizeLinear")
    assert "QuantizeBias=False" in issue.hint


@pytest.mark.parametrize("zero", [np.uint8(0), None])
def test_uint8_quantization_which_would_become_int8_silently(zero: Any) -> None:
    error = refused(quantized(zero))
    assert "node 'quantize' (QuantizeLinear): it is of uint8" in str(error)
    assert error.issues[0].operator == "QuantizeLinear"


def test_asymmetric_quantization() -> None:
    (issue,) = refused(quantized(np.int8(3))).issues
    assert issue.node == "'quantize'"
    assert "symmetrically" in issue.hint


def test_symmetric_int8_is_taken() -> None:
    assert build(quantized(np.int8(0))).content


@pytest.mark.parametrize(
    ("node", "hint"),
    [
        (helper.make_node("Det", ["x"], ["y"], name="it"), "write it with other operators"),
        (helper.make_node("Foo", ["x"], ["y"], name="it", domain="other"), "ONNX standard"),
    ],
)
def test_unknown_operator(node: onnx.NodeProto, hint: str) -> None:
    error = refused(
        graph(
            [node],
            [value("x", TensorProto.FLOAT, "batch", 3, 3)],
            [value("y", TensorProto.FLOAT, "batch")],
            domain="other",
        )
    )
    assert [issue.operator for issue in error.issues] == [node.op_type]
    assert error.issues[0].node == "'it'"
    assert hint in error.issues[0].hint


def test_nameless_node_is_told_by_its_place() -> None:
    error = refused(
        graph(
            [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Det", ["r"], ["volume"])],
            [value("x", TensorProto.FLOAT, "batch", 3, 3)],
            [value("volume", TensorProto.FLOAT, "batch")],
        )
    )
    assert "1, which makes 'volume'" in str(error)


def test_mixed_types() -> None:
    error = refused(
        graph(
            [helper.make_node("Add", ["a", "b"], ["y"], name="sum")],
            [
                value("a", TensorProto.FLOAT, "batch", 3),
                value("b", TensorProto.FLOAT16, "batch", 3),
            ],
            [value("y", TensorProto.FLOAT, "batch", 3)],
        )
    )
    assert "types Float and Half" in error.issues[0].reason
    assert "put a Cast" in error.issues[0].hint


def test_shapes_that_do_not_fit() -> None:
    error = refused(
        graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
            [value("x", TensorProto.FLOAT, "batch", 4)],
            [value("y", TensorProto.FLOAT, "batch", 3)],
            w=np.ones((3, 3), np.float32),
        )
    )
    assert error.issues[0].node == "'product'"
    assert "onnx.checker" in error.issues[0].hint


def test_double_is_not_made_float_silently() -> None:
    error = refused(
        graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            [value("x", TensorProto.DOUBLE, "batch", 3)],
            [value("y", TensorProto.DOUBLE, "batch", 3)],
        )
    )
    assert "takes 'x', which is double in the graph, for float" in str(error)


def test_external_weights() -> None:
    model = onnx.load_model_from_string(convolution())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    with pytest.raises(GraphError, match="keeps weights in other files"):
        build(model.SerializeToString())


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 40, convolution()[:-20]])
def test_what_is_no_graph(content: bytes) -> None:
    with pytest.raises(GraphError, match="graph"):
        build(content)
