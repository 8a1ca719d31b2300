"""Finds, on real inputs, the values of a graph that do not fit into fp16."""

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from repr_export.errors import PrecisionError
from repr_export.graph.values import Names, node_name
from repr_export.precision.half.formats import HalfFormat
from repr_export.precision.half.rules import is_constant, is_float
from repr_export.samples import CpuGraph, SampleSet

HEADROOM = 2.0
"""How far below the end of fp16 the values seen must stay: those not seen may be larger."""

_AT_ONCE = 16  # samples: every intermediate value of that many is in memory at some time
_SHAPES = ("Shape", "Size")


@dataclass(frozen=True)
class Overflow:
    """A value too large for fp16: its name, its largest size seen, who makes and who reads it."""

    value: str
    largest: float
    nodes: tuple[str, ...]


def find_overflows(model: ir.Model, fmt: HalfFormat, samples: SampleSet) -> tuple[Overflow, ...]:
    """The values of the fp32 ``model`` over ``fmt.largest / HEADROOM`` on ``samples``, largest first.

    The fp32 graph is run, not the half one, in which everything behind the first overflow is infinite and the
    place of the second cannot be seen. bf16 reaches as far as fp32, so nothing is run for it.
    Bodies of If, Loop and Scan are not looked into. Raises :class:`PrecisionError` if a value
    is not a number on these samples, :class:`repr_export.errors.GraphError` if the graph
    cannot be run on them.
    """
    if fmt.dtype == ir.DataType.BFLOAT16:
        return ()
    found = []
    for value, largest in largest_values(model, samples).items():
        if np.isnan(largest):
            raise PrecisionError(
                f"'{value.name}' is not a number (NaN) in the fp32 graph already, on the samples "
                "given; give samples which the network can work on"
            )
        if largest > fmt.largest / HEADROOM:
            around = [value.producer(), *value.consumers()]
            nodes = dict.fromkeys(
                node_name(node)
                for node in around
                if node is not None and node.graph is model.graph and node.op_type not in _SHAPES
            )
            found.append(Overflow(value.name or "?", largest, tuple(nodes)))
    return tuple(sorted(found, key=lambda overflow: -overflow.largest))


def largest_values(model: ir.Model, samples: SampleSet) -> dict[ir.Value, float]:
    """The largest finite absolute value of each float32 tensor of the main graph on ``samples``.

    Infinity, as of a mask, is infinity in fp16 too.
    """
    made = [output for node in model.graph for output in node.outputs]
    values = [
        value
        for value in (*model.graph.inputs, *made)
        if is_float(value) and value.name and not is_constant(value)
    ]
    if not values:
        return {}
    probe, names = _with_probes(model, values)
    graph = CpuGraph(probe)
    largest = np.zeros(len(values))
    for rows in samples.layout.parts(len(samples), _AT_ONCE):
        outputs = graph(samples.run_of(rows))
        largest = np.maximum(largest, [float(outputs[name]) for name in names])
    return {value: float(size) for value, size in zip(values, largest, strict=True)}


def _with_probes(model: ir.Model, values: list[ir.Value]) -> tuple[bytes, list[str]]:
    """The model with the largest finite size of each of ``values`` as its only outputs."""
    names = Names(model)
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    zero = names.take("zero")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((), np.float32), zero))
    probes = []
    for value in values:
        kinds = ("abs", "infinite", "finite", "largest")
        size, infinite, finite, largest = (names.take(f"{value.name}.{kind}") for kind in kinds)
        proto.graph.node.extend(
            [
                onnx.helper.make_node("Abs", [value.name or ""], [size]),
                onnx.helper.make_node("IsInf", [size], [infinite]),
                onnx.helper.make_node("Where", [infinite, zero, size], [finite]),
                onnx.helper.make_node("ReduceMax", [finite], [largest], keepdims=0),
            ]
        )
        proto.graph.output.append(
            onnx.helper.make_tensor_value_info(largest, onnx.TensorProto.FLOAT, [])
        )
        probes.append(largest)
    content: bytes = proto.SerializeToString()
    return content, probes
