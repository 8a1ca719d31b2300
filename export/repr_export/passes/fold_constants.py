"""Computes what does not depend on the inputs, with onnxscript's folder and a policy of our own.

Only constant folding runs here, none of onnxscript's rewrite rules: those would fuse
BatchNormalization uncounted. Identity nodes and needless Cast, CastLike, Expand and Reshape go
as well. A graph captured from torch without optimisation needs this before its BatchNorms can be
read, because their neighbours' biases stand behind Shape, CastLike and Expand.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir
from onnxscript.optimizer import fold_constants_ir

from repr_export.graph.values import (
    Names,
    add_initializer,
    constant_of,
    graph_nodes,
    is_op,
    opset_of,
)
from repr_export.passes.result import PassResult

_MAX_ROUNDS = 8
"""Folding uncovers more to fold; graphs seen so far settle after two or three rounds."""

_CONSTANT_INTS = 12  # the opset from which a Constant may be given as integers
_SPLIT_INPUT, _NUM_OUTPUTS = 13, 18  # opsets from which Split has its sizes as input, or a number
_LIBRARY_LIMIT, _LARGEST_FILL = 2**18, 2**25  # elements of what the library computes, and of a fill


def fold_constants(model: ir.Model) -> PassResult:
    """Fold constants in ``model``, in place; what counts is by how many its nodes became fewer.

    Dynamic dimensions stay dynamic, and QuantizeLinear and DequantizeLinear stay.
    """
    before = sum(1 for _ in graph_nodes(model))
    opset = opset_of(model)
    sequences = any(
        is_op(node, op_type)
        for node in graph_nodes(model)
        for op_type in ("SplitToSequence", "ConcatFromSequence")
    )
    if sequences and opset < _SPLIT_INPUT:  # the library would write operators of a later opset
        return PassResult(0, "nodes computed")
    with _overridable_defaults_set_aside(model):
        for _ in range(_MAX_ROUNDS):
            result = fold_constants_ir(
                model,
                onnx_shape_inference=True,
                # a weight may stand behind a Cast, Reshape or Transpose, however large it is
                input_size_limit=sys.maxsize,
                should_fold=_should_fold,
            )
            if not (_fill_large(model) or result.modified):
                break
    if opset < _CONSTANT_INTS:
        _name_constants_by_value(model)
    if opset < _NUM_OUTPUTS:
        for node in graph_nodes(model):
            if is_op(
                node, "Split"
            ):  # that the library wrote: parts of one size, which is the default
                node.attributes.pop("num_outputs", None)
    after = sum(1 for _ in graph_nodes(model))
    return PassResult(before - after, "nodes computed")


def _name_constants_by_value(model: ir.Model) -> None:
    """Give the library's Constants of integers the one attribute that they had in an older opset."""
    for node in graph_nodes(model):
        for name in ("value_int", "value_ints"):
            if is_op(node, "Constant") and name in node.attributes:
                array = np.array(node.attributes.pop(name).value, np.int64)
                node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))


def _should_fold(node: ir.Node) -> bool | None:
    """True or False decides; None leaves it to the library."""
    if is_op(node, "BatchNormalization"):
        return False  # so that the report accounts for every one
    if any(is_op(node, op_type) for op_type in ("QuantizeLinear", "DequantizeLinear")):
        return False  # they say in which precision the weight is
    if is_op(node, "ConstantOfShape"):
        return True  # BatchNorms without scale and bias have them made of these
    return None


def _fill_large(model: ir.Model) -> bool:
    """Make initializers of the ConstantOfShapes that are too large for the library: weights may be."""
    names, found = Names(model), False
    for node in tuple(graph_nodes(model)):
        shape = constant_of(node.inputs[0]) if is_op(node, "ConstantOfShape") else None
        output, graph = node.outputs[0], node.graph
        assert graph is not None  # it was found in it
        if shape is None or output.is_graph_output():
            continue
        size = math.prod(shape.numpy().tolist())
        if not _LIBRARY_LIMIT < size <= _LARGEST_FILL:
            continue
        fill = node.attributes.get("value")
        value = np.zeros(1, np.float32) if fill is None else fill.as_tensor().numpy()
        array = np.full(shape.numpy(), value.ravel()[0])
        filled = add_initializer(graph, array, names.take(f"{output.name}.filled"))
        output.replace_all_uses_with(filled)
        graph.remove(node, safe=True)
        found = True
    return found


@contextmanager
def _overridable_defaults_set_aside(model: ir.Model) -> Iterator[None]:
    """Hide the defaults of inputs: the library would take them for constants."""
    hidden: list[tuple[ir.Graph, ir.Value, ir.TensorProtocol]] = []
    for graph in model.graphs():
        for value in tuple(graph.initializers.values()):
            if value.is_graph_input() and value.const_value is not None and value.name:
                hidden.append((graph, value, value.const_value))
                graph.initializers.pop(value.name)
                value.const_value = None
    try:
        yield
    finally:
        for graph, value, tensor in hidden:
            value.const_value = tensor
            graph.register_initializer(value)
