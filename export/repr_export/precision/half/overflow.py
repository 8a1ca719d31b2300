"""Finds, on real inputs, the values of a graph that do not fit into fp16."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from repr_export.errors import PrecisionError
from repr_export.graph.values import Names, node_name
from repr_export.precision.half.formats import HalfFormat
from repr_export.precision.half.rules import is_constant, is_float
from repr_export.samples import CpuGraph, batches

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


def find_overflows(
    model: ir.Model, fmt: HalfFormat, samples: Mapping[str, NDArray[Any]]
) -> tuple[Overflow, ...]:
    """The values of the fp32 ``model`` over ``fmt.largest / HEADROOM`` on ``samples``, largest first.

    ``samples`` are arrays by input name, the samples along their first axis. The fp32 graph is
    run, not the half one, in which everything behind the first overflow is infinite and the
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


def largest_values(model: ir.Model, samples: Mapping[str, NDArray[Any]]) -> dict[ir.Value, float]:
    """The largest absolute value that each float32 tensor of the main graph takes on ``samples``."""
    made = [output for node in model.graph for output in node.outputs]
    values = [
        value
        for value in (*model.graph.inputs, *made)
        if is_float(value) and value.name and not is_constant(value)
    ]
    probe, names = _with_probes(model, values)
    count = len(next(iter(samples.values())))
    graph = CpuGraph(probe)
    largest = np.zeros(len(values))
    for rows in batches(count, graph.batch or _AT_ONCE, whole=graph.batch is not None):
        outputs = graph({name: array[rows] for name, array in samples.items()})
        largest = np.maximum(largest, [float(outputs[name]) for name in names])
    return {value: float(size) for value, size in zip(values, largest, strict=True)}


def _with_probes(model: ir.Model, values: list[ir.Value]) -> tuple[bytes, list[str]]:
    """The model with the largest absolute value of each of ``values`` as its only outputs."""
    names = Names(model)
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    probes = []
    for value in values:
        size, largest = names.take(f"{value.name}.abs"), names.take(f"{value.name}.largest")
        proto.graph.node.append(onnx.helper.make_node("Abs", [value.name or ""], [size]))
        proto.graph.node.append(onnx.helper.make_node("ReduceMax", [size], [largest], keepdims=0))
        proto.graph.output.append(
            onnx.helper.make_tensor_value_info(largest, onnx.TensorProto.FLOAT, [])
        )
        probes.append(largest)
    content: bytes = proto.SerializeToString()
    return content, probes
