"""Counts the multiply-adds and parameters of an ONNX graph, from its shapes alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from repr_export.graph.values import (
    function_nodes,
    graph_nodes,
    is_op,
    label,
    only_scales,
    picks_channels,
)

_Shape = tuple[int, ...]

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_COUNTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", *_GATES)

_MOST_VALUES = 2**20
"""In a row: shape inference takes 100 bytes for each, to see whether they are a shape."""
_DATA_LIMIT = 1024
"""Elements up to which an initializer's values go to shape inference: enough for any shape."""


class UncountableError(ValueError):
    """The graph does not say how many multiply-adds one sample takes."""


@dataclass(frozen=True)
class NodeMultiplyAdds:
    """The multiply-adds of one node for one sample, and the type of its second operand."""

    node: ir.Node
    count: int
    weight_dtype: str


def count_multiply_adds(model: ir.Model) -> tuple[NodeMultiplyAdds, ...]:
    """Multiply-adds of convolutions, matrix products and recurrent cells for one sample, in order.

    One multiply-add is one product added to a sum; biases, BatchNorms and activations do not
    count (the convention of He et al. 2016, table 1, who call them FLOPs). A Conv takes
    outputs x C_in/groups x kernel of them, padding included; a ConvTranspose inputs x
    C_out/groups x kernel; a matrix product outputs x inner dimension; an LSTM, GRU or
    RNN steps x gates x cells x (inputs + cells), in each direction.

    The batch is the first dimension of the first input. A dynamic batch is set to 1, a fixed
    one is divided out. ``model`` is not changed.

    Raises :class:`UncountableError` if another dimension of an input is dynamic, if shape
    inference cannot find a shape, or if such a node stands in an If or Loop body or a function.
    """
    counted = []
    for node in (*graph_nodes(model), *function_nodes(model)):
        if any(is_op(node, op_type) for op_type in _COUNTED) and not picks_channels(node):
            if node.graph is not model.graph:
                raise UncountableError(
                    f"{label(node)} stands in an If or Loop body or in a function, so that the "
                    "graph alone does not say how often it runs; inline functions first"
                )
            counted.append(node)
    batch, _ = _batch(model)
    types = inferred_types(model)
    shares = []
    for node in counted:
        shapes = [_shape_of(types, value, node) for value in (*node.inputs[:2], node.outputs[0])]
        count = _count(node, *shapes)
        if count % batch:
            raise UncountableError(
                f"{label(node)} takes {count} multiply-adds at the graph's batch of {batch}, "
                "which is no whole number for one sample"
            )
        weight = node.inputs[1]
        assert weight is not None  # it has a shape
        dtype = ir.DataType(types[weight.name or ""].elem_type).numpy().name
        shares.append(NodeMultiplyAdds(node, count // batch, dtype))
    return tuple(shares)


def with_shapes(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> ir.Model:
    """A copy of ``model`` that takes inputs of these shapes alone, to be counted; by input name."""
    fixed = model.clone()
    for value in _data_inputs(fixed):
        value.shape = ir.Shape(shapes[value.name or ""])
    return fixed


def activation_bytes(model: ir.Model) -> int:
    """Of all values of one run together, as far as shape inference knows them; weights not counted."""
    try:
        types = inferred_types(model)
    except UncountableError:
        return 0
    made = {output.name for node in model.graph for output in node.outputs}
    return sum(
        math.prod(dim.dim_value for dim in kind.shape.dim)
        * ir.DataType(kind.elem_type).bitwidth
        // 8
        for name, kind in types.items()
        if name in made
    )


def count_parameters(model: ir.Model) -> int:
    """How many numbers the graph's floating-point initializers hold, in bodies too.

    In a graph with BatchNorm folded, that counts each convolution's bias and no BatchNorm. The
    zeros and ones of a convolution that only picks channels are none, nor are those of a
    BatchNormalization that only scales.
    """
    nodes = list(graph_nodes(model))
    fixed = {node.inputs[1] for node in nodes if picks_channels(node)}
    fixed |= {value for node in nodes if only_scales(node) for value in node.inputs[3:]}
    return sum(
        math.prod(value.const_value.shape.numpy())
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
        and value.const_value.dtype.is_floating_point()
        and value not in fixed
    )


def _count(node: ir.Node, data: _Shape, weight: _Shape, output: _Shape) -> int:
    match node.op_type:
        case "Conv":
            return math.prod(output) * math.prod(weight[1:])
        case "ConvTranspose":
            return math.prod(data) * math.prod(weight[1:])
        case "LSTM" | "GRU" | "RNN":  # weight: directions x gates of all cells x inputs
            hidden = weight[1] // _GATES[node.op_type]
            return data[0] * data[1] * weight[0] * weight[1] * (weight[2] + hidden)
        case "Gemm":
            return math.prod(output) * data[0 if node.attributes.get_int("transA", 0) else 1]
        case _:
            return math.prod(output) * data[-1]


def _data_inputs(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _batch(model: ir.Model) -> tuple[int, str | None]:
    """The fixed batch, or 1 and the name of the dynamic one (None if it has no name)."""
    for value in _data_inputs(model):
        if value.shape is not None and len(value.shape) > 0:
            first = value.shape[0]
            return (first, None) if isinstance(first, int) else (1, first.value)
    return 1, None


def _input_shape(value: ir.Value, symbol: str | None, batch: int) -> list[int]:
    if value.shape is None:
        raise UncountableError(f"the input '{value.name}' has no shape")
    dims = []
    for axis, dim in enumerate(value.shape):
        if isinstance(dim, int):
            dims.append(dim)
        elif (dim.value is not None and dim.value == symbol) or (dim.value is None and axis == 0):
            dims.append(batch)
        else:
            raise UncountableError(
                f"dimension {axis} of the input '{value.name}' is dynamic"
                f"{f' ({dim.value})' if dim.value else ''}; only the batch may be"
            )
    return dims


def inferred_types(model: ir.Model, batch: int = 1) -> dict[str, onnx.TypeProto.Tensor]:
    """Element type and shape of each value by name, with a dynamic batch set to ``batch``.

    They are inferred from a copy of the graph without weights. A value whose whole shape
    inference cannot find is missing. ``model`` is not changed. Raises
    :class:`UncountableError` as :func:`count_multiply_adds` does of its inputs.
    """
    symbol = _batch(model)[1]
    copy = model.clone()
    copy.ir_version = max(copy.ir_version, 4)  # from which an initializer need not be an input
    for value in _data_inputs(copy):
        value.shape = ir.Shape(_input_shape(value, symbol, batch))
    for name, value in tuple(copy.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None:
            raise UncountableError(f"the initializer '{name}' has no data")
        if tensor.size > _DATA_LIMIT:
            value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
            copy.graph.initializers.pop(name)
            if not value.is_graph_input():
                copy.graph.inputs.append(value)
    for node in copy.graph:
        for output in node.outputs:
            output.type = output.shape = None
    try:
        graph = _inferred(ir.to_proto(copy))
    except onnx.shape_inference.InferenceError as error:
        raise UncountableError(f"shape inference fails: {error}") from error
    types = {
        info.name: info.type.tensor_type
        for info in (*graph.input, *graph.value_info, *graph.output)
    }
    for initializer in graph.initializer:
        types[initializer.name] = onnx.helper.make_tensor_type_proto(
            initializer.data_type, initializer.dims
        ).tensor_type
    return {
        name: found
        for name, found in types.items()
        if found.HasField("shape") and all(dim.HasField("dim_value") for dim in found.shape.dim)
    }


def _inferred(proto: onnx.ModelProto) -> onnx.GraphProto:
    """With the values that shapes are made of, unless they would be more than any shape has."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    shapes = [info.type.tensor_type.shape.dim for info in (*graph.value_info, *graph.output)]
    if any(len(dims) == 1 and dims[0].dim_value > _MOST_VALUES for dims in shapes):
        return graph
    return onnx.shape_inference.infer_shapes(proto, data_prop=True).graph


def _shape_of(
    types: Mapping[str, onnx.TypeProto.Tensor], value: ir.Value | None, node: ir.Node
) -> _Shape:
    inferred = types.get(value.name or "") if value is not None else None
    if inferred is None:
        raise UncountableError(
            f"shape inference cannot tell the shape of '{value.name if value else ''}' at "
            f"{label(node)}; run the graph passes first, or export with fixed sizes"
        )
    return tuple(dim.dim_value for dim in inferred.shape.dim)
