"""Replaces the arithmetic behind a Reshape by −1 where one dimension alone is not known.

Flattening with a dynamic batch is captured as

    Reshape(x, Concat(Shape(x)[0:1], [64]))

but a Reshape infers one dimension by itself: ``Reshape(x, [−1, 64])`` is the same for every
batch, and the Shape, Gather or Slice behind the unknown part fall away. So is ``Reshape(x, Shape(y))``,
as behind the groups of a GroupNorm, by the sizes of y that are known. That holds if

1. the target is a Concat along axis 0 whose parts are constant but for one, or the Shape of a
   tensor whose sizes are known but for one,
2. the unknown part has exactly one element,
3. no constant part has −1 (ONNX allows one) or 0 under ``allowzero`` (nothing to infer from).
"""

import numpy as np
import onnx_ir as ir

from repr_export.graph.values import (
    Names,
    constant_of,
    graph_nodes,
    is_op,
    node_name,
    set_constant_input,
)
from repr_export.passes.result import PassResult


def infer_reshape_dim(model: ir.Model) -> PassResult:
    """Give every such Reshape a constant target, in place.

    What computed the targets is left behind, unused.
    """
    count = 0
    names = Names(model)
    for node in list(graph_nodes(model)):
        if not is_op(node, "Reshape"):
            continue
        like = _measured(node)
        target = _target(node) if like is None else _sizes(like)
        if target is not None:
            if like is not None:
                node.outputs[0].shape = like.shape
            array = np.array(target, dtype=np.int64)
            set_constant_input(node, 1, array, names, f"{node_name(node)}.shape")
            count += 1
    return PassResult(count, "targets of Reshapes made constant")


def _measured(node: ir.Node) -> ir.Value | None:
    """The tensor whose Shape, all of it, is the target of the Reshape ``node``."""
    shape = node.inputs[1] if len(node.inputs) > 1 else None
    producer = shape.producer() if shape is not None else None
    if producer is None or not is_op(producer, "Shape") or "end" in producer.attributes:
        return None
    return None if producer.attributes.get_int("start", 0) else producer.inputs[0]


def _sizes(value: ir.Value) -> list[int] | None:
    """The sizes of ``value``, −1 for the one that is not known; None if more are not, or one is 0."""
    dims = [dim if isinstance(dim, int) else -1 for dim in value.shape or ()]
    return dims if dims.count(-1) == 1 and 0 not in dims else None


def _target(node: ir.Node) -> list[int] | None:
    shape = node.inputs[1] if len(node.inputs) > 1 else None
    concat = shape.producer() if shape is not None else None
    if concat is None or not is_op(concat, "Concat") or concat.attributes.get_int("axis", 0) != 0:
        return None
    dims: list[int] = []
    unknown = 0
    for part in concat.inputs:
        tensor = constant_of(part)
        if tensor is not None:
            dims += [int(dim) for dim in tensor.numpy().reshape(-1)]
        elif part is not None and part.shape is not None and list(part.shape) == [1]:
            dims.append(-1)
            unknown += 1
        else:
            return None
    zero_is_literal = node.attributes.get_int("allowzero", 0) and 0 in dims
    return dims if unknown == 1 and dims.count(-1) == 1 and not zero_is_literal else None
