"""Looks into an ONNX file, without onnx: what does it refer to, and what would loading it cost?

A graph may name files to read weights from. Those files stand in no manifest, so nothing
would notice a change in them, and the names may lead anywhere. A few bytes of functions that call
each other twice are millions of nodes. The walk follows the protobuf wire format (tag, length,
payload) along the few fields that lead to tensors and to nodes; weights are passed over.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from mmap import mmap

from repr_runtime.artifact.limits import Limits
from repr_runtime.errors import LimitError, ModelLoadError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# message -> field number -> message, from onnx.proto: only what leads to a TensorProto
_PATHS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
}  # fmt: skip
# what leads from a value of a graph to its dimensions
_SHAPES: dict[str, dict[int, str]] = {
    "value": {2: "type"},
    "type": {1: "tensor type", 4: "of elements", 5: "map", 8: "tensor type", 9: "of elements"},
    "of elements": {1: "type"},
    "map": {2: "type"},
    "tensor type": {2: "shape"},
    "shape": {1: "dimension"},
}
_VALUES = (11, 12, 13)  # a graph's inputs, outputs and values within
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_SHAPE_OPERAND = {
    b"ConstantOfShape": 0, b"Expand": 1, b"Reshape": 1, b"Tile": 1, b"Unsqueeze": 1,
}  # fmt: skip
_WIDEST = 16  # bytes of an element, complex128

_MOST_FIELDS = 5_000_000
"""Fields of protobuf that are looked at in one file; 100,000 nodes have 2 to 3 million."""
_DEEPEST = 100
"""Messages within messages; protobuf's own readers refuse more."""
_MOST_DIMENSIONS = 64
"""Dimensions of a tensor, as many as numpy's arrays may have."""

_Name = tuple[bytes, bytes, bytes]  # of an operator or a function: domain, name, overload


@dataclass(frozen=True)
class GraphCost:
    """What a graph's file holds, with functions as often as they are called.

    ``external``: tensors kept in other files, at which the walk ends. ``nodes``: all of them.
    ``constant``: those that depend on no input, which ONNX Runtime may compute beforehand; where
    that is not known, the node counts. ``dense``: bytes that its sparse tensors have as dense ones.
    """

    external: bool
    nodes: int = 0
    constant: int = 0
    dense: int = 0


def cost_of(content: bytes | mmap, limits: Limits | None = None) -> GraphCost:
    """What the ONNX file ``content`` holds, and would make of itself; of a map, little is read.

    Raises :class:`ModelLoadError` if it is no such file, and :class:`LimitError` if it is beyond
    ``limits`` (None: the usual ones).
    """
    walk = _Walk(content, limits or Limits())
    try:
        walk.message("model", 0, len(content), 0)
        nodes, constant, _ = walk.expanded(walk.main, 0)
    except _ExternalTensorError:
        return GraphCost(external=True)
    return GraphCost(False, nodes, constant, walk.dense)


class _ExternalTensorError(Exception):
    """A tensor is kept in another file."""


@dataclass
class _Body:
    """Nodes that stand in the graph or in a function; ``calls`` counts their operators."""

    nodes: int = 0
    constant: int = 0
    calls: Counter[_Name] = field(default_factory=Counter)
    known: set[bytes] = field(default_factory=set)
    """Names of values so far."""
    constants: set[bytes] = field(default_factory=set)
    """Those that depend on no input."""
    sorted: bool = True


