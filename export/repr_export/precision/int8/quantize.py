"""Makes an int8 graph of a folded fp32 one, from measured ranges: one for TensorRT, one for CPUs."""

import contextlib
import difflib
import logging
import threading
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from repr_export.errors import GraphError, PrecisionError, first_line
from repr_export.graph.values import (
    constant_of,
    graph_nodes,
    is_op,
    node_name,
    opset_of,
    picks_channels,
)
from repr_export.passes.remove_unused import remove_unused
from repr_export.passes.standard import lift_constants
from repr_export.precision.int8.qdq import insert_qdq
from repr_export.precision.int8.quantizable import (
    TARGETS,
    Quantizable,
    Target,
    find_quantizable,
    name_nodes,
    residual_operand,
)
from repr_export.precision.int8.ranges import Ranges
from repr_runtime.machine import cpu_has_vnni

_OPSET = 13  # the first whose QuantizeLinear knows channels

# The range of what is always 0, such as the weights of a dead channel. The quantizer's own choice
# is a scale of 1, and with it biases rounded to multiples of the input's scale.
_DEAD = 1e-6

_QUANTIZER = threading.Lock()  # its remarks are kept from the root logger, of which there is one

# What ONNX Runtime computes on bytes as well as on floats, behind a node that makes bytes.
FOLLOWERS = (
    *("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Pad", "Slice"),
    *("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Gather", "Split"),
)


@dataclass(frozen=True)
class QuantizationReport:
    """What became int8, what did not and why, and from which ranges.

    ``reduce_range`` is whether weights have 7 bits (CPUs whose 8-bit products would overflow),
    None for TensorRT.
    """

    target: Target
    method: str
    images: int
    description: str
    quantized: tuple[str, ...]
    kept: dict[str, str]
    reduce_range: bool | None

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        values = asdict(self)
        return {"flavour": values.pop("target"), **values}  # the key that manifests have


@dataclass(frozen=True)
class Quantized:
    """The int8 graph and how it was made."""

    graph: bytes
    report: QuantizationReport


def quantizable(graph: bytes, target: Target) -> Quantizable:
    """What of ``graph`` can be int8; raises as :func:`quantize` does."""
    return _prepare(graph, target)[1]


def quantize(
    graph: bytes, ranges: Ranges, *, target: Target, exclude: Collection[str] = ()
) -> Quantized:
    """The folded fp32 ``graph`` with its layers in int8, as Q/DQ pairs.

    ``ranges`` come from :func:`repr_export.precision.int8.ranges.measure_ranges` on the same graph.
    The first and the last weighted layers and the nodes named in ``exclude`` stay fp32. Inputs,
    outputs and a free batch stay as they are; the same arguments give the same bytes.

    ``tensorrt``: see :mod:`repr_export.precision.int8.qdq`. ``cpu``: written by ONNX Runtime's own
    quantizer for its own kernels: uint8 activations with a zero point, int8 weights per channel,
    int32 biases; weights of 7 bits where the CPU has no VNNI, whose 8-bit products of pairs
    overflow 16 bits.

    Raises :class:`PrecisionError` if ``exclude`` names no such node or nothing is left to
    quantize, :class:`GraphError` for a graph that is not fp32, already quantized, below opset
    13, or not the one of ``ranges``.
    """
    model, found = _prepare(graph, target)
    unknown = [name for name in exclude if name not in found.names]
    if unknown:
        near = difflib.get_close_matches(unknown[0], found.names, 3) or sorted(found.names)[:5]
        raise PrecisionError(
            f"there is no node '{unknown[0]}' to keep out of int8; near or known are "
            f"{', '.join(near)}"
        )
    weighted = [name for name in found.weighted if name not in exclude]
    kept = found.kept | dict.fromkeys(exclude, "excluded")
    if not weighted:
        raise PrecisionError(f"nothing is left to quantize: {_listed(kept)}")
    chosen = set(weighted)
    # An addition in int8 gains nothing where no layer next to it is.
    for node in model.graph:
        name = node_name(node)
        if name in found.additions and name not in exclude:
            chosen |= {name} if residual_operand(node, weighted) is not None else set()
    content, reduce_range = _write(model, chosen, ranges, target)
    names = tuple(name for name in (*found.weighted, *found.additions) if name in chosen)
    return Quantized(
        content,
        QuantizationReport(
            target, ranges.method, ranges.images, ranges.description, names, kept, reduce_range
        ),
    )


