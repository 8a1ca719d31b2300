"""Reading the constants of a graph, and giving one node its own without touching other users."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

ONNX_DOMAINS = ("", "ai.onnx")
_FLOAT64 = "repr_export.float64"
_ORIGIN = "repr_export.origin"


def is_op(node: ir.Node, op_type: str) -> bool:
    """Whether ``node`` is the standard operator ``op_type``, not a namesake of another domain."""
    return node.op_type == op_type and node.domain in ONNX_DOMAINS


def label(node: ir.Node) -> str:
    """How messages call a node: its operator and its name, or its first output if it has none."""
    return f"{node.op_type} '{node_name(node)}'"


def node_name(node: ir.Node) -> str:
    """The node's name, or its first output's if it has none."""
    return node.name or node.outputs[0].name or "?"


def opset_of(model: ir.Model) -> int:
    """The version of the standard operators; a model that names none has version 1."""
    imports = model.graph.opset_imports
    return next((imports[domain] for domain in ONNX_DOMAINS if domain in imports), 1)


def bodies_of(node: ir.Node) -> list[ir.Graph]:
    """The graphs that an If, Loop or Scan holds; none for another node, or in a function's reference."""
    bodies: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            bodies.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            bodies += attribute.as_graphs()
    return bodies


def graph_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Every node of the graph and of its If, Loop and Scan bodies."""
    return iter(ir.traversal.RecursiveGraphIterator(model.graph))


def function_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Every node of the model's functions, which can hold no initializers."""
    for function in model.functions.values():
        yield from ir.traversal.RecursiveGraphIterator(function)


def constant_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor behind ``value`` if no run of the model can change it, else None.

    That is an initializer or the output of a Constant node, also through Identity nodes.
    An initializer that is a graph input as well is a default which a caller may override,
    hence no constant.
    """
    while value is not None:
        if value.is_graph_input():
            return None
        producer = value.producer()
        if producer is None or not is_op(producer, "Identity"):
            return ir.convenience.get_const_tensor(value)
        value = producer.inputs[0]
    return None


def float64_of(tensor: ir.TensorProtocol) -> npt.NDArray[np.float64]:
    """The tensor's values, exactly, whichever floating-point type it stores them in."""
    return tensor.numpy().astype(np.float64)


def remember_float64(value: ir.Value | None, values: npt.NDArray[np.float64]) -> None:
    """Keep what an initializer was before it was rounded to its type, in memory alone."""
    assert value is not None
    value.meta[_FLOAT64] = values


def unrounded(value: ir.Value) -> npt.NDArray[np.float64]:
    """The values of a constant in float64: as computed where that is known, else as stored.

    What :func:`remember_float64` kept counts only while it still rounds to what is stored, so
    that a pass which changes the initializer need not know of it.
    """
    tensor = constant_of(value) if value.const_value is None else value.const_value
    assert tensor is not None
    stored = tensor.numpy()
    kept: npt.NDArray[np.float64] | None = value.meta.get(_FLOAT64)
    if kept is not None and np.array_equal(kept.astype(stored.dtype), stored):
        return kept
    return float64_of(tensor)


def picks_channels(node: ir.Node) -> bool:
    """Whether ``node`` is a 1x1 Conv of zeros and ones that puts each channel somewhere, once.

    The channels of its output are those of its input in any order, and others of 0. The weights
    may be of any type, and also stored in int8, behind a DequantizeLinear, with scales that give
    1 up to rounding.
    """
    if not is_op(node, "Conv") or (len(node.inputs) > 2 and node.inputs[2] is not None):
        return False
    values = _weights_of(node.inputs[1]) if node.attributes.get_int("group", 1) == 1 else None
    if values is None:
        return False
    once = (np.count_nonzero(values, 0) == 1).all() and (np.count_nonzero(values, 1) <= 1).all()
    return bool(once and np.abs(values[values != 0] - 1).max() < 1e-6)