@dataclass
class _Walk:
    content: bytes | mmap
    limits: Limits
    main: _Body = field(default_factory=_Body)
    functions: dict[_Name, _Body] = field(default_factory=dict)
    dense: int = 0
    _fields_left: int = field(default_factory=lambda: _MOST_FIELDS)
    _nodes: int = 0
    _long: set[bytes] = field(default_factory=set)
    """Names of tensors that are no shape, with more values than a shape may have."""
    _sizes: dict[_Name, tuple[int, int, int]] = field(default_factory=dict)

    def message(
        self, kind: str, begin: int, end: int, depth: int, body: _Body | None = None
    ) -> None:
        """Walk one message; ``body`` is what its nodes stand in."""
        if depth > _DEEPEST:
            raise LimitError(f"the graph's messages lie more than {_DEEPEST} deep; simplify it")
        body = body or self.main
        if kind == "tensor":
            self._tensor(begin, end, body)
        elif kind == "node":
            self._node(begin, end, depth, body)
        elif kind == "function":
            self._function(begin, end, depth)
        elif kind == "graph":
            self._graph(begin, end, depth, body)
        else:
            paths, dims = _PATHS[kind], []
            for number, value, stop in self._fields(begin, end):
                if stop is None:
                    dims.append(value)
                elif number in paths:
                    self.message(paths[number], value, stop, depth + 1, body)
                elif number == 3 and kind == "sparse":
                    dims += self._packed(value, stop)
            if kind == "sparse":
                self._count_dense(dims)

    def _graph(self, begin: int, end: int, depth: int, body: _Body) -> None:
        if depth > 1 and not self.limits.subgraphs:
            raise LimitError(
                "the graph has subgraphs, as Loop, If and Scan have, and the limits allow none "
                "(Limits.subgraphs)"
            )
        nodes = []
        for number, value, stop in self._fields(begin, end):
            if stop is None:
                continue
            if number == 1:
                nodes.append((value, stop))
                self._count_node()
            elif number in _VALUES:
                if stop - value > 2 * _MOST_DIMENSIONS:
                    self._shape("value", value, stop, depth + 1)
                if number == 11:
                    body.known.add(self._string(value, stop, 1))
            elif number in _PATHS["graph"]:
                self.message(_PATHS["graph"][number], value, stop, depth + 1, body)
        for value, stop in nodes:
            self._node(value, stop, depth + 1, body)

    def _function(self, begin: int, end: int, depth: int) -> None:
        name = overload = domain = b""
        parts = []
        for number, value, stop in self._fields(begin, end):
            if stop is None:
                continue
            if number == 1:
                name = self.content[value:stop]
            elif number == 10:
                domain = self.content[value:stop]
            elif number == 13:
                overload = self.content[value:stop]
            elif number in _PATHS["function"]:
                parts.append((_PATHS["function"][number], value, stop))
                if number == 7:
                    self._count_node()
        body = self.functions.setdefault((_usual(domain), name, overload), _Body())
        body.sorted = False  # whether an argument is a constant is for each call to say
        for kind, value, stop in parts:
            self.message(kind, value, stop, depth + 1, body)

    def _node(self, begin: int, end: int, depth: int, body: _Body) -> None:
        operator = domain = overload = b""
        inputs, outputs, attributes = [], [], []
        content = self.content
        for number, value, stop in self._fields(begin, end):
            if stop is None:
                continue
            if number == 1:
                inputs.append(content[value:stop])
            elif number == 2:
                outputs.append(content[value:stop])
            elif number == 4:
                operator = content[value:stop]
            elif number == 5:
                attributes.append((value, stop))
            elif number == 7:
                domain = content[value:stop]
            elif number == 8:
                overload = content[value:stop]
        if not operator:
            raise _damaged("a node without an operator")
        if operator == b"EPContext":
            raise ModelLoadError(
                "the graph holds compiled code for one device (a node EPContext), which nothing "
                "can check; export it again from the network"
            )
        body.nodes += 1
        body.calls[_usual(domain), operator, overload] += 1
        long = len(self._long)
        for value, stop in attributes:
            self.message("attribute", value, stop, depth + 1, body)
        known, constants = body.known, body.constants
        given = [name for name in inputs if name]
        if body.sorted and not known.issuperset(given) and not constants.issuperset(given):
            body.sorted = all(name in known or name in constants for name in given)
        if constants.issuperset(given):
            constants.update(outputs)
            body.constant += operator != b"Constant"
        known.update(outputs)
        if operator == b"Constant" and len(self._long) > long:
            self._long.update(outputs)
        operand = _SHAPE_OPERAND.get(operator)
        if self._long and operand is not None and operand < len(inputs):
            self._require_dimensions(0 if inputs[operand] not in self._long else None)

    def _tensor(self, begin: int, end: int, body: _Body) -> None:
        name = b""
        dims: list[int] = []
        for number, value, stop in self._fields(begin, end):
            if number == _TENSOR_EXTERNAL_DATA:
                raise _ExternalTensorError
            if number == _TENSOR_DATA_LOCATION and stop is None and value != 0:
                raise _ExternalTensorError
            if number == 1:
                dims += [value] if stop is None else self._packed(value, stop)
            elif number == 8 and stop is not None:
                name = self.content[value:stop]
        self._require_dimensions(len(dims))
        body.constants.add(name)
        if len(dims) == 1 and dims[0] > _MOST_DIMENSIONS:
            self._long.add(name)

    def _shape(self, kind: str, begin: int, end: int, depth: int) -> None:
        """Whether a value's shape has as few dimensions as it may have."""
        if depth > _DEEPEST:
            raise LimitError(f"the graph's messages lie more than {_DEEPEST} deep; simplify it")
        count = 0
        for number, value, stop in self._fields(begin, end):
            if stop is not None and number in _SHAPES[kind]:
                count += 1
                if kind != "shape":
                    self._shape(_SHAPES[kind][number], value, stop, depth + 1)
        if kind == "shape":
            self._require_dimensions(count)

    def _require_dimensions(self, count: int | None) -> None:
        if count is None or count > _MOST_DIMENSIONS:
            raise LimitError(
                f"the graph has a tensor of {'more' if count is None else count} dimensions, "
                f"at most {_MOST_DIMENSIONS} can be run; export it with fewer"
            )

    def _count_node(self) -> None:
        self._nodes += 1
        if self._nodes > self.limits.nodes:
            raise _beyond("nodes", self.limits.nodes)

    def _count_dense(self, dims: list[int]) -> None:
        self._require_dimensions(len(dims))
        self.dense += _WIDEST * prod(dims)
        if self.dense > self.limits.constants + len(self.content):
            raise LimitError(
                f"the graph's sparse tensors would be dense ones of more bytes than its file has and "
                f"{self.limits.constants:,}, the limit (Limits.constants)"
            )

    def expanded(self, body: _Body, depth: int) -> tuple[int, int, int]:
        """Nodes, constant ones and calls of ``body``, with those of the functions that it calls.

        Raises :class:`LimitError`, of functions that call themselves too.
        """
        limits = self.limits
        if depth > limits.depth:
            raise LimitError(
                f"the graph's functions call each other more than {limits.depth} deep, or without "
                f"end (Limits.depth); write it with its functions inlined"
            )
        nodes = body.nodes
        constant = body.constant if body.sorted else body.nodes
        calls = 0
        for name, count in body.calls.items() if self.functions else ():
            if name not in self.functions:
                continue
            if name not in self._sizes:
                self._sizes[name] = self.expanded(self.functions[name], depth + 1)
            more, more_constant, further = self._sizes[name]
            nodes += count * more
            constant += count * more_constant
            calls += count * (1 + further)
        for what, found in (("nodes", nodes), ("calls", calls)):
            if found > getattr(limits, what):
                raise _beyond(what, getattr(limits, what), found)
        return nodes, constant, calls

    def _string(self, begin: int, end: int, wanted: int) -> bytes:
        for number, value, stop in self._fields(begin, end):
            if number == wanted and stop is not None:
                return self.content[value:stop]
        return b""

    def _packed(self, position: int, end: int) -> list[int]:
        found = []
        while position < end:
            self._fields_left -= 1
            value, position = _varint(self.content, position, end)
            found.append(value)
        return found

    def _fields(self, position: int, end: int) -> Iterator[tuple[int, int, int | None]]:
        """The fields of one message: a number with its value and None, or with where it lies."""
        content = self.content
        while position < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise LimitError(
                    f"the graph has more than {_MOST_FIELDS:,} fields of protobuf, no network has; "
                    f"export it again"
                )
            tag = content[position]
            position += 1
            if tag >= 0x80:
                tag, position = _varint(content, position - 1, end)
                if tag >= 2**32:  # readers differ in which field they take it for
                    raise _damaged(f"tag {tag}")
            number, kind = tag >> 3, tag & 7
            if not number:
                raise _damaged("a field of number 0")
            if kind == _VARINT:
                value, position = _varint(content, position, end)
                yield number, value, None
                continue
            if kind == _BYTES:
                size, position = _varint(content, position, end)
            elif kind in (_FIXED32, _FIXED64):
                size = 4 if kind == _FIXED32 else 8
            else:
                raise _damaged(f"wire type {kind}")
            if size > end - position:
                raise _damaged(f"a field of {size:,} bytes where {end - position:,} are left")
            if kind == _BYTES:
                yield number, position, position + size
            position += size


def _varint(content: bytes | mmap, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _damaged("an unfinished number")


def _usual(domain: bytes) -> bytes:
    """The domain of the standard's operators has two names."""
    return b"" if domain == b"ai.onnx" else domain


def _beyond(what: str, limit: int, found: int | None = None) -> LimitError:
    """``found`` may be a number of any length."""
    count = "more" if found is None or found > 2**62 else f"{found:,} or more"
    return LimitError(
        f"the graph has {count} {what}, with functions as often as they are called; the limit is "
        f"{limit:,} (Limits.{what})"
    )


def _damaged(what: str) -> ModelLoadError:
    return ModelLoadError(f"the graph is not a readable ONNX file ({what}); export it again")
