"""Where does a graph leave its network? The output of each node compared, in the graph's order."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from repr_export.graph.values import origin_of
from repr_export.layout import Arrays
from repr_export.samples import CpuGraph

MAX_ERROR = {"fp32": 1e-4, "fp16": 0.01, "bf16": 0.05, "int8": 0.25}
"""The relative error of an output that each precision may have: of a size that rounding gives."""


@dataclass(frozen=True)
class LayerDifference:
    """How far the output of one node is from the original network's.

    ``relative`` is the Euclidean norm of the difference over that of the original.
    """

    node: str
    op: str
    relative: float


@dataclass(frozen=True)
class LayerReport:
    """The nodes whose outputs were compared, in order, and the largest difference that is usual."""

    layers: tuple[LayerDifference, ...]
    bound: float

    @property
    def first(self) -> LayerDifference | None:
        """The first node that differs by more than the bound."""
        return next((row for row in self.layers if not row.relative <= self.bound), None)

    def __str__(self) -> str:
        if not self.layers:
            return "no node of the original is left to compare"
        worst = max(self.layers, key=lambda row: row.relative)
        most = f"the most {worst.relative:.2g} at {worst.node} ({worst.op})"
        if self.first is None:
            return f"all {len(self.layers)} nodes compared within {self.bound:g}, {most}"
        return (
            f"the first of {len(self.layers)} nodes compared to differ by over {self.bound:g} is "
            f"{self.first.node} ({self.first.op}, {self.first.relative:.2g}), {most}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data that JSON can hold."""
        rows = [asdict(row) for row in self.layers]
        return {"summary": str(self), "bound": self.bound, "layers": rows}


CompareLayers = Callable[[bytes, str], LayerReport]
"""Compares a graph, as bytes, that computes in the precision of that name."""


def layer_comparison(original: bytes, folded: ir.Model, inputs: Arrays) -> CompareLayers:
    """A comparison with the graph ``original`` on ``inputs``, one run, for what became of it.

    ``folded`` is the same graph after the passes: it knows which values stand for which.
    """
    expected = _values(original, inputs)
    nodes = {
        output.name: (node.name or str(output.name), node.op_type)
        for node in ir.from_proto(onnx.load_model_from_string(original)).graph
        for output in node.outputs
    }
    origins = {o.name: origin_of(o) for node in folded.graph for o in node.outputs}

    def compare(graph: bytes, precision: str) -> LayerReport:
        rows = []
        for name, ours in _values(graph, inputs).items():
            origin = origins.get(name, "")
            theirs = expected.get(origin)
            if theirs is not None and theirs.shape == ours.shape:
                rows.append(LayerDifference(*nodes[origin], relative_error(ours, theirs)))
        return LayerReport(tuple(rows), MAX_ERROR[precision])

    return compare


def relative_error(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """The Euclidean norm of the difference over that of ``theirs``, or as it is where that is 0.

    Values that ``theirs`` has infinite or undefined do not count.
    """
    finite = np.isfinite(theirs)
    a, b = ours[finite].astype(np.float64), theirs[finite].astype(np.float64)
    return float(np.linalg.norm(a - b)) / (float(np.linalg.norm(b)) or 1.0)


def _values(graph: bytes, inputs: Arrays) -> Mapping[str, NDArray[Any]]:
    """What each node of the main graph gives in floating point, by name, in order."""
    model = onnx.load_model_from_string(graph)
    given = {value.name for value in model.graph.output}
    made = [name for node in model.graph.node for name in node.output if name]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in given)
    network = CpuGraph(model.SerializeToString(), optimize=False)
    found = network({name: values.astype(network.dtypes[name]) for name, values in inputs.items()})
    goes_on_as = _dequantized(model.graph)
    found = {name: found[goes_on_as.get(name, name)] for name in made}
    dtypes = {name: getattr(values, "dtype", None) for name, values in found.items()}
    return {
        name: found[name]
        for name, dtype in dtypes.items()
        if dtype is not None and dtype.kind == "f"
    }


def _dequantized(graph: onnx.GraphProto) -> dict[str, str]:
    """What a value becomes for its readers behind QuantizeLinear and DequantizeLinear, by name.

    That may clip it, too: ONNX Runtime's quantizer leaves a Relu out whose zero is the smallest byte.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            readers.setdefault(node.input[0], []).append(node)
    return {
        value: back.output[0]
        for value, found in readers.items()
        for node in found
        if node.op_type == "QuantizeLinear"
        for back in readers.get(node.output[0], ())
    }