def quantize_alone(graph: bytes, ranges: Ranges, node: str, *, target: Target) -> bytes:
    """``graph`` with just ``node``, one of those that :func:`quantizable` finds, in int8."""
    return quantize_prepared(prepare(graph, target)[0], ranges, node, target=target)


def prepare(graph: bytes, target: Target) -> tuple[onnx.ModelProto, Quantizable]:
    """``graph`` with inferred types, named nodes and no Constant nodes; and what of it can be int8."""
    model, found = _prepare(graph, target)
    return ir.to_proto(model), found


def quantize_prepared(
    model: onnx.ModelProto, ranges: Ranges, node: str, *, target: Target
) -> bytes:
    """What :func:`prepare` made, or a part of it, with just ``node`` in int8."""
    return _write(ir.from_proto(model), {node}, ranges, target)[0]


def require_quantizable(graph: bytes) -> None:
    """Raise what :func:`quantize` would raise of ``graph`` for any target, before the work."""
    for target in TARGETS:
        _prepare(graph, target)


def _prepare(graph: bytes, target: Target) -> tuple[ir.Model, Quantizable]:
    try:
        model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load_model_from_string(graph)))
    except Exception as error:  # protobuf's and onnx's share no base
        raise GraphError(f"the graph cannot be read: {first_line(error)}") from error
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph_nodes(model)):
        raise GraphError("the graph is quantized already; give the fp32 graph, or leave --int8 out")
    if opset_of(model) < _OPSET:
        raise GraphError(
            f"int8 weights per channel need opset {_OPSET} or later, the graph has "
            f"{opset_of(model)}; export it with --opset {_OPSET} or more"
        )
    name_nodes(model)
    lift_constants(model)
    found = find_quantizable(model, target)
    if not found.weighted:
        layers = _listed(found.kept) or "no Conv, Gemm or MatMul in it"
        raise PrecisionError(
            f"the graph has no layer to quantize: {layers}; int8 needs constant fp32 weights, and "
            "keeps the first and last layers; leave --int8 out"
        )
    return model, found


def _listed(kept: dict[str, str]) -> str:
    return ", ".join(f"{name} ({reason})" for name, reason in kept.items())


def _write(
    model: ir.Model, chosen: set[str], ranges: Ranges, target: Target
) -> tuple[bytes, bool | None]:
    """The graph with ``chosen`` in int8, and whether weights have 7 bits (None for TensorRT)."""
    chosen = chosen | _shortcuts_beside(model, chosen)
    missing = {
        value.name or "?"
        for node in model.graph
        if node_name(node) in chosen
        for value in (*node.inputs, *node.outputs)
        if value is not None and constant_of(value) is None and value.name not in ranges.tensors
    }
    if missing:
        raise GraphError(
            f"no range was measured for {', '.join(sorted(missing))}; measure the ranges on this "
            "very graph"
        )
    reduce_range = None
    if target == "tensorrt":
        insert_qdq(model, chosen, ranges)
        remove_unused(model)
        proto = ir.to_proto(model)
    else:
        reduce_range = not cpu_has_vnni()
        nodes = _with_followers(model, chosen)
        proto = _for_cpu(ir.to_proto(model), nodes, _kept_through(model, ranges), reduce_range)
    proto.producer_name, proto.producer_version = "repr-deploy", ""
    content: bytes = proto.SerializeToString(deterministic=True)
    try:
        onnx.checker.check_model(content, full_check=True)
    except Exception as error:  # onnx's checker and shape inference share no base
        raise GraphError(f"the int8 graph is not valid: {first_line(error)}") from error
    return content, reduce_range


