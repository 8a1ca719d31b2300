"""Which nodes of a graph must go on computing in fp32 when the rest becomes half precision.

In this order, the first that applies being the reason in the report:

1. the caller named the node;
2. it is no standard operator, or holds a body (If, Loop, Scan): its insides are left alone;
3. its operator is a statistic, a power or a sum (:data:`ALWAYS_FP32`);
4. its operator is not defined for the half type in the graph's opset;
5. its output's type is not that of its inputs (an attribute gives it);
6. it reads quantized values, and an int8 kernel can still be made of it and its DequantizeLinear;
7. it averages over more than :func:`largest_window` values, or over a number unknown;
8. a constant of it would become infinite, or 0 altogether (an epsilon of 1e-12, say);
9. it stands between such nodes, so that half precision would only add two Casts.

Arithmetic on shapes stays as it is without being counted: a size of 2049 is no fp16 number.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from repr_export.graph.values import (
    ONNX_DOMAINS,
    bodies_of,
    constant_of,
    is_op,
    opset_of,
    unrounded,
)
from repr_export.precision.half.formats import HalfFormat, round_to

_ALWAYS = {
    "normalisation statistics": "BatchNormalization GroupNormalization InstanceNormalization "
    "LayerNormalization LpNormalization LRN MeanVarianceNormalization RMSNormalization",
    "exponentials": "Softmax LogSoftmax Exp Log Pow Softplus",
    "roots and reciprocals, mostly of a variance": "Sqrt Reciprocal",
    "a sum or product of many values": "CumSum LpPool GlobalLpPool ReduceL1 ReduceL2 "
    "ReduceLogSum ReduceLogSumExp ReduceProd ReduceSum ReduceSumSquare",
    "quantization scales": "QuantizeLinear DequantizeLinear",
}
ALWAYS_FP32 = {name: reason for reason, names in _ALWAYS.items() for name in names.split()}
"""Operators that stay in fp32 wherever they stand, with the reason."""

_ACCUMULATING = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "GRU", "LSTM", "RNN")
_SHAPES = ("Shape", "Size")
_TYPE_ATTRIBUTES = ("dtype", "output_dtype", "output_datatype")
_EXACT_IN_HALF = (ir.DataType.BOOL, ir.DataType.INT8, ir.DataType.UINT8)


def largest_window(fmt: HalfFormat) -> int:
    """How many values may be averaged in half precision: 128 in fp16, 16 in bf16.

    Should a backend add in half precision, n values are wrong by up to n units in the last
    place of their sum (n·2^-11 in fp16, n·2^-8 in bf16; Higham, "Accuracy and Stability of
    Numerical Algorithms", 2002, §4.2). The bound keeps that below 1/16 in the worst case; for
    errors of random signs it is then below 0.6 % in fp16 and 1.6 % in bf16.
    """
    return 1 << (fmt.significant_bits - 4)


@dataclass(frozen=True)
class Signature:
    """The types of a node's inputs and outputs, as the operator's schema names them.

    ``inputs`` and ``outputs`` hold type variables (``T``) or types (``tensor(float)``), one for
    each. ``halves`` are those that may be the half type.
    """

    inputs: list[str]
    outputs: list[str]
    halves: frozenset[str]


def signature_of(node: ir.Node, opset: int, fmt: HalfFormat) -> Signature | None:
    """What ONNX says about ``node``, None if it says nothing."""
    if node.domain not in ONNX_DOMAINS:
        return None
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    formals, half = [*schema.inputs, *schema.outputs], f"tensor({fmt.dtype.name.lower()})"
    return Signature(
        _types(schema.inputs, len(node.inputs)),
        _types(schema.outputs, len(node.outputs)),
        frozenset(formal.type_str for formal in formals if half in formal.types),
    )


def _types(formals: Sequence[onnx.defs.OpSchema.FormalParameter], count: int) -> list[str]:
    """Of ``count`` values; the last of the operator's stands for all that follow."""
    return [formals[min(index, len(formals) - 1)].type_str for index in range(count)]


def is_float(value: ir.Value | None) -> bool:
    """Whether ``value`` is a float32 tensor."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def is_constant(value: ir.Value) -> bool:
    """Whether ``value`` is an initializer that no caller can override."""
    return value.is_initializer() and not value.is_graph_input()


def nodes_on_data(graph: ir.Graph, bodies: Mapping[ir.Node, Iterable[ir.Value]]) -> set[ir.Node]:
    """The nodes whose results depend on what the inputs hold, not on their shapes alone.

    ``bodies`` gives what the bodies of a node read from around them.
    """
    data = {value for value in graph.inputs if not value.is_initializer()}
    found = set()
    for node in graph:
        if any(value in data for value in (*node.inputs, *bodies.get(node, ()))):
            found.add(node)
            if node.op_type not in _SHAPES:
                data.update(node.outputs)
    return found


def reasons_for_fp32(
    model: ir.Model,
    fmt: HalfFormat,
    named: Mapping[ir.Node, str],
    bodies: Mapping[ir.Node, Sequence[ir.Value]],
    *,
    io_is_half: bool,
) -> dict[ir.Node, str]:
    """The nodes of the main graph that work on float32 data and stay so, each with its reason."""
    opset = opset_of(model)
    on_data = nodes_on_data(model.graph, bodies)
    floating = [
        node
        for node in model.graph
        if node in on_data
        and any(map(is_float, (*node.inputs, *node.outputs, *bodies.get(node, ()))))
    ]
    found = {node: named.get(node) or _reason(node, opset, fmt) for node in floating}
    reasons = {node: reason for node, reason in found.items() if reason is not None}
    between = _between(model.graph, floating, reasons, io_is_half)
    return reasons | dict.fromkeys(between, "it stands between nodes in fp32")


def _reason(node: ir.Node, opset: int, fmt: HalfFormat) -> str | None:
    if bodies_of(node):
        return f"the body of {node.op_type} is left as it is"
    signature = signature_of(node, opset, fmt)
    if signature is None:
        return f"{node.domain or 'ONNX'}'s {node.op_type} is not known to take {fmt.name}"
    if any(map(_untyped, (*node.inputs, *node.outputs))):
        return "the graph does not tell the types of its inputs and outputs"
    if node.op_type in ALWAYS_FP32:
        return ALWAYS_FP32[node.op_type]
    results = [index for index, value in enumerate(node.outputs) if is_float(value)]
    if not results:
        return None
    if not any(signature.outputs[index] in signature.halves for index in results):
        return f"ONNX's {node.op_type} does not take {fmt.name} in opset {opset}"
    if is_op(node, "Cast"):
        source = node.inputs[0]
        exact = is_float(source) or (source is not None and source.dtype in _EXACT_IN_HALF)
        return None if exact else f"its integers may be none of {fmt.name}"
    made = not any(map(is_float, node.inputs))
    if made or any(name in node.attributes for name in _TYPE_ATTRIBUTES):
        return "its output's type is not that of its inputs"
    sources = (value.producer() for value in node.inputs if value is not None)
    if any(source is not None and is_op(source, "DequantizeLinear") for source in sources):
        return "it reads quantized values"
    return _window(node, fmt) or _constants(node, fmt)


def _untyped(value: ir.Value | None) -> bool:
    # An output without a name is one that the node does not give.
    return value is not None and bool(value.name) and value.dtype is None


def _window(node: ir.Node, fmt: HalfFormat) -> str | None:
    if node.op_type not in ("AveragePool", "GlobalAveragePool", "ReduceMean"):
        return None
    data = node.inputs[0]
    sizes: list[int | ir.SymbolicDim] | None
    if node.op_type == "AveragePool":
        sizes = list(node.attributes.get_ints("kernel_shape", ()))
    elif data is None or data.shape is None:
        sizes = None
    elif node.op_type == "GlobalAveragePool":
        sizes = list(data.shape)[2:]
    else:
        sizes = _reduced(node, list(data.shape))
    numbers = [size for size in sizes or () if isinstance(size, int)]
    if sizes is None or len(numbers) < len(sizes):
        return "it averages over a number of values which the graph leaves open"
    count, most = math.prod(numbers), largest_window(fmt)
    if count > most:
        return f"it averages over {count} values; {fmt.name} is left {most} at most"
    return None


def _reduced(node: ir.Node, shape: list[int | ir.SymbolicDim]) -> list[int | ir.SymbolicDim] | None:
    """The sizes of the axes that a reduction takes away, None if it computes which."""
    axes: Sequence[int] = node.attributes.get_ints("axes", ())
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = constant_of(node.inputs[1])
        if tensor is None:
            return None
        axes = [int(axis) for axis in tensor.numpy().reshape(-1)]
    if not axes:
        return [] if node.attributes.get_int("noop_with_empty_axes", 0) else shape
    return [shape[axis] for axis in axes]


def _constants(node: ir.Node, fmt: HalfFormat) -> str | None:
    for value in node.inputs:
        if value is None or not is_float(value) or not is_constant(value):
            continue
        values = unrounded(value)
        _, rounding = round_to(values, fmt)
        if rounding.overflowed:
            finite = np.abs(values[np.isfinite(values)]).max()
            return f"its constant '{value.name}' holds {finite:.4g}; {fmt.name} ends at {fmt.largest:.5g}"
        if rounding.underflowed and rounding.underflowed == np.count_nonzero(values):
            return f"its constant '{value.name}' of {np.abs(values).max():.3g} would be 0 in {fmt.name}"
    return None


def _between(
    graph: ir.Graph, floating: Sequence[ir.Node], kept: Mapping[ir.Node, str], io_is_half: bool
) -> set[ir.Node]:
    """The largest set of nodes that have nothing but fp32 around them; no matrix product is."""
    work = set(floating)
    outputs = set(graph.outputs)
    inside = {
        node
        for node in floating
        if node not in kept
        and node.op_type not in _ACCUMULATING
        and any(map(is_float, node.outputs))
    }

    def in_fp32(node: ir.Node | None) -> bool:
        if node is None:
            return not io_is_half
        if node not in work or node in kept or node in inside:
            return True
        return not any(map(is_float, node.outputs))  # it reads whatever there is

    def surrounded(node: ir.Node) -> bool:
        read = [value for value in node.inputs if value and is_float(value)]
        made = [value for value in node.outputs if is_float(value)]
        around = [value.producer() for value in read if not is_constant(value)]
        around += [reader for value in made for reader in value.consumers()]
        return all(map(in_fp32, around)) and not (io_is_half and outputs.intersection(made))

    while outside := {node for node in inside if not surrounded(node)}:
        inside -= outside
    return inside
