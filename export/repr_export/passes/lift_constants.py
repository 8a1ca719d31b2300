"""Turns Constant nodes into initializers, so that every constant of a graph is found in one place."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from repr_export.graph.values import graph_nodes
from repr_export.passes.result import PassResult


def lift_constants(model: ir.Model) -> PassResult:
    """Make each Constant node an initializer of its own graph, in place.

    A Constant that is itself an output of a graph stays a node, as ONNX wants it.
    """
    before = sum(1 for _ in graph_nodes(model))
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    after = sum(1 for _ in graph_nodes(model))
    return PassResult(before - after, "constants lifted")
