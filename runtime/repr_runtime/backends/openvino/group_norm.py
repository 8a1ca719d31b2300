"""GroupNorm kept in OpenVINO's own layout: channels last, as its convolutions compute it.

A graph has it as a Reshape to groups, the normalization of each (MVN), and a Reshape back:

    Reshape (N, C, H, W → N, G, C·H·W / G) ── MVN over the last axis ── …

for which OpenVINO (2026.4) turns each result into the plain layout, and that takes longer than all
else in it. The same by the mean of each channel, averaged over those of its group (a grouped
convolution of 1/K, where K is how many these are), stays as it is:

    d = x - average(mean(x)),  d / sqrt(average(mean(d²)) + ε)

Next to int8 layers it would not: levels behind it then come out wrong. So graphs with any are left.
"""

import importlib
from typing import Any

import numpy as np

from repr_runtime.backends.openvino.checks import dtype_of

AVERAGE = "average_of_group"
"""Begins the names of the convolutions that are none of the network's."""


def keep_layout(model: Any) -> None:
    """Rewrite every such normalization of a float ``model``, in place, where C, H and W are known."""
    opset, ops = importlib.import_module("openvino.opset8"), model.get_ops()
    if any(op.get_type_name() == "FakeQuantize" for op in ops):
        return
    for norm in ops:
        if norm.get_type_name() != "MVN" or not _over_last(norm):
            continue
        grouped = norm.input_value(0).get_node()
        sizes = _sizes(grouped)
        if sizes is not None:
            made = _normalized(grouped.input_value(0), *sizes, norm.get_attributes()["eps"])
            zero_keeps = grouped.get_attributes()["special_zero"]
            as_groups = opset.reshape(made, grouped.input_value(1), zero_keeps)
            norm.output(0).replace(as_groups.output(0))


def _normalized(data: Any, groups: int, each: int, epsilon: float) -> Any:
    """``data`` with mean 0 and variance 1 in each of ``groups`` of ``each`` channels."""
    opset = importlib.import_module("openvino.opset8")
    places = opset.constant(np.array([2, 3]))
    steps: list[Any] = [[1, 1], [0, 0], [0, 0], [1, 1]]

    def mean(values: Any, times: int) -> Any:
        weights = np.full((groups, each, each, 1, 1), times / each, np.float32)
        of_channels = opset.reduce_mean(values, places, True)
        return opset.group_convolution(of_channels, opset.constant(weights), *steps, name=AVERAGE)

    centred = opset.add(data, mean(data, -1))  # a difference would be made that, under another name
    square = opset.multiply(centred, centred)
    variance = opset.add(mean(square, 1), opset.constant(np.float32(epsilon)))
    return opset.divide(centred, opset.sqrt(variance))


def _over_last(norm: Any) -> bool:
    """Whether it divides by the deviation over the last of three axes, with ε under the root."""
    given, axes = norm.get_attributes(), norm.input_value(1).get_node()
    return (
        axes.get_type_name() == "Constant"
        and axes.get_data().reshape(-1).tolist() in ([2], [-1])
        and given["normalize_variance"]
        and given["eps_mode"].lower() == "inside_sqrt"
    )


def _sizes(grouped: Any) -> tuple[int, int] | None:
    """How many groups of how many channels the Reshape makes; None if it is another or of another."""
    if grouped.get_type_name() != "Reshape" or dtype_of(grouped.output(0)) != "float32":
        return None
    before, after = (
        port.get_partial_shape() for port in (grouped.input_value(0), grouped.output(0))
    )
    if before.rank.is_dynamic or after.rank.is_dynamic or (len(before), len(after)) != (4, 3):
        return None
    known = [*list(before)[1:], *list(after)[1:]]
    if any(size.is_dynamic for size in known):
        return None
    channels, height, width, groups, length = (size.get_length() for size in known)
    whole = groups * length == channels * height * width and channels % groups == 0
    return (groups, channels // groups) if whole else None
