"""Finds which nodes int8 hurts: a scan that ranks them, and a search for the fewest to keep."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from repr_export.cores import on_cores
from repr_export.errors import PrecisionError
from repr_export.graph.multiply_adds import UncountableError, count_multiply_adds
from repr_export.graph.values import node_name
from repr_export.layout import Arrays
from repr_export.precision.int8.calibration import CalibrationSet
from repr_export.precision.int8.parts import Part, cut
from repr_export.precision.int8.quantizable import Target, name_nodes
from repr_export.precision.int8.quantize import (
    Quantized,
    prepare,
    quantizable,
    quantize,
    quantize_prepared,
)
from repr_export.precision.int8.ranges import Progress, Ranges, no_progress
from repr_export.samples import CpuGraph, run_samples

_WORK = 100e9  # multiply-adds to spend on each node of a scan
_FEWEST, _MOST = 16, 64
_BATCH = 16
_MEMORY, _COPIES = (
    2 * 2**30,
    4,
)  # bytes for the parts that are quantized at once, each held so often
_FIRST = 4  # images that decide on a node whose ratio is this far from the bound:
_MARGIN_DB = 6.0


@dataclass(frozen=True)
class NodeSensitivity:
    """How much one node in int8 changes the network's output.

    ``sqnr_db`` is the signal-to-quantization-noise ratio of the output in decibel: the variance
    of the fp32 output over the mean square of the change; the lower, the worse. ``multiply_adds``
    is the node's for one sample, None if they cannot be counted; ``images`` how many the ratio was
    measured on.
    """

    node: str
    sqnr_db: float
    multiply_adds: int | None
    images: int


@dataclass(frozen=True)
class Bisection:
    """The nodes to keep out of int8, the int8 graph without them, and what that costs.

    ``accuracy`` and ``reference`` are the shares of images that the graph and the fp32 network
    get right; ``evaluations`` how often an accuracy was measured; ``kept_share`` the share of the
    network's multiply-adds in the nodes kept (the first and last layers, which always are, not
    among them), None if they cannot be counted.
    """

    keep: tuple[str, ...]
    quantized: Quantized
    accuracy: float
    reference: float
    evaluations: int
    kept_share: float | None

    def __str__(self) -> str:
        """One sentence for a person."""
        drop = f"{100 * (self.reference - self.accuracy):.2f} points below fp32"
        if not self.keep:
            return f"int8 is {drop} with every node quantized; none has to be kept"
        share = "" if self.kept_share is None else f", {self.kept_share:.1%} of the multiply-adds"
        return (
            f"int8 is {drop} with {len(self.keep)} nodes kept{share}: {', '.join(self.keep)} "
            f"({self.evaluations} evaluations)"
        )

    def as_dict(self) -> dict[str, Any]:
        """For the manifest: all but the graph."""
        return {name: value for name, value in vars(self).items() if name != "quantized"}


def scan(
    graph: bytes,
    ranges: Ranges,
    calibration: CalibrationSet,
    *,
    target: Target,
    bound: float | None = None,
    progress: Progress = no_progress,
) -> tuple[NodeSensitivity, ...]:
    """Each node that can be int8, ranked by what it does to the output; the worst comes first.

    Each is quantized alone, all others staying fp32. The errors of the nodes are small and
    nearly independent, so that they add up in the output, and each one's share can be measured
    by itself; quantizing all but one would measure a small difference of two large errors.
    The first output counts, on 16 to 64 of the calibration images. Where all that matters is
    which nodes lie below ``bound``, in decibel, so many see the nodes near it alone: the others
    are decided by four, whose ratio is more than 6 dB away.
    Raises as :func:`repr_export.precision.int8.quantize.quantize` does.
    """
    model, found = prepare(graph, target)
    parts = cut(model)
    costs = _multiply_adds(graph)
    total = None if costs is None else max(sum(costs.values()), 1)
    count = _MOST if total is None else int(np.clip(_WORK / total, _FEWEST, _MOST))
    names = (*found.weighted, *found.additions)

    def measure(names: Collection[str], count: int, what: str) -> dict[str, NodeSensitivity]:
        chosen = np.linspace(0, len(calibration) - 1, min(count, len(calibration)))
        rows = {}
        ratios = _ratios(parts, names, ranges, calibration, chosen.round().astype(int), target)
        for done, (name, sqnr) in enumerate(ratios, 1):
            cost = None if costs is None else costs.get(name, 0)
            rows[name] = NodeSensitivity(name, sqnr, cost, len(chosen))
            progress(what, done, len(names))
        return rows

    first = count if bound is None else _FIRST
    rows = measure(names, first, "quantizing one node at a time")
    if bound is not None:
        near = [name for name in names if abs(rows[name].sqnr_db - bound) < _MARGIN_DB]
        if near:
            rows |= measure(near, count, "quantizing again what is near the bound")
    # Stable: equals in graph order.
    return tuple(sorted((rows[name] for name in names), key=lambda row: row.sqnr_db))


def _ratios(
    parts: Sequence[Part],
    names: Collection[str],
    ranges: Ranges,
    calibration: CalibrationSet,
    chosen: NDArray[np.intp],
    target: Target,
) -> Iterator[tuple[str, float]]:
    """Each of ``names`` and its ratio on the images ``chosen``, in the order of the parts.

    What stands before a node's part is the same for each node, and run once; what stands behind
    it is opened once.
    """
    opened = [CpuGraph(part.model.SerializeToString(), threads=1) for part in parts]
    samples = calibration.samples_for(opened[0])
    some = {name: values[chosen] for name, values in samples.inputs.items()}
    samples = replace(samples, inputs=some)
    begin = [samples.run_of(rows) for rows in samples.layout.parts(len(samples), _BATCH)]

    def finish(runs: Sequence[Arrays], behind: int) -> NDArray[np.float64]:
        for network in opened[behind:]:
            runs = [network(run) for run in runs]
        made = iter(runs)
        outputs = run_samples(lambda _: dict(next(made)), samples, _BATCH)
        return next(iter(outputs.values())).astype(np.float64)

    reference = finish(begin, 0)
    signal = float(reference.var())

    def ratio(node: tuple[str, int, Sequence[Arrays]]) -> tuple[str, float]:
        name, index, runs = node
        quantized = quantize_prepared(parts[index].model, ranges, name, target=target)
        alone = CpuGraph(quantized, threads=1)
        change = finish([alone(run) for run in runs], index + 1) - reference
        noise = float(np.square(change).mean())
        sqnr = float("inf") if noise == 0 else 10 * float(np.log10(max(signal, 1e-30) / noise))
        return name, sqnr

    def nodes() -> Iterator[tuple[str, int, Sequence[Arrays]]]:
        runs: Sequence[Arrays] = begin
        for index, part in enumerate(parts):
            for name in (name for name in names if name in part.nodes):
                yield name, index, runs
            runs = [opened[index](run) for run in runs]

    largest = max(part.model.ByteSize() for part in parts)
    yield from on_cores(ratio, nodes(), max(1, _MEMORY // (_COPIES * largest)))


def bisect(
    graph: bytes,
    ranges: Ranges,
    calibration: CalibrationSet,
    evaluate: Callable[[bytes], float],
    *,
    target: Target,
    reference: float,
    max_drop: float,
    progress: Progress = no_progress,
) -> Bisection:
    """A smallest set of nodes to keep out of int8 so that the accuracy stays within the bound.

    ``evaluate`` gives a graph's accuracy as a share of images, ``reference`` is that of the fp32
    network, ``max_drop`` the points (percent of images) that may be lost. The nodes are ranked
    by :func:`scan`; a binary search finds how many of the worst have to be kept; then each of
    those, the least harmful first, goes back to int8 if the bound holds without it. So no
    member of the result can be left out, and its accuracy was measured, not inferred.

    Raises :class:`PrecisionError` if the bound does not hold with one layer alone in int8, or if
    ``evaluate`` gives something else than a share, and as :func:`scan` does.
    """
    seen: dict[frozenset[str], tuple[Quantized, float]] = {}

    def measure(keep: frozenset[str]) -> bool:
        if keep not in seen:
            made = quantize(graph, ranges, target=target, exclude=sorted(keep))
            accuracy = evaluate(made.graph)
            if not 0 <= accuracy <= 1:
                raise PrecisionError(f"an accuracy must lie in 0..1, got {accuracy}")
            seen[keep] = made, accuracy
            progress(f"accuracy with {len(keep)} nodes kept: {accuracy:.2%}", len(seen), 0)
        # 1e-9: a drop of exactly the bound is within it, whatever the rounding.
        return 100 * (reference - seen[keep][1]) <= max_drop + 1e-9

    keep: frozenset[str] = frozenset()
    ranked: list[str] = []
    if not measure(keep):
        rows = scan(graph, ranges, calibration, target=target, progress=progress)
        ranked = [row.node for row in rows]
        weighted = set(quantizable(graph, target).weighted)
        most = max(n for n in range(len(ranked)) if weighted - set(ranked[:n]))
        if not measure(frozenset(ranked[:most])):
            drop = 100 * (reference - seen[frozenset(ranked[:most])][1])
            raise PrecisionError(
                f"with {ranked[most]} alone in int8 the accuracy is {drop:.2f} points below fp32, "
                f"allowed are {max_drop:g}; use --fp16, or another --calibration-method"
            )
        low, high = 0, most  # low kept is too few, high is enough
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if measure(frozenset(ranked[:middle])) else (middle, high)
        keep = frozenset(ranked[:high])
        for name in reversed(ranked[:high]):
            if measure(keep - {name}):
                keep -= {name}
    made, accuracy = seen[keep]
    share, costs = None, _multiply_adds(graph)
    if costs:
        share = sum(costs.get(name, 0) for name in keep) / max(sum(costs.values()), 1)
    in_order = tuple(name for name in ranked if name in keep)
    return Bisection(in_order, made, accuracy, reference, len(seen), share)


def _multiply_adds(graph: bytes) -> dict[str, int] | None:
    model = ir.from_proto(onnx.load_model_from_string(graph))
    name_nodes(model)
    try:
        return {node_name(row.node): row.count for row in count_multiply_adds(model)}
    except UncountableError:
        return None
