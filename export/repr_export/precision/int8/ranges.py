"""Measures the range of each tensor of a graph on calibration inputs: what int8 scales come from.

Three methods give a threshold T on the absolute value; the range is the measured one, cut to ±T:

1. min-max     T is the largest value seen: nothing is cut, one outlier coarsens all the rest
2. percentile  T is the 99.99th percentile of the absolute values
3. entropy     T loses the least information, by the Kullback-Leibler divergence between the
               values and their 128 quantized levels (S. Migacz, "8-bit Inference with TensorRT",
               GTC 2017)

onnxruntime's calibrators keep every activation of every image in memory, and their entropy method
has by default as many bins as levels, so that it has one candidate to choose from. Here a first
run over the images finds the extremes and a second one fills histograms, batch after batch.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from repr_export.cores import on_cores
from repr_export.errors import CalibrationError, GraphError, OptionError, first_line
from repr_export.precision.int8.calibration import CalibrationSet
from repr_export.precision.options import METHODS, Method
from repr_export.samples import CpuGraph
from repr_runtime.machine import usable_cores

PERCENTILE = 99.99

_BINS = 4096
_LEVELS = 128
_STRIDE = 16  # bins between two candidates of the entropy method: 249 candidates
_BATCH_BYTES = 256 * 2**20  # of activations held at once
_LARGEST_BATCH = 32

T = TypeVar("T")
_Values = Mapping[str, NDArray[np.float32]]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and of how many."""


def no_progress(what: str, done: int, total: int) -> None:
    """A :data:`Progress` that tells nobody."""


@dataclass(frozen=True)
class Range:
    """The smallest and largest value that a tensor's int8 form has to hold: low <= 0 <= high."""

    low: float
    high: float

    @property
    def largest(self) -> float:
        """The largest absolute value."""
        return max(-self.low, self.high)


@dataclass(frozen=True)
class Ranges:
    """The range of each float32 tensor of a graph by name, and how it was found."""

    tensors: Mapping[str, Range]
    method: Method
    images: int
    description: str


def measure_ranges(
    graph: bytes,
    calibration: CalibrationSet,
    method: Method = "entropy",
    *,
    progress: Progress = no_progress,
) -> Ranges:
    """Run ``graph`` on the calibration images and find the range of each float32 tensor in it.

    The tensors are the graph's float32 inputs and every node's float32 outputs outside If and Loop
    bodies. At most 256 MiB of activations are held at once on all cores (or one batch of the graph).
    Raises :class:`OptionError` for another method, :class:`GraphError` if the graph cannot be
    run, :class:`CalibrationError` if a tensor overflows.
    """
    if method not in METHODS:
        raise OptionError(f"--calibration-method must be one of {', '.join(METHODS)}, got {method}")
    observer = _Observer(graph, calibration)
    extremes = dict.fromkeys(observer.names, (0.0, 0.0))
    for found, done in observer.run(_extremes):
        for name, (low, high) in found.items():
            if not np.isfinite(low + high):
                raise CalibrationError(
                    f"the tensor '{name}' overflows on the calibration images; the network's own "
                    "weights are damaged, or the images are not what it was trained on"
                )
            extremes[name] = min(extremes[name][0], low), max(extremes[name][1], high)
        progress("measuring ranges", done, len(calibration))
    tensors = {name: Range(*pair) for name, pair in extremes.items()}
    if method == "min-max":
        return Ranges(tensors, method, len(calibration), calibration.description)

    largest = {name: each.largest for name, each in tensors.items()}
    counts = {name: np.zeros(_BINS, np.int64) for name in observer.names}

    def histograms(values: _Values) -> dict[str, NDArray[np.int64]]:
        return {
            name: histogram(array, largest[name])
            for name, array in values.items()
            if largest[name] > 0
        }

    for seen, done in observer.run(histograms):
        for name, bins in seen.items():
            counts[name] += bins
        progress("counting values", done, len(calibration))
    threshold = entropy_threshold if method == "entropy" else percentile_threshold
    for done, (name, (low, high)) in enumerate(extremes.items(), 1):
        cut = largest[name] * threshold(counts[name]) if largest[name] > 0 else 0.0
        tensors[name] = Range(max(low, -cut), min(high, cut))
        progress("choosing ranges", done, len(extremes))
    return Ranges(tensors, method, len(calibration), calibration.description)


