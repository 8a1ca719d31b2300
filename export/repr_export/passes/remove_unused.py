"""Removes nodes and initializers that no output of the model depends on.

``onnx_ir`` has such a pass, but its older versions drop ``training_mode`` from a
BatchNormalization whose statistics no one reads (which changes what it computes), and all of
them leave the initializers of If and Loop bodies. So this one removes, and changes nothing else.
"""

import onnx_ir as ir

from repr_export.graph.values import bodies_of, discard_if_unused
from repr_export.passes.result import PassResult


def remove_unused(model: ir.Model) -> PassResult:
    """Remove dead nodes, initializers and model-local functions, in place.

    Inputs and outputs of the model stay, also those that nothing reads.
    """
    count = _remove_nodes(model.graph)
    for function in model.functions.values():
        count += _remove_nodes(function)
    for graph in model.graphs():
        count += sum(discard_if_unused(value) for value in tuple(graph.initializers.values()))
    return PassResult(count, "unused nodes and initializers removed")


def _remove_nodes(graph: ir.Graph | ir.Function) -> int:
    count = 0
    for node in reversed(graph):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            # a body's captures must let go of their values, or these would stay in use
            for body in bodies_of(node):
                for inner in body.all_nodes():
                    inner.resize_inputs(0)
            graph.remove(node, safe=True)
            count += 1
        else:
            for body in bodies_of(node):
                count += _remove_nodes(body)
    return count
