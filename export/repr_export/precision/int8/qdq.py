"""Writes Q/DQ pairs into a graph where TensorRT wants them: symmetric int8, per-channel weights.

For a weighted layer y = act(W x + b) that is to compute in int8:

    x ── Q(s_x) ── DQ(s_x) ──┐
    int8 W ─────── DQ(s_W) ──┤ layer ── y
    b (float32) ─────────────┘

1. its input gets a pair with one scale, s_x = T / 127; several readers share the pair
2. its weights are stored as int8 behind a DequantizeLinear, s_W[c] = max|W[c]| / 127 for each
   output channel c
3. its bias stays float32: TensorRT refuses an int32 bias behind DequantizeLinear
4. its output gets no pair of its own, so that the activation behind it can be fused
5. a residual addition gets a pair on the operand that is not the output of the layer that it is
   fused with

Zero points are 0 throughout: TensorRT knows no others.
"""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from repr_export.graph.values import (
    Names,
    add_initializer,
    constant_of,
    discard_if_unused,
    float64_of,
    node_name,
)
from repr_export.precision.int8.quantizable import residual_operand, weight_axis
from repr_export.precision.int8.ranges import Ranges

_LEVELS = 127


def insert_qdq(model: ir.Model, chosen: Collection[str], ranges: Ranges) -> None:
    """Make the nodes named ``chosen`` int8, in place.

    They are weighted layers and additions of ``find_quantizable``; the additions' fused layers
    need not be chosen.
    """
    pairs = _Pairs(model, ranges)
    for node in tuple(model.graph):
        if node_name(node) not in chosen:
            continue
        if node.op_type == "Add":
            operand = residual_operand(node, chosen)
            if operand is None:  # chosen alone: the layer that it would be fused with is not int8
                operand = residual_operand(node, [node_name(each) for each in model.graph])
            assert operand is not None  # such additions are not chosen
            pairs.quantize_activation(node, operand)
        else:
            pairs.quantize_activation(node, 0)
            pairs.quantize_weight(node)


def channel_scales(weights: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    """The scale of each channel: its largest absolute value over 127, and 1 where all are 0."""
    others = tuple(index for index in range(weights.ndim) if index != axis)
    return _scales(np.abs(weights).max(axis=others, initial=0.0))


def quantize_weights(
    weights: NDArray[np.float64], scales: NDArray[np.float32], axis: int
) -> NDArray[np.int8]:
    """The nearest int8 in -127..127 (ties to even) of each weight over its channel's scale."""
    shape = [1] * weights.ndim
    shape[axis] = -1
    levels = np.rint(weights / scales.astype(np.float64).reshape(shape))
    result: NDArray[np.int8] = np.clip(levels, -_LEVELS, _LEVELS).astype(np.int8)
    return result


def _scales(largest: NDArray[np.float64]) -> NDArray[np.float32]:
    # A scale of 0 divides by 0, and a subnormal one may be flushed to 0 on a GPU.
    smallest = float(np.finfo(np.float32).tiny)
    scales = np.where(largest > 0, np.maximum(largest / _LEVELS, smallest), 1.0)
    return np.asarray(scales, np.float32)


class _Pairs:
    """One Q/DQ pair for each activation, one DequantizeLinear for each int8 weight."""

    def __init__(self, model: ir.Model, ranges: Ranges) -> None:
        self._graph = model.graph
        self._names = Names(model)
        self._ranges = ranges
        self._activations: dict[ir.Value, ir.Value] = {}
        self._weights: dict[tuple[ir.Value, int], ir.Value] = {}

    def quantize_activation(self, node: ir.Node, index: int) -> None:
        value = node.inputs[index]
        assert value is not None
        assert value.name is not None
        if value not in self._activations:
            largest = np.array(self._ranges.tensors[value.name].largest)
            scale = self._constant(f"{value.name}_scale", _scales(largest))
            zero = self._constant(f"{value.name}_zero_point", np.array(0, np.int8))
            levels = self._node(node, "QuantizeLinear", [value, scale, zero], f"{value.name}_q")
            levels.type = ir.TensorType(ir.DataType.INT8)
            result = self._node(node, "DequantizeLinear", [levels, scale, zero], f"{value.name}_dq")
            result.type = ir.TensorType(ir.DataType.FLOAT)
            levels.shape = result.shape = value.shape
            self._activations[value] = result
        node.replace_input_with(index, self._activations[value])

    def quantize_weight(self, node: ir.Node) -> None:
        weight, axis = node.inputs[1], weight_axis(node)
        tensor = constant_of(weight)
        assert weight is not None
        assert tensor is not None
        if (weight, axis) not in self._weights:
            values = float64_of(tensor)
            scales = channel_scales(values, axis)
            name = weight.name or "weight"
            inputs = [
                self._constant(f"{name}_q", quantize_weights(values, scales, axis)),
                self._constant(f"{name}_scale", scales),
                self._constant(f"{name}_zero_point", np.zeros(scales.shape, np.int8)),
            ]
            result = self._node(node, "DequantizeLinear", inputs, f"{name}_dq", axis=axis)
            result.type, result.shape = ir.TensorType(ir.DataType.FLOAT), weight.shape
            self._weights[weight, axis] = result
        node.replace_input_with(1, self._weights[weight, axis])
        discard_if_unused(weight)

    def _node(
        self, before: ir.Node, op: str, inputs: list[ir.Value], name: str, **attributes: int
    ) -> ir.Value:
        name = self._names.take(name)
        made = ir.node(op, inputs, attributes=attributes, name=name)
        made.outputs[0].name = name
        self._graph.insert_before(before, made)
        return made.outputs[0]

    def _constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        return add_initializer(self._graph, array, self._names.take(name))
