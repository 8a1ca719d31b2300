"""Finds the nodes of a graph that can compute in int8, and which of them the first and last are."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

import onnx_ir as ir

from repr_export.graph.values import constant_of, is_op, node_name, picks_channels

Target = Literal["tensorrt", "cpu"]
TARGETS: tuple[Target, ...] = get_args(Target)

_WEIGHTED = {
    "tensorrt": ("Conv", "ConvTranspose", "Gemm", "MatMul"),
    "cpu": ("Conv", "Gemm", "MatMul"),  # ONNX Runtime has no int8 kernel for ConvTranspose
}


@dataclass(frozen=True)
class Quantizable:
    """The nodes that int8 can be asked of, by name in the order of the graph.

    ``weighted`` are the layers with constant float32 weights; ``additions`` sum two computed
    tensors, one of them a weighted layer's output (a residual connection); ``kept`` are the
    other layers that multiply, each with the reason why it stays as it is.
    """

    weighted: tuple[str, ...]
    additions: tuple[str, ...]
    kept: dict[str, str]

    @property
    def names(self) -> frozenset[str]:
        """All that can be chosen or excluded."""
        return frozenset((*self.weighted, *self.additions, *self.kept))


def name_nodes(model: ir.Model) -> None:
    """Give each node of the graph that has no name that of its first output, in place."""
    taken = {node.name for node in model.graph}
    for node in model.graph:
        if not node.name:
            name = node_name(node)
            while name in taken:
                name += "_"
            taken.add(name)
            node.name = name


def find_quantizable(model: ir.Model, target: Target) -> Quantizable:
    """What can be int8 in ``model``, whose nodes all have names, on TensorRT or on CPUs.

    The first weighted layers, which see the network's input, and the last, whose results no
    other weighted layer sees, are kept: they hold few of the multiply-adds, and the error made
    there is the largest (M. Nagel et al., "A White Paper on Neural Network Quantization", 2021,
    §4).
    """
    weighted = [node for node in model.graph if _is_weighted(node, target)]
    behind: set[ir.Value | None] = set()  # what depends on an output of a layer
    for node in model.graph:
        if node in weighted or not behind.isdisjoint(node.inputs):
            behind.update(node.outputs)
    ahead: set[ir.Value | None] = set()  # what an output of a layer depends on
    for node in reversed(model.graph):
        if node in weighted or not ahead.isdisjoint(node.outputs):
            ahead.update(node.inputs)
    kept = {}
    for node in model.graph:
        if node in weighted:
            if node.inputs[0] not in behind:
                kept[node_name(node)] = "first layer"
            elif ahead.isdisjoint(node.outputs):
                kept[node_name(node)] = "last layer"
        elif any(is_op(node, op) for op in _WEIGHTED["tensorrt"]) and not picks_channels(node):
            kept[node_name(node)] = (
                "no int8 kernel on CPUs"
                if _is_weighted(node, "tensorrt")
                else "its weights are not constant float32"
            )
    return Quantizable(
        tuple(node_name(node) for node in weighted if node_name(node) not in kept),
        tuple(node_name(node) for node in model.graph if _layer_operand(node, weighted)),
        kept,
    )


def residual_operand(node: ir.Node, chosen: Collection[str]) -> int | None:
    """Which input of the addition ``node`` comes from elsewhere than the layer it is fused with.

    TensorRT adds inside the kernel of the layer that makes the one operand, and then reads the
    other as int8; so that one alone gets a Q/DQ pair (NVIDIA, "TensorRT Developer Guide", Q/DQ
    placement, "quantize the residual input"). Where both are made by ``chosen`` layers, the
    first is taken for the one that is fused: a block's own path, as networks write it. None if
    neither is.
    """
    for index in (0, 1):
        value = node.inputs[index]
        if value is None or len(value.uses()) != 1:  # another reader needs the unfused output
            continue
        producer = value.producer()
        if producer is not None and node_name(producer) in chosen:
            return 1 - index
    return None


def weight_axis(node: ir.Node) -> int:
    """The axis of the weights (input 1) that counts the output channels."""
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) != 0
    return 0 if node.op_type == "Conv" or transposed else 1


def _is_weighted(node: ir.Node, target: Target) -> bool:
    if not any(is_op(node, op) for op in _WEIGHTED[target]) or picks_channels(node):
        return False
    data, weight = node.inputs[:2]
    tensor = constant_of(weight)
    return (
        tensor is not None
        and tensor.dtype == ir.DataType.FLOAT
        and constant_of(data) is None
        and (node.op_type != "MatMul" or len(tensor.shape) == 2)
    )


def _layer_operand(node: ir.Node, weighted: Collection[ir.Node]) -> bool:
    return (
        is_op(node, "Add")
        and all(constant_of(value) is None for value in node.inputs)
        and residual_operand(node, {node_name(each) for each in weighted}) is not None
    )
