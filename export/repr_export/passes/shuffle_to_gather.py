"""Makes a channel shuffle and the Split behind it one Gather for each part.

ShuffleNet (Zhang et al., CVPR 2018, §3.1) mixes the channels of G groups by writing them as a
matrix of G rows and reading that by columns:

    Reshape(x, [N, G, K, H, W]) ── Transpose(0, 2, 1, 3, 4) ── Reshape([N, G·K, H, W])

which moves all of x, and the Split of ShuffleNet v2 (Ma et al., ECCV 2018, §3) moves it once more.
``Gather(x, indices, axis=1)`` picks the channels of a part in the same order, in one go and exactly.
A shuffle without a Split stays: OpenVINO (2026.4) moves a Gather that takes each channel once into
the weights behind it, and gets those of depthwise convolutions wrong. It is refused where

1. the shapes are not constant, or do more than part the channels and put them together again,
2. the Transpose does more than change the two parts,
3. something else reads what is between, or it is an output of the graph,
4. no Split of the channels follows, into parts of known sizes.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from repr_export.graph.values import (
    Names,
    constant_of,
    discard_if_unused,
    graph_nodes,
    is_op,
    node_name,
    set_constant_input,
)
from repr_export.passes.result import PassResult


def shuffle_to_gather(model: ir.Model) -> PassResult:
    """Rewrite every such shuffle of ``model``, in place."""
    names, count = Names(model), 0
    for node in tuple(graph_nodes(model)):
        if is_op(node, "Transpose"):
            count += _rewrite(node, names)
    return PassResult(count, "channel shuffles made Gathers")


def _rewrite(transpose: ir.Node, names: Names) -> bool:
    parted = _producer_of(transpose)
    joined = _only_reader(transpose.outputs[0])
    if (
        parted is None
        or joined is None
        or not is_op(parted, "Reshape")
        or not is_op(joined, "Reshape")
    ):
        return False
    data, groups = parted.inputs[0], _groups(parted, transpose, joined)
    if data is None or groups is None or _only_reader(parted.outputs[0]) is not transpose:
        return False
    rows, columns = groups
    order = np.arange(rows * columns).reshape(rows, columns).T.reshape(-1)
    split = _split_behind(joined.outputs[0])
    parts = None if split is None else _parts(split, order)
    if split is None or parts is None:
        return False
    graph = split.graph
    assert graph is not None  # found by graph_nodes
    for result, channels in zip(split.outputs, parts, strict=True):
        gather = ir.node("Gather", [data, None], {"axis": 1}, name=result.name or node_name(split))
        made = gather.outputs[0]
        made.type, made.shape = result.type, result.shape
        graph.insert_before(split, gather)
        set_constant_input(gather, 1, channels, names, f"{result.name}.channels")
        made.name = result.name
        result.replace_all_uses_with(made, replace_graph_outputs=True)
    for node in (split, joined, transpose, parted):
        constants = node.inputs[1:]
        graph.remove(node, safe=True)
        for value in constants:
            if discard_if_unused(value):
                names.release(value.name if value else None)
    return True


def _groups(parted: ir.Node, transpose: ir.Node, joined: ir.Node) -> tuple[int, int] | None:
    """How many groups of how many channels, None if it is no shuffle of these."""
    data = parted.inputs[0]
    if data is None or data.shape is None or len(data.shape) < 3:
        return None
    batch, channels, *rest = data.shape
    before, after = (constant_of(node.inputs[1]) for node in (parted, joined))
    if before is None or after is None or not all(isinstance(size, int) for size in rest):
        return None
    first, *sizes = (int(size) for size in before.numpy().reshape(-1))
    then, *others = (int(size) for size in after.numpy().reshape(-1))
    if not all(size in (-1, batch) for size in (first, then)):
        return None
    rows, columns = sizes[:2] if len(sizes) > 2 else (0, 0)
    if sizes[2:] != rest or others != [channels, *rest] or rows * columns != channels or rows < 1:
        return None
    swapped = [0, 2, 1, *range(3, len(rest) + 3)]
    return (rows, columns) if list(transpose.attributes.get_ints("perm", [])) == swapped else None


def _split_behind(shuffled: ir.Value) -> ir.Node | None:
    """The Split of channels that alone reads ``shuffled``, if there is one."""
    split = _only_reader(shuffled)
    if split is None or not is_op(split, "Split") or len(split.outputs) < 2:
        return None
    return split if split.attributes.get_int("axis", 0) == 1 else None


def _parts(split: ir.Node, order: NDArray[np.int64]) -> list[NDArray[np.int64]] | None:
    """The channels of each part, None if their sizes are not known."""
    sizes = [value.shape[1] if value.shape is not None else None for value in split.outputs]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) < len(sizes) or sum(known) != len(order):
        return None
    return np.split(order, np.cumsum(known)[:-1])


def _producer_of(node: ir.Node) -> ir.Node | None:
    value = node.inputs[0]
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.graph is node.graph else None


def _only_reader(value: ir.Value) -> ir.Node | None:
    """The node that alone reads ``value``, which is no output of the graph; else None."""
    if value.is_graph_output() or len(value.uses()) != 1:
        return None
    (reader,) = (node for node, _ in value.uses())
    producer = value.producer()
    return reader if producer is None or reader.graph is producer.graph else None
