"""Folds BatchNormalization into the linear operator beside it, where that is exact.

At inference a BatchNormalization (opset 9 and later) is affine in each channel (axis 1):

    y = s·x + t      with  s = γ / √(σ² + ε),  t = β − μ·s

so it disappears into a neighbour that is linear in x:

1. After one,   s·(W x + b) + t = (s·W) x + (s·b + t):
   1.1 Conv            W is (C, C_in/g, k…): s along axis 0, whatever the groups g
   1.2 ConvTranspose   W is (C_in, C/g, k…): s along axis 1, group by group
   1.3 Gemm            α·A'·B' + β·C: s along the columns of B'; C becomes s·β·C + t and β 1
2. Before one,  W (s·x + t) + b = (W·s) x + (W t + b):
   2.1 Conv            s along the input channels of each group. Zero padding puts 0 where
                       the BatchNormalization would have put t, so only without padding,
                       or where t is exactly 0
   2.2 Gemm            s along the rows of B', only if A is not transposed; C becomes
                       α·t·B' + β·C and β 1

Identity nodes between the two are looked through. A MatMul counts once
:mod:`repr_export.passes.matmul_to_gemm` has made it a Gemm.

All arithmetic is in float64, rounded once to the type of the weight. A weight or bias that
other nodes read as well is left to them: the folded operator gets its own copy. Whatever
cannot be folded stays in the graph as it was, with the reason in the report; a
BatchNormalization before opset 9 (``spatial``, ``consumed_inputs``) is never read at all.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from repr_export.graph.values import (
    Names,
    constant_of,
    discard_if_unused,
    function_nodes,
    graph_nodes,
    is_op,
    label,
    node_name,
    only_scales,
    opset_of,
    remember_float64,
    remember_origin,
    set_constant_input,
    unrounded,
)
from repr_export.passes.batchnorm import Affine, Array, RefusalError, read_batchnorm
from repr_export.passes.result import Folded, FoldReport, Refused

Linear = tuple[Array, Array]
"""Weight and bias of a linear operator once the BatchNorm is in them."""
_Rounded = tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]


def fold_batchnorm(model: ir.Model) -> FoldReport:
    """Fold every BatchNormalization of ``model`` that can be, in place, and report on all.

    Nodes inside If, Loop and Scan bodies are folded with neighbours of the same body; those
    inside model-local functions are refused, since a function holds no initializers.
    """
    batchnorms = [node for node in graph_nodes(model) if is_op(node, "BatchNormalization")]
    in_functions = [node for node in function_nodes(model) if is_op(node, "BatchNormalization")]
    names, opset = Names(model), opset_of(model)
    folded: list[Folded] = []
    refused: list[Refused] = []
    left, done = batchnorms, -1
    while len(folded) > done:  # one that is folded may have stood between another and its Conv
        done, refused, tried, left = len(folded), [], left, []
        for node in tried:
            name = node_name(node)
            try:
                into, case = _fold(node, opset, names)
            except RefusalError as refusal:
                left.append(node)
                if not only_scales(node):  # of an earlier export
                    refused.append(Refused(name, str(refusal)))
            else:
                folded.append(Folded(name, node_name(into), case))
    reason = "it stands in a function of the model; inline the functions first"
    refused += [Refused(node_name(node), reason) for node in in_functions]
    return FoldReport.of(tuple(folded), tuple(refused))


def _fold(node: ir.Node, opset: int, names: Names) -> tuple[ir.Node, str]:
    affine = read_batchnorm(node, opset)
    reasons = []
    for match, rules, case in (
        (match_producer, AFTER, "{} -> BatchNorm"),
        (_match_consumer, _BEFORE, "BatchNorm -> {}"),
    ):
        try:
            neighbour = match(node)
            fold_into(neighbour, rules[neighbour.op_type](neighbour, affine), node, names)
        except RefusalError as refusal:
            reasons.append(str(refusal))
        else:
            return neighbour, case.format(neighbour.op_type)
    raise RefusalError("; ".join(reasons))


def fold_into(
    neighbour: ir.Node, linear: Linear, node: ir.Node, names: Names, data: int = 0
) -> None:
    """Give ``neighbour`` the weight and bias of ``linear`` and take ``node`` out of the graph.

    ``data`` is the input of ``node`` that is not a parameter of it. Raises
    :class:`RefusalError`, before anything is changed, if a value would not be finite.
    """
    _rewrite(node, neighbour, _round(neighbour, linear), names, data)
    remember_float64(neighbour.inputs[1], linear[0])
    remember_float64(neighbour.inputs[2], linear[1])


# Match: the one linear neighbour that no one else listens to.


def match_producer(node: ir.Node, data: int = 0) -> ir.Node:
    """The operator whose output ``node`` alone reads as input ``data``; raises :class:`RefusalError`."""
    between: list[tuple[ir.Value, ir.Node]] = []
    value, reader = node.inputs[data], node
    while True:
        if value is None:
            raise RefusalError("it has no input")
        producer = value.producer()
        if producer is None:
            kind = "a constant" if constant_of(value) is not None else "an input of the graph"
            raise RefusalError(f"its input '{value.name}' is {kind}")
        between.append((value, reader))
        if not is_op(producer, "Identity"):
            break
        value, reader = producer.inputs[0], producer
    if not any(is_op(producer, op_type) for op_type in AFTER):
        raise RefusalError(
            f"its input comes from {label(producer)}, which is not a {_either(AFTER)}"
        )
    if producer.graph is not node.graph:
        raise RefusalError(f"its input comes from {label(producer)} outside its own If/Loop body")
    for value, reader in between:
        _check_sole_reader(value, reader, f"the output '{value.name}' of {label(producer)}")
    return producer


def _match_consumer(node: ir.Node) -> ir.Node:
    value = node.outputs[0]
    while True:
        readers = value.consumers()
        if not readers:
            raise RefusalError("no node reads its output")
        reader = readers[0]
        _check_sole_reader(value, reader, f"its output '{value.name}'")
        if not is_op(reader, "Identity"):
            break
        value = reader.outputs[0]
    if not any(is_op(reader, op_type) for op_type in _BEFORE):
        raise RefusalError(f"its output goes to {label(reader)}, which is not a {_either(_BEFORE)}")
    if reader.graph is not node.graph:
        raise RefusalError(f"its output goes to {label(reader)} inside another If/Loop body")
    if reader.inputs[0] is not value:
        raise RefusalError(f"its output is a weight of {label(reader)}, not its data")
    return reader


def _check_sole_reader(value: ir.Value, reader: ir.Node, what: str) -> None:
    if value.is_graph_output():
        raise RefusalError(f"{what} is also an output of the graph")
    if others := [use.node for use in value.uses() if use.node is not reader]:
        raise RefusalError(f"{what} is also read by {label(others[0])}")
    if len(value.uses()) > 1:
        raise RefusalError(f"{what} is read twice by {label(reader)}")


def _either(op_types: Mapping[str, object]) -> str:
    *most, last = op_types
    return f"{', '.join(most)} or {last}"


# Check: constants of the right shapes, and a sum that holds at every position;
# the BatchNorm's own are checked where they are read.


def _weight(node: ir.Node) -> Array:
    value = node.inputs[1]
    if value is None or constant_of(value) is None:
        raise RefusalError(f"the weight of {label(node)} is not constant")
    return unrounded(value)


def channels_of(node: ir.Node) -> int:
    """How many channels a Conv, ConvTranspose or Gemm gives; raises :class:`RefusalError`."""
    if node.op_type == "Gemm":
        return int(_gemm_weight_and_bias(node)[0].shape[1])
    return _conv_weight_and_bias(node)[1].size


def _conv_weight_and_bias(node: ir.Node) -> tuple[Array, Array]:
    weight, groups = _weight(node), _groups(node)
    if weight.ndim < 3:
        raise RefusalError(f"the weight of {label(node)} has shape {weight.shape}, no kernel axis")
    if groups < 1 or weight.shape[0] % groups:
        raise RefusalError(
            f"{label(node)} has {groups} groups, which do not divide weight shape {weight.shape}"
        )
    channels = weight.shape[1] * groups if node.op_type == "ConvTranspose" else weight.shape[0]
    bias = _bias(node)
    if bias is None:
        return weight, np.zeros(channels)
    if bias.shape != (channels,):
        raise RefusalError(f"the bias of {label(node)} has shape {bias.shape}, not ({channels},)")
    return weight, bias


def _gemm_weight_and_bias(node: ir.Node) -> tuple[Array, Array]:
    """B' (K, N) and β·C of any shape that broadcasts to (M, N)."""
    weight = _weight(node)
    if weight.ndim != 2:
        raise RefusalError(f"the weight of {label(node)} has shape {weight.shape}, not two axes")
    if node.attributes.get_int("transB", 0):
        weight = weight.T
    bias = _bias(node)
    if bias is None:
        return weight, np.zeros(weight.shape[1])
    if bias.ndim > 2 or (bias.ndim > 0 and bias.shape[-1] not in (1, weight.shape[1])):
        raise RefusalError(
            f"the C of {label(node)} has shape {bias.shape}, "
            f"which does not broadcast to (M, {weight.shape[1]})"
        )
    return weight, bias * float(np.float32(node.attributes.get_float("beta", 1.0)))


