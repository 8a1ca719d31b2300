"""Folds additions and products by constants into the convolution or Gemm before them.

Some exporters write a BatchNormalization as what it is at inference, Mul and Add by constants, and
a bias as an Add; others divide and subtract. Each is ``s·x + t`` in each channel and goes into the
operator that it follows as a BatchNormalization does (:mod:`repr_export.passes.fold_batchnorm`, whose
conditions hold here too): x + c, x - c, c - x, x·c and x / c, where c has one value for each
channel or one for all.
"""

import numpy as np
import onnx_ir as ir

from repr_export.graph.values import Names, constant_of, graph_nodes, is_op, unrounded
from repr_export.passes.batchnorm import Affine, Array, RefusalError
from repr_export.passes.fold_batchnorm import AFTER, channels_of, fold_into, match_producer
from repr_export.passes.result import PassResult


def fold_scales(model: ir.Model) -> PassResult:
    """Fold every one of ``model`` that can be, in place."""
    names, count = Names(model), 0
    for node in tuple(graph_nodes(model)):
        if any(is_op(node, op_type) for op_type in ("Add", "Sub", "Mul", "Div")):
            count += _fold(node, names)
    return PassResult(count, "sums and products by constants folded")


def _fold(node: ir.Node, names: Names) -> int:
    constants = [constant_of(value) is not None for value in node.inputs]
    if sum(constants) != 1:
        return 0
    data = constants.index(False)
    try:
        producer = match_producer(node, data)
        channels = channels_of(producer)
        constant = _per_channel(node.inputs[1 - data], producer, channels)
        affine = _affine(node.op_type, constant, first=data == 0)
        fold_into(producer, AFTER[producer.op_type](producer, affine), node, names, data)
    except RefusalError:
        return 0
    return 1


def _per_channel(value: ir.Value | None, producer: ir.Node, channels: int) -> Array:
    """The constant as one value for each channel, axis 1 of what ``producer`` gives."""
    weight = producer.inputs[1]
    assert value is not None  # a constant, as the weight is
    assert weight is not None
    array = unrounded(value)
    rank = 2 if producer.op_type == "Gemm" else unrounded(weight).ndim
    shape = (1,) * (rank - array.ndim) + array.shape
    if array.size == 1 and len(shape) == rank:
        return np.full(channels, array.ravel()[0])
    if shape != (1, channels, *(1,) * (rank - 2)):
        raise RefusalError(f"its constant has shape {array.shape}")
    return array.reshape(channels)


def _affine(op_type: str, constant: Array, *, first: bool) -> Affine:
    """What the node does to its data, which is its first input or its second."""
    ones, zeros = np.ones_like(constant), np.zeros_like(constant)
    match op_type:
        case "Add":
            return Affine(ones, constant)
        case "Sub":
            return Affine(ones, -constant) if first else Affine(-ones, constant)
        case "Mul":
            return Affine(constant, zeros)
        case _ if first and constant.all():
            return Affine(ones / constant, zeros)
        case _:
            raise RefusalError("it divides by its data, or by 0")
