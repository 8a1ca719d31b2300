"""Writes half precision into an fp32 graph: a strongly typed graph of fp16 or bf16."""

import difflib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass
from onnxscript import version_converter

from repr_export.errors import PrecisionError, first_line
from repr_export.graph.values import (
    Names,
    add_initializer,
    bodies_of,
    cast_to,
    discard_if_unused,
    graph_nodes,
    is_op,
    node_name,
    opset_of,
    unrounded,
)
from repr_export.passes.standard import inline_functions, lift_constants
from repr_export.precision.half.formats import FORMATS, HalfFormat, HalfName, Rounding, round_to
from repr_export.precision.half.overflow import Overflow, find_overflows
from repr_export.precision.half.rules import (
    is_constant,
    is_float,
    nodes_on_data,
    reasons_for_fp32,
    signature_of,
)
from repr_export.samples import SampleSet

Io = Literal["fp32", "half"]

_FLOAT = ir.DataType.FLOAT
_OLDEST_CONVERTIBLE = 18
_BF16_IR_VERSION = 10


@dataclass(frozen=True)
class Kept:
    """A node that goes on computing in fp32, and why."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class HalfReport:
    """What :func:`to_half` did.

    ``half`` counts the nodes that compute in ``precision`` now, ``kept`` lists those which do
    not, ``casts`` counts the Casts put in, ``weights`` says what rounding did to the
    constants, ``overflows`` lists the values found too large, the largest first.
    """

    precision: HalfName
    io: Io
    half: int
    kept: tuple[Kept, ...]
    casts: int
    weights: Rounding
    overflows: tuple[Overflow, ...]

    def __str__(self) -> str:
        kept = f", {len(self.kept)} kept in fp32" if self.kept else ""
        lost = self.weights.underflowed
        share = f"; {lost:,} of {self.weights.values:,} weights became 0" if lost else ""
        return f"{self.half} nodes in {self.precision}{kept}, {self.casts} casts{share}"


def to_half(
    model: ir.Model,
    precision: HalfName,
    *,
    io: Io = "fp32",
    keep: Collection[str] = (),
    samples: SampleSet | None = None,
) -> HalfReport:
    """Rewrite the fp32 ``model`` in place so that it computes in ``precision`` where it may.

    Types are written into the graph: float32 tensors become ``precision``, constants rounded
    once, from their float64 values where a pass has left those (:func:`unrounded`), with one
    Cast wherever a value changes type. Nodes that need fp32 keep it, for the reasons of
    :mod:`repr_export.precision.half.rules`; so do the nodes named in ``keep``, and, with
    ``samples`` (such as real images), those whose values come too near
    to the end of fp16 (:func:`find_overflows`). Inputs and outputs keep their names; with
    ``io="half"`` those of float32 become ``precision``, else they stay float32.

    bf16 raises the graph to opset 22, the first with bfloat16 convolutions. A model that is
    not to be changed is cloned first: ``model.clone()`` keeps the float64 values.

    Raises :class:`PrecisionError` for bf16 inputs and outputs, which NumPy does not have, for a
    name in ``keep`` that no node bears, for a graph that cannot be raised to opset 22, and for
    an input or output that overflows under ``io="half"``.
    """
    fmt = FORMATS[precision]
    if io == "half" and precision == "bf16":
        raise PrecisionError(
            "bf16 inputs and outputs cannot be had: NumPy knows no bfloat16; leave them fp32"
        )
    inline_functions(model)
    _raise_opset(model, fmt)
    lift_constants(model)
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    overflows = find_overflows(model, fmt, samples) if samples is not None else ()
    if io == "half":
        _check_ends(model, overflows, fmt)
    named = _named(model, keep, overflows, fmt)
    return _Rewrite(model, fmt, io, named).apply(overflows)


def _raise_opset(model: ir.Model, fmt: HalfFormat) -> None:
    opset = opset_of(model)
    if opset >= fmt.opset:
        return
    needs, hint = f"{fmt.name} needs opset {fmt.opset}", f"export it with --opset {fmt.opset}"
    if opset < _OLDEST_CONVERTIBLE:
        raise PrecisionError(f"{needs}, the graph has {opset}, too old to convert; {hint}")
    try:
        version_converter.convert_version(model, fmt.opset)
    except Exception as error:  # the converter's errors share no base
        raise PrecisionError(
            f"{needs}, to which the graph cannot be converted: {first_line(error)}; {hint}"
        ) from error
    if opset_of(model) != fmt.opset:
        raise PrecisionError(f"{needs}, the converter left {opset_of(model)}; {hint}")
    model.ir_version = max(model.ir_version, _BF16_IR_VERSION)


def _check_ends(model: ir.Model, overflows: Collection[Overflow], fmt: HalfFormat) -> None:
    ends = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    for overflow in overflows:
        if overflow.value in ends:
            raise PrecisionError(
                f"'{overflow.value}' reaches {overflow.largest:.4g} and {fmt.name} ends at "
                f"{fmt.largest:g}: keep inputs and outputs in fp32"
            )


def _named(
    model: ir.Model, keep: Collection[str], overflows: Sequence[Overflow], fmt: HalfFormat
) -> dict[ir.Node, str]:
    known = {node_name(node) for node in graph_nodes(model)}
    for name in keep:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise PrecisionError(f"no node of the graph is called {name!r} to be kept{hint}")
    reasons: dict[str, str] = {}
    for each in reversed(overflows):  # the largest has the last word
        reason = f"'{each.value}' reaches {each.largest:.4g}; {fmt.name} ends at {fmt.largest:g}"
        reasons |= dict.fromkeys(each.nodes, reason)
    reasons |= dict.fromkeys(keep, "asked for")
    return {node: reasons[node_name(node)] for node in model.graph if node_name(node) in reasons}


@dataclass
class _Uses:
    """Who reads a value, and in which type: (node, input) and places among the outputs."""

    inputs: dict[ir.DataType, list[tuple[ir.Node, int]]] = field(default_factory=dict)
    outputs: dict[ir.DataType, list[int]] = field(default_factory=dict)


class _Rewrite:
    """First finds the type of every value and of every use of it, then changes the graph."""

    def __init__(
        self, model: ir.Model, fmt: HalfFormat, io: Io, named: Mapping[ir.Node, str]
    ) -> None:
        self.model, self.graph, self.fmt, self.io = model, model.graph, fmt, io
        self.half = fmt.dtype
        self.opset = opset_of(model)
        self.bodies = {node: _read_by_bodies(node) for node in self.graph if bodies_of(node)}
        self.end = self.half if io == "half" else _FLOAT
        self.kept = reasons_for_fp32(model, fmt, named, self.bodies, io_is_half=io == "half")
        self.on_data = nodes_on_data(self.graph, self.bodies)
        self.types = {value: self.end for value in self.graph.inputs if is_float(value)}
        self.uses: defaultdict[ir.Value, _Uses] = defaultdict(_Uses)
        self.half_nodes: list[ir.Node] = []
        self.names = Names(model)
        self.casts = 0
        self.weights = Rounding()

    def apply(self, overflows: tuple[Overflow, ...]) -> HalfReport:
        for node in self.graph:
            self._plan(node)
        for index, value in enumerate(self.graph.outputs):
            if is_float(value):
                self.uses[value].outputs.setdefault(self.end, []).append(index)
        for value, dtype in self.types.items():
            if not is_constant(value):
                value.type = ir.TensorType(dtype)
                if value.const_value is not None and dtype == self.half:
                    self._round_in_place(value)
        for node in self.half_nodes:
            if is_op(node, "Cast"):
                node.attributes["to"] = ir.AttrInt64("to", self.half.value)
        first = next(iter(self.graph), None)
        for value, uses in self.uses.items():
            if is_constant(value):
                self._give_constant(value, uses)
            else:
                self._give_casts(value, uses, first)
        kept = tuple(
            Kept(node_name(node), node.op_type, reason) for node, reason in self.kept.items()
        )
        return HalfReport(
            self.fmt.name, self.io, len(self.half_nodes), kept, self.casts, self.weights, overflows
        )

    # Plan: the type of each output, and the type in which each input is read.

    def _plan(self, node: ir.Node) -> None:
        if node in self.kept or node not in self.on_data:
            reads = dict.fromkeys(range(len(node.inputs)), _FLOAT)
        else:
            reads = self._plan_half(node)
        for index, value in enumerate(node.inputs):
            if value is not None and is_float(value):
                self.uses[value].inputs.setdefault(reads[index], []).append((node, index))
        for value in self.bodies.get(node, ()):
            if is_float(value):
                self.uses[value].inputs.setdefault(_FLOAT, []).extend(
                    (use.node, use.idx) for use in value.uses() if use.node.graph is not self.graph
                )

    def _plan_half(self, node: ir.Node) -> dict[int, ir.DataType]:
        signature = signature_of(node, self.opset, self.fmt)
        results = [index for index, value in enumerate(node.outputs) if is_float(value)]
        if signature is None or not (results or any(map(is_float, node.inputs))):
            return dict.fromkeys(range(len(node.inputs)), _FLOAT)
        halves = {signature.outputs[index] for index in results} & signature.halves
        for index in results:
            if signature.outputs[index] in halves:
                self.types[node.outputs[index]] = self.half
        if results:
            self.half_nodes.append(node)
        # A type that no output shares is read as it comes: half if any of its values is.
        for variable, value in zip(signature.inputs, node.inputs, strict=True):
            if variable in signature.halves and self._type(value) == self.half:
                halves.add(variable)
        return {
            index: self.half if variable in halves else _FLOAT
            for index, variable in enumerate(signature.inputs)
        }

    def _type(self, value: ir.Value | None) -> ir.DataType | None:
        return None if value is None else self.types.get(value, value.dtype)

    # Apply.

    def _round_in_place(self, value: ir.Value) -> None:
        rounded, counts = round_to(unrounded(value), self.fmt)
        self.weights += counts
        value.const_value = ir.tensor(rounded, dtype=self.half, name=value.name)
        value.type = ir.TensorType(self.half)

    def _give_constant(self, value: ir.Value, uses: _Uses) -> None:
        """Constants need no Cast: they are stored in each type in which they are read."""
        if set(uses.inputs) | set(uses.outputs) == {self.half}:
            self._round_in_place(value)
            return
        readers, places = uses.inputs.get(self.half, ()), uses.outputs.get(self.half, ())
        if not readers and not places:
            return
        rounded, counts = round_to(unrounded(value), self.fmt)
        self.weights += counts
        name = self.names.take(f"{value.name}.{self.fmt.name}")
        copy = add_initializer(self.graph, rounded, name, self.half)
        for node, index in readers:
            node.replace_input_with(index, copy)
        for place in places:
            self.graph.outputs[place] = copy
        discard_if_unused(value)

    def _give_casts(self, value: ir.Value, uses: _Uses, first: ir.Node | None) -> None:
        own = self._type(value)
        producer = value.producer()
        for dtype in (self.half, _FLOAT):
            readers, places = uses.inputs.get(dtype, []), uses.outputs.get(dtype, [])
            if dtype == own or not (readers or places):
                continue
            named = own if places else dtype
            name = self.names.take(
                f"{value.name}.{self.fmt.name if named == self.half else 'fp32'}"
            )
            if places:  # the output's name is what the model declared
                value.name, name = name, value.name or ""
            cast = cast_to(dtype, value, name)
            if producer is not None:
                self.graph.insert_after(producer, cast)
            elif first is not None:
                self.graph.insert_before(first, cast)
            else:
                self.graph.append(cast)
            for node, index in readers:
                node.replace_input_with(index, cast.outputs[0])
            for place in places:
                self.graph.outputs[place] = cast.outputs[0]
            self.casts += 1


def _read_by_bodies(node: ir.Node) -> tuple[ir.Value, ...]:
    """The values of the graph around ``node`` that its bodies read, each once."""
    found: dict[ir.Value, None] = {}
    for body in bodies_of(node):
        for inner in ir.traversal.RecursiveGraphIterator(body):
            around = (value for value in inner.inputs if value is not None)
            found.update(dict.fromkeys(value for value in around if value.graph is node.graph))
    return tuple(found)