def _bias(node: ir.Node) -> Array | None:
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return None
    if constant_of(node.inputs[2]) is None:
        raise RefusalError(f"the bias of {label(node)} is not constant")
    return unrounded(node.inputs[2])


def _groups(node: ir.Node) -> int:
    return node.attributes.get_int("group", 1)


def _check_channels(node: ir.Node, channels: int, affine: Affine) -> None:
    if affine.scale.size != channels:
        raise RefusalError(
            f"it has {affine.scale.size} channels where {label(node)} has {channels}"
        )


# The cases, in the order of the list above.


def _after_conv(node: ir.Node, affine: Affine) -> Linear:
    weight, bias = _conv_weight_and_bias(node)
    _check_channels(node, weight.shape[0], affine)
    scale = affine.scale.reshape(-1, *[1] * (weight.ndim - 1))
    return weight * scale, affine.scale * bias + affine.shift


def _after_conv_transpose(node: ir.Node, affine: Affine) -> Linear:
    weight, bias = _conv_weight_and_bias(node)
    _check_channels(node, bias.size, affine)
    return _by_group(node, weight, affine.scale), affine.scale * bias + affine.shift


def _after_gemm(node: ir.Node, affine: Affine) -> Linear:
    weight, bias = _gemm_weight_and_bias(node)
    _check_channels(node, weight.shape[1], affine)
    return _as_stored(node, weight * affine.scale), bias * affine.scale + affine.shift


