"""A graph in float64: what it computes there is its exact answer, as far as anyone needs to know."""

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

_NARROW = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_DTYPE_ATTRIBUTES = frozenset({"to", "dtype", "stash_type", "output_dtype"})


def widen(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` whose float32, float16 and bfloat16 values are float64, bodies included.

    Quantized values stay as they are. For the reference evaluator of `onnx`, whose operators
    compute in the type of their inputs: the standard does not allow float64 in every operator, nor
    has ONNX Runtime a kernel for each.
    """
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    _widen_graph(wide.graph)
    for function in wide.functions:
        for node in function.node:
            _widen_node(node)
    return wide


def _widen_graph(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        if kind.elem_type in _NARROW:
            kind.elem_type = TensorProto.DOUBLE
    for node in graph.node:
        _widen_node(node)


def _widen_node(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            _widen_tensor(attribute.t)
        if attribute.HasField("g"):
            _widen_graph(attribute.g)
        if attribute.name in _DTYPE_ATTRIBUTES and attribute.i in _NARROW:
            attribute.i = TensorProto.DOUBLE
    if node.op_type == "Constant":
        _widen_constant(node)


def _widen_constant(node: onnx.NodeProto) -> None:
    """A Constant given as a plain float is float32 by the standard."""
    for attribute in node.attribute:
        if attribute.name in ("value_float", "value_floats"):
            single = attribute.name == "value_float"
            values = np.asarray(attribute.f if single else list(attribute.floats), np.float64)
            tensor = numpy_helper.from_array(values)
            attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _NARROW:
        values = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
