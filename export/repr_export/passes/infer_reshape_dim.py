"""Replaces the arithmetic behind a Reshape by −1 where one dimension alone is not known.

Flattening with a dynamic batch is captured as

    Reshape(x, Concat(Shape(x)[0:1], [64]))

but a Reshape infers one dimension by itself: ``Reshape(x, [−1, 64])`` is the same for every
batch, and the Shape, Gather or Slice behind the unknown part fall away. That holds if

1. the target is a Concat along axis 0 whose parts are constant but for one,
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
        if is_op(node, "Reshape") and (target := _target(node)) is not None:
            array = np.array(target, dtype=np.int64)
            set_constant_input(node, 1, array, names, f"{node_name(node)}.shape")
            count += 1
    return PassResult(count, "targets of Reshapes made constant")


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
