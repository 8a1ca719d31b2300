"""Cuts a graph where one tensor alone goes on, so that a change in one part reruns no other."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx

from repr_export.precision.int8.quantize import FOLLOWERS


@dataclass(frozen=True)
class Part:
    """A graph of its own that computes some nodes of a larger one, and these nodes' names."""

    model: onnx.ModelProto
    nodes: frozenset[str]


def cut(model: onnx.ModelProto) -> list[Part]:
    """The parts of ``model`` in order: the first takes its inputs, each other what the last made.

    ``model`` has named nodes, inferred types and no Constant nodes. It is cut behind a node where
    one computed float32 tensor is all that the rest reads, unless the rest could go on with that
    tensor as bytes: int8 in one part would then reach into the next. A graph with If, Loop or
    Scan bodies, which read tensors from outside, is one part.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    types = {value.name: value for value in graph.value_info}
    inputs = [value for value in graph.input if value.name not in constants]
    parts, begin = [], 0
    for end, name in _cuts(graph, types, set(constants)):
        parts.append(_part(model, range(begin, end), inputs, [types[name]], constants, types))
        inputs, begin = [types[name]], end
    rest = range(begin, len(graph.node))
    return [*parts, _part(model, rest, inputs, graph.output, constants, types)]


def _cuts(
    graph: onnx.GraphProto, types: Mapping[str, onnx.ValueInfoProto], constants: set[str]
) -> Iterator[tuple[int, str]]:
    """How many nodes stand before each cut, and the tensor that goes on."""
    bodies = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    if any(each.type in bodies for node in graph.node for each in node.attribute):
        return
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        for name in set(node.input) - constants - {""}:
            readers.setdefault(name, []).append(index)
    for value in graph.output:
        readers.setdefault(value.name, []).append(len(graph.node))
    live = {value.name for value in graph.input if value.name in readers} - constants
    for index, node in enumerate(graph.node):
        live = {name for name in (*live, *node.output) if readers.get(name, [-1])[-1] > index}
        if len(live) != 1:
            continue
        (name,) = live
        value = types.get(name)
        if value is None or value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            continue  # an input or an output of the graph, or no float32
        if all(graph.node[each].op_type not in FOLLOWERS for each in readers[name]):
            yield index + 1, name


def _part(
    model: onnx.ModelProto,
    rows: range,
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: Iterable[onnx.ValueInfoProto],
    constants: Mapping[str, onnx.TensorProto],
    types: Mapping[str, onnx.ValueInfoProto],
) -> Part:
    nodes = [model.graph.node[row] for row in rows]
    made = onnx.ModelProto()
    made.ir_version = model.ir_version
    made.opset_import.extend(model.opset_import)
    made.functions.extend(model.functions)
    graph = made.graph
    graph.name = model.graph.name
    graph.node.extend(nodes)
    graph.input.extend(inputs)
    graph.output.extend(outputs)
    read = {name for node in nodes for name in node.input} | {v.name for v in graph.output}
    whole = len(nodes) == len(model.graph.node)  # bodies may read any
    graph.initializer.extend(t for name, t in constants.items() if whole or name in read)
    computed = {name for node in nodes for name in node.output} - {v.name for v in graph.output}
    graph.value_info.extend(types[name] for name in types if name in computed)
    return Part(made, frozenset(node.name for node in nodes))