def histogram(values: NDArray[np.float32], largest: float) -> NDArray[np.int64]:
    """How many absolute values lie in each of 4,096 equal bins from 0 to ``largest``."""
    scaled = np.abs(values, dtype=np.float32).ravel() * np.float32(_BINS / largest)
    bins = np.minimum(scaled.astype(np.int32), _BINS - 1)
    return np.bincount(bins, minlength=_BINS)


def percentile_threshold(counts: NDArray[np.int64]) -> float:
    """The share of the histogram's width below which 99.99 % of the values lie."""
    reached = np.cumsum(counts) >= counts.sum() * (PERCENTILE / 100)
    return float(np.argmax(reached) + 1) / len(counts)


def entropy_threshold(counts: NDArray[np.int64]) -> float:
    """The share of the histogram's width to keep so that 128 levels lose the least information.

    For each candidate, P is the histogram up to it with all that lies above added to its last
    bin, and Q is the same histogram without that, spread over 128 levels: the mean of each
    level's occupied bins. The candidate with the smallest KL(P || Q) is taken, the widest of
    equals. The bin at 0 counts as much as the next: the zeros of a ReLU, which every scale
    represents exactly, would otherwise decide.
    """
    density = counts.astype(np.float64)
    density[0] = density[1]
    best, least = len(density), np.inf
    for width in range(len(density), _LEVELS - 1, -_STRIDE):
        divergence = _divergence(density, width)
        if divergence < least:
            best, least = width, divergence
    return best / len(density)


def _divergence(density: NDArray[np.float64], width: int) -> float:
    inside = density[:width]
    p = inside.copy()
    p[-1] += density[width:].sum()
    level = np.arange(width) * _LEVELS // width
    occupied = inside > 0
    mass = np.bincount(level, inside, _LEVELS)
    bins = np.bincount(level, occupied, _LEVELS)
    q = np.where(occupied, (mass / np.maximum(bins, 1))[level], 0.0)
    total_p, total_q = p.sum(), q.sum()
    here = p > 0
    if total_q == 0 or (q[here] == 0).any():  # what is cut would have nothing to stand for it
        return np.inf
    p, q = p[here] / total_p, q[here] / total_q
    return float((p * np.log(p / q)).sum())


def _extremes(values: _Values) -> dict[str, tuple[float, float]]:
    return {
        name: (float(array.min(initial=0.0)), float(array.max(initial=0.0)))
        for name, array in values.items()
    }


class _Observer:
    """A graph with all of its float32 tensors as its outputs."""

    def __init__(self, graph: bytes, calibration: CalibrationSet) -> None:
        try:
            model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(graph))
        except Exception as error:  # protobuf's and onnx's share no base
            raise GraphError(f"the graph cannot be read: {first_line(error)}") from error
        constants = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in constants]
        wide = [v.name for v in inputs if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
        computed = {name for node in model.graph.node for name in node.output}
        floats = [
            value
            for value in (*model.graph.value_info, *model.graph.output)
            if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and value.name in computed
        ]
        del model.graph.output[:]
        model.graph.output.extend(floats)
        self.names = (*wide, *(value.name for value in floats))
        # Fusions would hide tensors, or compute what stands between two of them otherwise.
        first = inputs[0].type.tensor_type.shape.dim[:1] if inputs else ()
        self._fixed = any(dim.dim_value > 1 for dim in first)  # one such run may fill the memory
        self._graph = CpuGraph(
            model.SerializeToString(), optimize=False, threads=0 if self._fixed else 1
        )
        self._samples = calibration.samples_for(self._graph)

    def run(self, of: Callable[[_Values], T]) -> Iterator[tuple[T, int]]:
        """Yield ``of`` the values of each tensor for one batch, and how many samples are done."""
        size = self._samples.layout.size
        parts = self._samples.layout.parts(len(self._samples), size or self._batch())
        found = (map if self._fixed else on_cores)(lambda rows: of(self._values(rows)), parts)
        done = 0
        for rows, each in zip(parts, found, strict=True):
            done = min(done + len(rows), len(self._samples))
            yield each, done

    def _batch(self) -> int:
        one = sum(each.nbytes for each in self._values(np.arange(1)).values())
        return int(np.clip(_BATCH_BYTES // (usable_cores() * one), 1, _LARGEST_BATCH))

    def _values(self, rows: NDArray[np.intp]) -> dict[str, NDArray[np.float32]]:
        run = self._samples.run_of(rows)
        found = {**run, **self._graph(run)}
        return {name: found[name] for name in self.names}
