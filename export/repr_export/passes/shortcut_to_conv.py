"""Makes the parameter-free shortcut of CIFAR ResNets one convolution.

Option A of He et al. 2016 (§4.2) takes every second pixel and pads with channels of zeros:

    x ── Slice (every s-th row) ── Slice (every s-th column) ── Pad (channels of 0) ── y

A 1x1 convolution of stride s whose weights are zeros and ones, without a bias, gives the same. It
stays in the blocked layout (NCHWc) of the convolutions around it, and the addition behind it can be
fused; Slice and Pad leave that layout and come back to it. The rewrite is taken where

1. each Slice has constant bounds, is read by the next one alone and is no output of the graph,
2. together they keep all samples and channels, and every s-th row and column from the first, s > 1,
3. the Pad adds channels alone, of the constant 0,
4. x is float32 with four axes, and its channels are known, and :data:`MOST_CHANNELS` at most:
   the products grow with their square.

It is exact for finite values. 0 · ∞ is NaN, so where x overflowed, all channels of that pixel become
NaN instead of the one: both are results that a session refuses.

Its products by 0 and 1 are no work that the network asks for, and its weights no parameters:
:func:`repr_export.graph.values.picks_channels` tells them, and neither is counted.
"""

import numpy as np
import onnx_ir as ir

from repr_export.graph.values import (
    Names,
    add_initializer,
    constant_of,
    discard_if_unused,
    graph_nodes,
    is_op,
    node_name,
)
from repr_export.passes.result import PassResult

MOST_CHANNELS = 64
"""As many as the networks for CIFAR have, on which it was measured to be faster."""
_END = 2**31 - 1
"""The least end of a Slice that exporters write for "to the end"."""


def shortcut_to_conv(model: ir.Model) -> PassResult:
    """Rewrite every such shortcut of ``model``, in place."""
    names, count = Names(model), 0
    for node in tuple(graph_nodes(model)):
        if is_op(node, "Pad"):
            count += _rewrite(node, names)
    return PassResult(count, "shortcuts made convolutions")


def _rewrite(pad: ir.Node, names: Names) -> bool:
    slices = _slices_before(pad)
    source = slices[0].inputs[0] if slices else None
    if source is None or source.dtype != ir.DataType.FLOAT:
        return False
    if source.shape is None or len(source.shape) != 4:
        return False
    channels = source.shape[1]
    added = _channels_added(pad)
    step = _common_step(slices, source.shape)
    if not isinstance(channels, int) or channels > MOST_CHANNELS:
        return False
    if added is None or step is None:
        return False
    before, behind = added
    weight = np.eye(before + channels + behind, channels, -before, np.float32)[:, :, None, None]
    constants = [value for each in (pad, *slices) for value in each.inputs[1:]]
    graph = pad.graph
    assert graph is not None  # found by graph_nodes
    name = node_name(pad)
    kernel = add_initializer(graph, weight, names.take(f"{name}.weight"))
    conv = ir.node("Conv", [source, kernel], {"strides": [step, step]}, name=name)
    ir.convenience.replace_nodes_and_values(graph, pad, [], [conv], pad.outputs, conv.outputs)
    graph.remove(pad, safe=True)
    graph.remove(reversed(slices), safe=True)
    for value in constants:
        if discard_if_unused(value):
            names.release(value.name if value else None)
    return True


def _slices_before(pad: ir.Node) -> list[ir.Node]:
    """The Slices that ``pad`` alone reads, the first of them first."""
    found: list[ir.Node] = []
    value = pad.inputs[0]
    while value is not None and len(value.uses()) == 1 and not value.is_graph_output():
        producer = value.producer()
        if producer is None or not is_op(producer, "Slice") or producer.graph is not pad.graph:
            break
        found.insert(0, producer)
        value = producer.inputs[0]
    return found


def _common_step(slices: list[ir.Node], shape: ir.Shape) -> int | None:
    """The step in both rows and columns, None if the Slices leave out anything else."""
    steps = [1, 1, 1, 1]
    for node in slices:
        given = [_integers(value) for value in node.inputs[1:]]
        if len(given) < 3 or any(part is None for part in given):  # without axes: not as exported
            return None
        starts, ends, axes, *rest = (part for part in given if part is not None)
        by_axis = rest[0] if rest else [1] * len(axes)
        for start, end, axis, by in zip(starts, ends, axes, by_axis, strict=True):
            size = shape[axis]
            whole = end >= _END or (steps[axis] == 1 and isinstance(size, int) and end >= size)
            if start != 0 or by < 1 or not whole:
                return None
            steps[axis] *= by
    samples, channels, rows, columns = steps
    return rows if samples == channels == 1 and rows == columns > 1 else None


def _channels_added(pad: ir.Node) -> tuple[int, int] | None:
    """How many channels of zeros ``pad`` puts before and behind; None if it does anything else."""
    if pad.attributes.get_string("mode", "constant") != "constant" or len(pad.inputs) < 2:
        return None
    pads = _integers(pad.inputs[1])
    if len(pad.inputs) > 2 and pad.inputs[2] is not None:
        fill = constant_of(pad.inputs[2])
        if fill is None or fill.numpy().any():
            return None
    if len(pad.inputs) > 3 and pad.inputs[3] is not None:
        axes = _integers(pad.inputs[3])
        if pads is None or axes is None or [axis % 4 for axis in axes] != [1]:
            return None
        pads = [0, pads[0], 0, 0, 0, pads[1], 0, 0]
    if pads is None or len(pads) != 8 or min(pads) < 0 or any(pads[:1] + pads[2:5] + pads[6:]):
        return None
    return pads[1], pads[5]


def _integers(value: ir.Value | None) -> list[int] | None:
    tensor = constant_of(value)
    return None if tensor is None else [int(each) for each in tensor.numpy().ravel()]
