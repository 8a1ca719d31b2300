"""Passes that ``onnx_ir`` has, each with the count of what it did."""

import onnx_ir as ir
from onnx_ir.passes.common import (
    InlinePass,
    LiftConstantsToInitializersPass,
    RemoveInitializersFromInputsPass,
)

from repr_export.graph.values import graph_nodes
from repr_export.passes.result import PassResult

OVERRIDABLE_SINCE = 4
"""The first IR version in which an initializer need not be a graph input."""


def inline_functions(model: ir.Model) -> PassResult:
    """Put the bodies of model-local functions where they are called, in place."""
    count = len(model.functions)
    if count:
        InlinePass()(model)
    return PassResult(count, "functions inlined")


def drop_constant_inputs(model: ir.Model) -> PassResult:
    """Take initializers out of the inputs of a model of IR version 3 or earlier, in place.

    Up to that version the format required every initializer to be a graph input too, so its
    being there says nothing about the author's intention, and ONNX Runtime takes it as a
    constant. From version 4 on, which the model has afterwards, an initializer that is also an
    input is a default that a caller may override; that is part of the model's signature and is
    left alone (and never folded).
    """
    before = len(model.graph.inputs)
    if model.ir_version < OVERRIDABLE_SINCE:
        RemoveInitializersFromInputsPass()(model)
        model.ir_version = OVERRIDABLE_SINCE
    return PassResult(before - len(model.graph.inputs), "inputs made constants")


def lift_constants(model: ir.Model) -> PassResult:
    """Make each Constant node an initializer of its own graph, in place.

    A Constant that is itself an output of a graph stays a node, as ONNX wants it.
    """
    before = sum(1 for _ in graph_nodes(model))
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return PassResult(before - sum(1 for _ in graph_nodes(model)), "constants lifted")