def _shortcuts_beside(model: ir.Model, chosen: set[str]) -> set[str]:
    """The convolutions that pick channels of what a chosen layer reads as int8 anyway: exact there."""
    layers = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
    read = {
        node.inputs[0]
        for node in model.graph
        if node_name(node) in chosen and node.op_type in layers
    }
    return {
        node_name(node) for node in model.graph if picks_channels(node) and node.inputs[0] in read
    }


def _kept_through(model: ir.Model, ranges: Ranges) -> Ranges:
    """``ranges`` with one for both sides of what only moves values, so that bytes pass as they are.

    That is what picks channels, and a Concat with each input that nothing else reads: it would
    be rounded twice, at last to the range of the Concat.
    """
    tensors = dict(ranges.tensors)
    for node in reversed(model.graph):  # a Concat may be read by another
        if is_op(node, "Concat") and node.outputs[0].name in tensors:
            alone = [each for each in node.inputs if each is not None and len(each.uses()) == 1]
            names = [each.name for each in alone if not each.is_graph_output()]
            joined = tensors[node.outputs[0].name]
            tensors |= {name: joined for name in names if name in tensors}
    for node in model.graph:
        if picks_channels(node):
            source, result = node.inputs[0], node.outputs[0]
            if source is not None and source.name in tensors:
                tensors[result.name or ""] = tensors[source.name]
    return replace(ranges, tensors=tensors)


def _with_followers(model: ir.Model, chosen: set[str]) -> list[str]:
    """``chosen`` and, in the order of the graph, what can go on with the bytes they make."""
    bytes_: set[ir.Value] = set()
    names = []
    for node in model.graph:
        data = [value for value in node.inputs if value and constant_of(value) is None]
        known = picks_channels(node) or any(is_op(node, op) for op in FOLLOWERS)
        follows = known and bytes_.issuperset(data)
        if node_name(node) in chosen or (data and follows):
            names.append(node_name(node))
            bytes_.update(node.outputs)
    return names


def _for_cpu(
    proto: onnx.ModelProto, nodes: list[str], ranges: Ranges, reduce_range: bool
) -> onnx.ModelProto:
    from onnxruntime import quantization
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    # Says that shapes are inferred: the quantizer would write the model to a file to infer them.
    add_infer_metadata(proto)
    present = {name for node in proto.graph.node for name in (*node.input, *node.output)}
    tensors = TensorsData(
        quantization.CalibrationMethod.MinMax,
        {
            name: (np.array(each.low, np.float32), np.array(each.high, np.float32))
            for name, each in ranges.tensors.items()
            if name in present
        },
    )
    with _QUANTIZER, _quiet():
        quantizer = quantization.QDQQuantizer(
            proto,
            per_channel=True,
            reduce_range=reduce_range,
            weight_qType=quantization.QuantType.QInt8,
            activation_qType=quantization.QuantType.QUInt8,
            tensors_range=tensors,
            nodes_to_quantize=nodes,
            nodes_to_exclude=[],
            op_types_to_quantize=sorted({node.op_type for node in proto.graph.node}),
            extra_options={"MinimumRealRange": _DEAD},
        )
        result: ir.Model = ir.from_proto(quantizer.quantize_model())
    result.metadata_props.pop("onnx.infer", None)
    result.graph.sort()  # new nodes stand at its end
    made: onnx.ModelProto = ir.to_proto(result)
    return made


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's remarks from the root logger, which it writes to and configures."""
    root = logging.getLogger()
    handlers = list(root.handlers)

    def foreign(record: logging.LogRecord) -> bool:
        return "quantization" not in Path(record.pathname).parts

    root.addFilter(foreign)
    try:
        yield
    finally:
        root.removeFilter(foreign)
        root.handlers[:] = handlers