def only_scales(node: ir.Node) -> bool:
    """Whether ``node`` is a BatchNormalization of constant mean 0, variance 1 and epsilon 0."""
    if not is_op(node, "BatchNormalization") or node.attributes.get_float("epsilon", 1e-5) != 0:
        return False
    mean, variance = (constant_of(value) for value in node.inputs[3:5])
    if mean is None or variance is None:
        return False
    return not mean.numpy().any() and bool((variance.numpy() == 1).all())


def _weights_of(value: ir.Value | None) -> npt.NDArray[np.float64] | None:
    """Constant 1x1 weights as outputs x inputs, also behind a DequantizeLinear; else None."""
    stored, scales = constant_of(value), None
    producer = value.producer() if value is not None else None
    if stored is None and producer is not None and is_op(producer, "DequantizeLinear"):
        stored, scales = (constant_of(each) for each in producer.inputs[:2])
        if scales is None:
            return None
    if stored is None or not stored.size or set(stored.shape.numpy()[2:]) != {1}:
        return None
    values = float64_of(stored).reshape(stored.shape.numpy()[:2])
    return values if scales is None else values * float64_of(scales).reshape(-1, 1)


def remember_origin(value: ir.Value, result: ir.Value) -> None:
    """Note, in memory alone, that ``value`` holds what ``result`` did before it was folded away."""
    value.meta[_ORIGIN] = result.meta.get(_ORIGIN, result.name)


def origin_of(value: ir.Value) -> str:
    """The name, in the graph before the passes, of what ``value`` holds."""
    return str(value.meta.get(_ORIGIN, value.name))


def discard_if_unused(value: ir.Value | None) -> bool:
    """Take an initializer that nothing reads out of its graph; says whether it did."""
    if value is None or value.graph is None or value.name is None or value.uses():
        return False
    if not value.is_initializer() or value.is_graph_input() or value.is_graph_output():
        return False
    value.graph.initializers.pop(value.name)
    return True


class Names:
    """The value names of a model, to find one that is still free."""

    def __init__(self, model: ir.Model) -> None:
        self._used = Counter(output.name for node in graph_nodes(model) for output in node.outputs)
        for graph in model.graphs():
            self._used.update(value.name for value in graph.inputs)
            self._used.update(graph.initializers.keys())

    def take(self, wish: str) -> str:
        """``wish``, or ``wish_1``, ``wish_2`` … where that is taken; taken from now on."""
        name, count = wish, 0
        while self._used[name]:
            count += 1
            name = f"{wish}_{count}"
        self._used[name] += 1
        return name

    def release(self, name: str | None) -> None:
        """Count one value less of that name."""
        self._used[name] -= 1


def set_constant_input(
    node: ir.Node, index: int, array: npt.NDArray[np.generic], names: Names, wish: str
) -> None:
    """Make input ``index`` of ``node`` a new initializer of its own that holds ``array``.

    The initializer that stood there keeps its values for its other users, and goes if it has
    none. The new one is called ``wish`` if no other value is.
    """
    graph = node.graph
    assert graph is not None  # a caller finds its nodes by graph_nodes
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    old = node.inputs[index]
    node.replace_input_with(index, None)
    if old is not None and discard_if_unused(old):
        names.release(old.name)
    node.replace_input_with(index, add_initializer(graph, array, names.take(wish)))


def add_initializer(
    graph: ir.Graph, array: npt.NDArray[Any], name: str, dtype: ir.DataType | None = None
) -> ir.Value:
    """A new initializer of ``graph``; ``dtype`` where the array's own does not tell it."""
    array = np.ascontiguousarray(array).reshape(array.shape)  # which makes one axis of none
    tensor = ir.tensor(array, dtype=dtype, name=name)
    kind = ir.TensorType(tensor.dtype)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=kind, const_value=tensor)
    graph.register_initializer(value)
    return value


def cast_to(dtype: ir.DataType, value: ir.Value, name: str) -> ir.Node:
    """A Cast of ``value``, in no graph yet, whose result is called ``name``."""
    result = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape)
    return ir.node("Cast", [value], {"to": dtype.value}, outputs=[result], name=f"Cast.{name}")
