"""What a graph asks of a machine, layer by layer: multiply-adds, and bytes that must move.

Counted of each weighted layer (Conv, ConvTranspose, Gemm, MatMul): its constant operands
(weights, bias) once, however many layers share them; its other operands, read; its output,
written. All else counts as fused into these. A tensor has the size in which the graph stores
it: behind a DequantizeLinear or in front of a QuantizeLinear (a Relu or Clip may stand
between) that is the quantized one. That is what a runtime must move that fuses all it can,
and keeps nothing in a cache from one layer to the next.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from repr_export.graph.multiply_adds import UncountableError, count_multiply_adds, inferred_types
from repr_export.graph.values import node_name

Types = Mapping[str, onnx.TypeProto.Tensor]
_FUSED_BEFORE_QUANTIZING = ("Relu", "Clip")


@dataclass(frozen=True)
class LayerTraffic:
    """One weighted layer at one batch size; ``node`` is its name or its first output's."""

    node: str
    op: str
    multiply_adds: int
    weight_bytes: int
    activation_bytes: int


def layer_traffic(graph: bytes, batch: int) -> tuple[LayerTraffic, ...]:
    """The weighted layers of the ONNX model ``graph`` for a whole batch, in its order.

    Raises :class:`repr_export.graph.multiply_adds.UncountableError` where shapes cannot be told.
    """
    model = ir.from_proto(onnx.load_model_from_string(graph))
    types = inferred_types(model, batch)
    seen: set[str] = set()
    found = []
    for share in count_multiply_adds(model):
        node = share.node
        operands = [_stored(value) for value in node.inputs if value is not None]
        weights = [value for value in operands if _is_constant(value)]
        fresh = {value.name or "": value for value in weights if value.name not in seen}
        seen |= fresh.keys()
        moved = [value for value in operands if not _is_constant(value)]
        found.append(
            LayerTraffic(
                node_name(node),
                node.op_type,
                batch * share.count,
                sum(_bytes(types, value) for value in fresh.values()),
                sum(_bytes(types, value) for value in (*moved, _written(node.outputs[0]))),
            )
        )
    return tuple(found)


def _is_constant(value: ir.Value) -> bool:
    maker = value.producer()
    return value.is_initializer() or (maker is not None and maker.op_type == "Constant")


def _stored(value: ir.Value) -> ir.Value:
    """What is read for ``value``: the quantized tensor, where it is dequantized on the way."""
    maker = value.producer()
    if maker is not None and maker.op_type == "DequantizeLinear" and maker.inputs[0] is not None:
        return maker.inputs[0]
    return value


def _written(value: ir.Value) -> ir.Value:
    """What is written for ``value``: the quantized tensor, where nothing else reads it."""
    last = value
    while len(consumers := last.consumers()) == 1:
        if consumers[0].op_type == "QuantizeLinear":
            return consumers[0].outputs[0]
        if consumers[0].op_type not in _FUSED_BEFORE_QUANTIZING:
            break
        last = consumers[0].outputs[0]
    return value


def _bytes(types: Types, value: ir.Value) -> int:
    found = types.get(value.name or "")
    if found is None:
        raise UncountableError(f"shape inference cannot tell the shape of {value.name!r}")
    elements = math.prod(dim.dim_value for dim in found.shape.dim)
    bits: int = elements * ir.DataType(found.elem_type).bitwidth
    return -(-bits // 8)
