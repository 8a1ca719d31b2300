"""Which integers a graph can take: what it does with an input suggests them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from repr_export.graph.values import constant_of

_SAME = frozenset(
    {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand"}
)
_MOST = 1024  # of a table's rows


def integer_values(model: ir.Model) -> dict[str, NDArray[Any]]:
    """The values worth drawing for each integer input of ``model``, by name.

    A row of a table for what a Gather or OneHot reads, what it is compared with where there is an
    Equal, every value of a type of 8 bits; an input of which the graph says nothing is missing.
    """
    found = {}
    for value in model.graph.inputs:
        dtype = value.dtype
        if dtype is None or not dtype.is_integer() or value.is_initializer() or not value.name:
            continue
        limits = [limit for limit in map(_rows_read, _uses(value)) if limit is not None]
        compared = [c for use in _uses(value) for c in _compared_with(use)]
        if limits:
            found[value.name] = np.arange(min([*limits, _MOST]))
        elif compared:
            found[value.name] = np.unique(np.concatenate(compared))
        elif dtype.bitwidth == 8:
            limit = np.iinfo(dtype.numpy())
            found[value.name] = np.arange(limit.min, limit.max + 1)
    return found


def _uses(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Where ``value`` is read, also behind what leaves its numbers as they are."""
    for node, index in value.uses():
        if node.op_type in _SAME and index == 0:
            for output in node.outputs:
                yield from _uses(output)
        else:
            yield node, index


def _rows_read(use: tuple[ir.Node, int]) -> int | None:
    node, index = use
    if node.op_type == "Gather" and index == 1:
        table = node.inputs[0]
        axis = node.attributes.get_int("axis", 0)
        rows = None if table is None or table.shape is None else table.shape[axis]
        return rows if isinstance(rows, int) else None
    if node.op_type == "OneHot" and index == 0:
        depth = constant_of(node.inputs[1])
        return None if depth is None else int(np.ravel(depth.numpy())[0])
    return None


def _compared_with(use: tuple[ir.Node, int]) -> Iterator[NDArray[Any]]:
    node, index = use
    if node.op_type == "Equal":
        other = constant_of(node.inputs[1 - index])
        if other is not None:
            yield np.ravel(other.numpy())
