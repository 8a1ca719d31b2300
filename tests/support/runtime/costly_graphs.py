"""Small ONNX files that cost their reader much: time, memory, or its stack."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
node = helper.make_node


def graph(
    nodes: Sequence[onnx.NodeProto],
    functions: Sequence[onnx.FunctionProto] = (),
    **weights: Any,
) -> bytes:
    """Of ``input`` (n, 4) and ``logits`` of the same shape."""
    value = helper.make_tensor_value_info
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    ends = [[value(name, TensorProto.FLOAT, ["n", 4])] for name in ("input", "logits")]
    made = helper.make_graph(nodes, "g", *ends, tensors)
    model = helper.make_model(made, opset_imports=_OPSETS, ir_version=10, functions=functions)
    return model.SerializeToString()


def large_constants(count: int, values: int) -> bytes:
    """Each of ``values`` float32 numbers, made of a shape, and one row of it used."""
    nodes = [node("Cast", ["input"], ["where"], to=TensorProto.INT64)]
    for i in range(count):
        one = numpy_helper.from_array(np.float32([i + 1]), "one")
        nodes.append(node("ConstantOfShape", ["size"], [f"c{i}"], value=one))
        nodes.append(node("Gather", [f"c{i}", "where"], [f"d{i}"]))
        nodes.append(node("Add", [f"p{i - 1}" if i else "input", f"d{i}"], [f"p{i}"]))
    nodes.append(node("Identity", [f"p{count - 1}"], ["logits"]))
    return graph(nodes, size=np.int64([values]))


def calling(depth: int, times: int) -> bytes:
    """Functions in a row, each of which calls the next one so often; 0: itself."""

    def function(i: int) -> onnx.FunctionProto:
        if i == depth - 1 and times:
            body = [node("Relu", ["v0"], [f"v{times}"])]
        else:
            callee = f"F{i + 1 if times else i}"
            body = [node(callee, [f"v{k}"], [f"v{k + 1}"], domain="own") for k in range(times or 1)]
        return helper.make_function("own", f"F{i}", ["v0"], [f"v{times or 1}"], body, _OPSETS)

    first = node("F0", ["input"], ["logits"], domain="own")
    return graph([first], [function(i) for i in range(depth)])


def endless() -> bytes:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Relu", ["v"], ["w"])],
        "body",
        [
            *(value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, [])),
            value("v", TensorProto.FLOAT, ["n", 4]),
        ],
        [value("on", TensorProto.BOOL, []), value("w", TensorProto.FLOAT, ["n", 4])],
    )
    return graph([node("Loop", ["", "true", "input"], ["logits"], body=body)], true=np.array(True))


def sparse(values: int) -> bytes:
    """A tensor of so many values, of which one stands in the file."""
    model = onnx.ModelProto.FromString(graph([node("Relu", ["input"], ["logits"])]))
    one = numpy_helper.from_array(np.float32([1]), "large")
    at = numpy_helper.from_array(np.int64([0]), "at")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(one, at, [values]))
    return model.SerializeToString()


def field(number: int, content: bytes) -> bytes:
    """A field of protobuf, by hand: what its library would not write."""

    def varint(value: int) -> bytes:
        digits = bytearray()
        while value >= 128:
            digits.append(value & 127 | 128)
            value >>= 7
        return bytes([*digits, value])

    return varint(number << 3 | 2) + varint(len(content)) + content


def nested(depth: int) -> bytes:
    """Branches within branches."""
    inner = field(1, field(1, b"input") + field(2, b"logits") + field(4, b"Relu"))
    for _ in range(depth):
        branch = field(1, b"then_branch") + field(6, inner) + b"\xa0\x01\x05"
        inner = field(1, field(1, b"c") + field(2, b"y") + field(4, b"If") + field(5, branch))
    return b"\x08\x0a" + field(8, b"\x10\x14") + field(7, inner)


def many_messages(number: int, content: bytes, count: int) -> bytes:
    """A graph of so many fields ``number``, each of the same few bytes."""
    return b"\x08\x0a" + field(7, field(number, content) * count)


def of_dimensions(count: int, where: str) -> bytes:
    """A tensor of so many dimensions: by the shape that makes it, or in an input's type."""
    if where == "operand":
        nodes = [node("ConstantOfShape", ["ones"], ["c"]), node("Size", ["c"], ["logits"])]
        return graph(nodes, ones=np.ones(count, np.int64))
    if where == "constant":
        ones = numpy_helper.from_array(np.ones(count, np.int64))
        nodes = [
            node("Constant", [], ["s"], value=ones),
            node("Reshape", ["input", "s"], ["logits"]),
        ]
        return graph(nodes)
    model = onnx.ModelProto.FromString(graph([node("Relu", ["input"], ["logits"])]))
    shape = model.graph.input[0].type.tensor_type.shape
    shape.dim.extend([onnx.TensorShapeProto.Dimension(dim_value=1)] * count)
    return model.SerializeToString()
