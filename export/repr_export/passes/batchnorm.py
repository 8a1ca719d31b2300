"""Reads a BatchNormalization as the affine map that it is at inference, or says why it is none."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from repr_export.graph.values import constant_of, float64_of

Array = npt.NDArray[np.float64]

FIRST_OPSET = 9
"""The first opset whose BatchNormalization has neither ``spatial`` nor ``consumed_inputs``."""


class RefusalError(Exception):
    """Why a fold is not exact, in words for the report."""


@dataclass(frozen=True)
class Affine:
    """What a BatchNorm does: ``y = scale·x + shift``, both (C,)."""

    scale: Array
    shift: Array


def read_batchnorm(node: ir.Node, opset: int) -> Affine:
    """What ``node`` does at inference; raises :class:`RefusalError` where that is not fixed."""
    if opset < FIRST_OPSET:
        raise RefusalError(
            f"its opset {opset} defines BatchNormalization differently; convert the model to "
            f"opset {FIRST_OPSET} or later (--opset 20)"
        )
    if node.attributes.get_int("training_mode", 0):
        raise RefusalError("training_mode is 1: it normalises by the statistics of each batch")
    if extra := [output.name for output in node.outputs[1:] if output.name]:
        raise RefusalError(
            f"it also gives the statistics of each batch ('{extra[0]}'), as in training"
        )
    if len(node.inputs) != 5:
        raise RefusalError(f"it has {len(node.inputs)} inputs instead of 5")
    parameters = []
    for what, value in zip(("scale", "bias", "mean", "variance"), node.inputs[1:], strict=True):
        tensor = constant_of(value)
        if tensor is None:
            raise RefusalError(f"its {what} '{value.name if value else ''}' is not constant")
        parameters.append(float64_of(tensor))
    gamma, beta, mean, variance = parameters
    if gamma.ndim != 1 or any(array.shape != gamma.shape for array in parameters):
        shapes = ", ".join(str(array.shape) for array in parameters)
        raise RefusalError(f"its parameters must be of one shape (C,), got {shapes}")
    # A file stores ε in float32, whatever precision it was given in.
    epsilon = float(np.float32(node.attributes.get_float("epsilon", 1e-5)))
    positive = variance + epsilon > 0
    if not positive.all():
        channel = int(np.argmin(positive))
        raise RefusalError(
            f"its variance + epsilon is {variance[channel] + epsilon:g} in channel {channel}, "
            "which has no square root to divide by"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(variance + epsilon)
        shift = beta - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise RefusalError("its parameters are not all finite")
    return Affine(scale, shift)
