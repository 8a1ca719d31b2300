"""Which nodes of the artifact's graph a node of ONNX Runtime's optimized graph does the work of.

ONNX Runtime keeps the name of a tensor that survives its fusions. Four cases:

1. A node whose output is a tensor of the original graph does the work of all nodes that lead
   there from tensors which other optimized nodes make, or from inputs and constants.
2. A convolution in blocked layout (domain ``com.microsoft.nchwc``) gives a tensor of a new
   name; its own name is ``TENSOR_nchwc``, where TENSOR is what it gave before an Add (its
   fourth input) or an activation (its attribute) was fused in as well.
3. A node moved to another layout gives a tensor of a new name too; its own is that of the
   original node, perhaps with ``_token_NUMBER`` behind it. A quantized one (QLinear…) does the
   work of the Relu or Clip and the QuantizeLinear that follow, too.
4. What is left (a change of layout, a copy) is ONNX Runtime's own, and stands for no node.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_BLOCKED = "_nchwc"
_SUM_INPUT = 3
_TOKEN = re.compile(r"(_token_\d+)+$")


def original_nodes(
    original: onnx.GraphProto, optimized: onnx.GraphProto
) -> dict[str, tuple[str, ...]]:
    """For each node of ``optimized`` by name, the names of its original nodes in their order."""
    makers = {output: node for node in original.node for output in node.output if output}
    ends: dict[str, list[str]] = {}
    claimed: set[str] = set()
    for node in optimized.node:
        found = [tensor for tensor in _ends(node, original, makers) if tensor not in claimed]
        claimed.update(found)
        ends.setdefault(_name(node), []).extend(found)
    constants = {value.name for value in (*original.initializer, *optimized.initializer)}
    # The inputs, too: a caller's tensor is where every way back ends.
    borders = claimed | constants | {value.name for value in original.input}
    order = {_name(node): index for index, node in enumerate(original.node)}
    taken: set[str] = set()
    mapping = {}
    for name, tensors in ends.items():
        nodes = _between(tensors, borders, makers) - taken
        taken |= nodes
        mapping[name] = tuple(sorted(nodes, key=order.__getitem__))
    return mapping


def _name(node: onnx.NodeProto) -> str:
    return node.name or (node.output[0] if node.output else "?")


def _ends(
    node: onnx.NodeProto, original: onnx.GraphProto, makers: Mapping[str, onnx.NodeProto]
) -> list[str]:
    """The tensors of the original graph that ``node`` makes."""
    kept = [output for output in node.output if output in makers]
    moved = {_name(each): each for each in original.node}.get(_TOKEN.sub("", node.name))
    if not kept and moved is not None:
        end = str(moved.output[0])
        if node.op_type.startswith("QLinear"):
            end = _after(end, original, ("Relu", "Clip")) or end
            end = _after(end, original, ("QuantizeLinear",)) or end
        return [end]
    base = node.name.removesuffix(_BLOCKED)
    if kept or not node.name.endswith(_BLOCKED) or base not in makers:
        return kept
    end = base
    if len(node.input) > _SUM_INPUT and node.input[_SUM_INPUT]:
        end = _after(end, original, ("Add", "Sum")) or end
    activation = next((a.s.decode() for a in node.attribute if a.name == "activation"), "")
    if activation and makers[end].op_type != activation:
        end = _after(end, original, (activation, "Clip" if activation == "Relu" else "")) or end
    return [end]


def _after(tensor: str, original: onnx.GraphProto, ops: tuple[str, ...]) -> str | None:
    """The output of the node of those operators that reads ``tensor``; None if there is none."""
    for node in original.node:
        if node.op_type in ops and tensor in node.input:
            return str(node.output[0])
    return None


def _between(ends: list[str], borders: set[str], makers: Mapping[str, onnx.NodeProto]) -> set[str]:
    """The names of all nodes on the way back from ``ends`` to the nearest of ``borders``."""
    found: set[str] = set()
    ways = list(ends)
    while ways:
        maker = makers.get(ways.pop())
        if maker is None or _name(maker) in found:
            continue
        found.add(_name(maker))
        ways += [tensor for tensor in maker.input if tensor and tensor not in borders]
    return found