def _before_conv(node: ir.Node, affine: Affine) -> Linear:
    weight, bias = _conv_weight_and_bias(node)
    _check_channels(node, weight.shape[1] * _groups(node), affine)
    if affine.shift.any() and (padding := _padding(node)):
        raise RefusalError(
            f"{label(node)} pads with zeros ({padding}) where this BatchNorm would put its "
            f"shift (up to {np.abs(affine.shift).max():.3g})"
        )
    shifted = _by_group(node, weight, affine.shift)
    scaled = _by_group(node, weight, affine.scale)
    return scaled, bias + shifted.sum(axis=tuple(range(1, shifted.ndim)))


def _by_group(node: ir.Node, weight: Array, channels: Array) -> Array:
    """``weight`` times the values of ``channels``, of which each group has its own in axis 1."""
    groups = _groups(node)
    spread = channels.reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
    return (weight.reshape(groups, -1, *weight.shape[1:]) * spread).reshape(weight.shape)


def _padding(node: ir.Node) -> str:
    """What a Conv pads with zeros, in words, or an empty string."""
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID"):
        return f"auto_pad {auto}"
    pads = node.attributes.get_ints("pads", ())
    return f"pads {list(pads)}" if auto == "NOTSET" and any(pads) else ""


def _before_gemm(node: ir.Node, affine: Affine) -> Linear:
    if node.attributes.get_int("transA", 0):
        raise RefusalError(f"{label(node)} reads it transposed (transA), channels as rows")
    weight, bias = _gemm_weight_and_bias(node)
    _check_channels(node, weight.shape[0], affine)
    alpha = float(np.float32(node.attributes.get_float("alpha", 1.0)))
    scaled = weight * affine.scale[:, np.newaxis]
    return _as_stored(node, scaled), alpha * (affine.shift @ weight) + bias


def _as_stored(node: ir.Node, weight: Array) -> Array:
    return weight.T if node.attributes.get_int("transB", 0) else weight


_Rule = Callable[[ir.Node, Affine], Linear]
AFTER: Mapping[str, _Rule] = {
    "Conv": _after_conv,
    "ConvTranspose": _after_conv_transpose,
    "Gemm": _after_gemm,
}
_BEFORE: Mapping[str, _Rule] = {"Conv": _before_conv, "Gemm": _before_gemm}


# Rewrite.


def _round(node: ir.Node, linear: Linear) -> _Rounded:
    tensor = constant_of(node.inputs[1])
    assert tensor is not None  # the rules have read it
    dtype = tensor.numpy().dtype
    with np.errstate(over="ignore", invalid="ignore"):
        weight, bias = (array.astype(dtype) for array in linear)
    for what, array in (("weight", weight), ("bias", bias)):
        if not np.isfinite(array).all():
            raise RefusalError(
                f"the folded {what} of {label(node)} would not be finite in {dtype.name}"
            )
    return weight, bias


def _rewrite(
    node: ir.Node, neighbour: ir.Node, rounded: _Rounded, names: Names, index: int
) -> None:
    weight, bias = rounded
    old = neighbour.inputs[1]
    name = old.name if old is not None and old.name else f"{node_name(neighbour)}.weight"
    set_constant_input(neighbour, 1, weight, names, name)
    set_constant_input(neighbour, 2, bias, names, f"{name.removesuffix('.weight')}.bias")
    neighbour.attributes.pop("beta", None)  # it is in the bias now

    data, result = node.inputs[index], node.outputs[0]
    parameters = [value for value in node.inputs if value is not data]
    assert data is not None  # matched above
    assert node.graph is not None
    if data.producer() is neighbour:
        remember_origin(data, result)
    is_output = result.is_graph_output()
    result.replace_all_uses_with(data, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)
    if is_output:  # the signature is what the model declared
        data.name = result.name
        data.type, data.shape = result.type, result.shape
    for parameter in parameters:
        discard_if_unused(parameter)
