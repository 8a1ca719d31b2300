"""Makes a product and a sum by constants of each channel one BatchNormalization.

A GroupNorm (Wu, He, ECCV 2018) is captured as an InstanceNormalization of its groups, and then

    Mul(x, scale) ── Add(·, shift)        scale, shift: (C, 1, 1)

which no convolution in front takes up (:mod:`repr_export.passes.fold_scales`). ONNX Runtime reads and
writes all of x for each of the two; a BatchNormalization of mean 0, variance 1 and epsilon 0 is the
same in one go, in every library, and exactly. It is no BatchNorm of the network's, and not counted as one:
:func:`repr_export.graph.values.only_scales` tells it. The rewrite is taken where

1. the Mul has a constant, and so has the Add, each one value for each channel (axis 1),
2. nothing else reads the product, and it is no output of the graph,
3. x is float32 with four axes, and its channels are as many as the constants',
4. the opset is :data:`repr_export.passes.batchnorm.FIRST_OPSET` or later.
"""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from repr_export.graph.values import (
    Names,
    add_initializer,
    constant_of,
    discard_if_unused,
    graph_nodes,
    is_op,
    node_name,
    opset_of,
)
from repr_export.passes.batchnorm import FIRST_OPSET
from repr_export.passes.result import PassResult


def affine_to_batchnorm(model: ir.Model) -> PassResult:
    """Rewrite every such pair of ``model``, in place."""
    names, count = Names(model), 0
    if opset_of(model) >= FIRST_OPSET:
        for node in tuple(graph_nodes(model)):
            if is_op(node, "Mul"):
                count += _rewrite(node, names)
    return PassResult(count, "products and sums by constants made one node")


def _rewrite(product: ir.Node, names: Names) -> bool:
    result = product.outputs[0]
    readers = [use.node for use in result.uses()]
    if len(readers) != 1 or result.is_graph_output():
        return False
    total = readers[0]
    if not is_op(total, "Add") or total.graph is not product.graph:
        return False
    source, scale = _data_and_constant(product)
    _, shift = _data_and_constant(total)
    if source is None or source.dtype != ir.DataType.FLOAT or source.shape is None:
        return False
    if len(source.shape) != 4 or scale is None or shift is None:
        return False
    channels = source.shape[1]
    if scale.size != channels or shift.size != channels:
        return False
    graph = total.graph
    assert graph is not None  # found by graph_nodes
    name = node_name(total)
    parameters = {
        "scale": scale,
        "bias": shift,
        "mean": np.zeros_like(scale),
        "var": np.ones_like(scale),
    }
    constants = [*product.inputs, *total.inputs]
    made = ir.node(
        "BatchNormalization",
        [
            source,
            *(
                add_initializer(graph, array, names.take(f"{name}.{what}"))
                for what, array in parameters.items()
            ),
        ],
        {"epsilon": 0.0},
        name=name,
    )
    ir.convenience.replace_nodes_and_values(graph, total, [], [made], total.outputs, made.outputs)
    graph.remove(total, safe=True)
    graph.remove(product, safe=True)
    for value in constants:
        if value is not source and discard_if_unused(value):
            names.release(value.name if value else None)
    return True


def _data_and_constant(node: ir.Node) -> tuple[ir.Value | None, npt.NDArray[np.float32] | None]:
    """What ``node`` computes on, and its other operand as one value for each channel of four axes."""
    for index in (0, 1):
        tensor = constant_of(node.inputs[index])
        if tensor is None:
            continue
        shape = (1,) * (4 - len(tensor.shape)) + tuple(tensor.shape.numpy())
        if len(shape) == 4 and shape[0] == shape[2] == shape[3] == 1:
            return node.inputs[1 - index], tensor.numpy().reshape(-1)
        break
    return None, None
