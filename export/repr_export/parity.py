"""Does the exported graph compute what the original network computes? The receipt, and the golden samples."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from repr_export.errors import ParityError, RunError, in_one_line, innermost
from repr_export.layers import CompareLayers, LayerReport
from repr_export.layout import Arrays, Layout
from repr_export.samples import CpuGraph, SampleSet
from repr_export.source import Source

PARITY_BOUND = 1e-4
"""The largest difference of an output that an export may show, as a share of its range."""
ROUNDING_FACTOR = 4
"""How many times the original network's own rounding an export may differ, where that is more.

Some networks amplify rounding: a plain one of a hundred layers with drawn weights differs from
itself in float64 by more than the bound, and no graph in float32 could do better."""
ROUNDING_LIMIT = 0.02
"""The original's own rounding, as a share of the range, beyond which nothing can be proven."""

_OF_FEW_RUNS = 1.5
_HALF = {onnx.TensorProto.FLOAT16: 2.0**-11, onnx.TensorProto.BFLOAT16: 2.0**-8}

GOLDEN_SAMPLES = 4


@dataclass(frozen=True)
class Difference:
    """How far one output is from the original network's on one set of samples.

    ``relative`` is ``max_abs / range``, where range is the spread (largest minus smallest
    value) of the original's output on the set. ``top1_agreement`` is the share of samples
    with the same largest class, None where the output has no classes. ``allowed`` is the
    largest ``relative`` that passes, and ``own_rounding``, where it decided, how far the
    original is from itself in float64, as a share of the range.
    """

    samples: str
    description: str
    count: int
    output: str
    max_abs: float
    range: float
    relative: float
    top1_agreement: float | None
    allowed: float = PARITY_BOUND
    own_rounding: float | None = None


@dataclass(frozen=True)
class Golden:
    """A few samples with the original network's outputs, as a file, and what it says of them.

    ``tolerance`` is by how much each output may differ from the golden one, by name.
    ``inseparable`` says why the samples were run as one batch and have to be again, as for a
    network that means over its batch; it is "" where each can be run alone.
    """

    content: bytes
    samples: int
    description: str
    tolerance: dict[str, float]
    inseparable: str = ""


@dataclass(frozen=True)
class Parity:
    """The proof that a graph is its network: the difference of each output, and golden samples."""

    differences: tuple[Difference, ...]
    golden: Golden
    layers: LayerReport | None = None

    def as_dict(self) -> dict[str, Any]:
        """The receipt as plain data that JSON can hold."""
        layers = {} if self.layers is None else {"layers": self.layers.as_dict()}
        return {
            **layers,
            "summary": summarize(self.differences),
            "bound": PARITY_BOUND,
            "differences": [asdict(row) for row in self.differences],
        }


def prove_parity(
    source: Source,
    graph: bytes,
    sets: Sequence[SampleSet],
    progress: Callable[[str], None],
    layers: CompareLayers | None = None,
) -> Parity:
    """Compare ``graph`` with ``source`` on each set; the first set gives the golden samples.

    Raises :class:`ParityError` if any output is off by more than it is allowed.
    """
    differences: list[Difference] = []
    of_first: tuple[Difference, ...] = ()
    run_graph: CpuGraph | None = None
    for samples in sets:
        runs = [samples.run_of(rows) for rows in samples.proof_runs()]
        expected = [source.reference(run) for run in runs]
        run_graph = run_graph or CpuGraph(graph)  # after the original, of which it is said first
        rows = compare(samples, expected, [run_graph(run) for run in runs])
        if not all(row.relative <= row.allowed for row in rows):
            progress("computing the original network in float64")
            exact = [source.exact(run) for run in runs]
            weights = onnx.load_from_string(graph).graph.initializer
            half = max((_HALF.get(weight.data_type, 0.0) for weight in weights), default=0.0)
            rows = allow_rounding(rows, expected, exact, half)
            if not all(row.relative <= row.allowed for row in rows):
                _require_repeatable(source, runs[0], expected[0])
                _require_defined(weights)
        differences += rows
        of_first = of_first or rows
    report = None if layers is None else layers(graph, "fp32")
    require_parity(differences, report)
    bounds = {row.output: row.allowed * row.range for row in of_first}
    return Parity(tuple(differences), _golden(source, sets[0], bounds), report)


def _require_repeatable(source: Source, run: Arrays, outputs: Arrays) -> None:
    for name, values in source.reference(run).items():
        if not np.array_equal(values, outputs[name], equal_nan=values.dtype.kind == "f"):
            raise ParityError(
                f"the network itself gives another output {name!r} each time it runs on the same "
                f"inputs: it draws at random, or changes its own state; take that out, as eval mode does"
            )


def _require_defined(weights: Iterable[onnx.TensorProto]) -> None:
    for weight in weights:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise ParityError(
                f"nothing can be proven: weight {weight.name!r} holds NaN; train the network again, or "
                f"take an earlier checkpoint"
            )


def _golden(source: Source, samples: SampleSet, bounds: Mapping[str, float]) -> Golden:
    """Golden samples: a few, or where they cannot stand alone, those of one whole run.

    The outputs that are stored are of one run, as the runtime makes it.
    """
    size = samples.layout.size
    rows = np.arange(size or min(GOLDEN_SAMPLES, len(samples)))
    run = samples.run_of(rows)
    outputs = source.reference(run)
    # The first sample among copies of itself, or alone: nothing of its neighbours is in its answer.
    try:
        alone = source.reference(samples.run_of(np.zeros_like(rows) if size else rows[:1]))
    except RunError as error:
        reason = f"it does not run on a sample alone ({in_one_line(innermost(error))})"
    else:
        reason = why_not_per_sample(samples.layout, outputs, alone, len(rows), bounds)
    if not reason:
        rows = rows[:GOLDEN_SAMPLES]
        run = {name: values[rows] for name, values in run.items()}
        outputs = {name: values[rows] for name, values in outputs.items()}
    arrays = {f"input.{name}": values for name, values in run.items()}
    arrays |= {f"output.{name}": values for name, values in outputs.items()}
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return Golden(stream.getvalue(), len(rows), samples.description, dict(bounds), reason)


def why_not_per_sample(
    layout: Layout, outputs: Arrays, alone: Arrays, count: int, bounds: Mapping[str, float]
) -> str:
    """Why samples of this network cannot be joined and answered apart, or "".

    ``outputs`` are of a run of ``count`` samples, ``alone`` those of the first among nothing but
    itself. A difference counts if it is more than ``bounds`` allow an export.
    """
    if layout.alone:
        return layout.alone
    for name, axis in layout.axes.items():
        if axis != 0:
            return f"input {name!r} has no row for each sample"
    for name, values in outputs.items():
        if not values.ndim or len(values) != count:
            return f"output {name!r} has no row for each sample"
        if values[0].shape != alone[name][0].shape:
            return f"the shape of output {name!r} depends on the values in its batch"
        gap = largest_gap(values[0], alone[name][0]) if count > 1 else 0.0
        if not gap <= bounds[name]:
            return (
                f"output {name!r} of a sample depends on the others of its batch, "
                f"by up to {gap:.2g}"
            )
    return ""


def compare(
    samples: SampleSet, expected: Sequence[Arrays], actual: Sequence[Arrays]
) -> tuple[Difference, ...]:
    """The difference of each output over all runs.

    Raises :class:`ParityError` if shapes or names differ.
    """
    rows = []
    for theirs, ours in zip(expected, actual, strict=True):
        if list(theirs) != list(ours):
            raise ParityError(f"the graph's outputs are {list(ours)}, the network's {list(theirs)}")
        for name, reference in theirs.items():
            if ours[name].shape != reference.shape:
                raise ParityError(
                    f"output {name!r} has shape {ours[name].shape}, expected {reference.shape}"
                )
    for name in expected[0]:
        pairs = [(ours[name], theirs[name]) for ours, theirs in zip(actual, expected, strict=True)]
        spread = output_range(np.concatenate([theirs.ravel() for _, theirs in pairs]))
        max_abs = max(largest_gap(*pair) for pair in pairs)
        relative = max_abs / spread if spread > 0 else (0.0 if max_abs == 0 else float("inf"))
        agreement = None
        if all(theirs.ndim == 2 and theirs.size and theirs.shape[1] > 1 for _, theirs in pairs):
            same = [ours.argmax(1) == theirs.argmax(1) for ours, theirs in pairs]
            agreement = float(np.concatenate(same).mean())
        kind = (samples.name, samples.description, len(samples))
        rows.append(Difference(*kind, name, max_abs, spread, relative, agreement))
    return tuple(rows)


def largest_gap(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The largest absolute difference of two arrays; where both are the same infinity, none.

    NaN where one has a NaN, or they have two infinities.
    """
    wide, other = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return float(np.where(wide == other, 0.0, np.abs(wide - other)).max(initial=0.0))


def allow_rounding(
    rows: Sequence[Difference],
    expected: Sequence[Arrays],
    exact: Sequence[Arrays | None],
    least: float = 0.0,
) -> tuple[Difference, ...]:
    """``rows`` with what each is allowed, where the original's own rounding exceeds the bound.

    ``expected`` is what the original computed in each run, ``exact`` what it computes in
    float64, None where that is not known. ``least`` is a share of the range that the original is off
    by at least, wherever it runs as written: a CPU may do better.
    """
    pairs = [(own, wide) for own, wide in zip(expected, exact, strict=True) if wide is not None]
    if not pairs and not least:
        return tuple(rows)
    found = []
    for row in rows:
        gaps = (largest_gap(own[row.output], wide[row.output]) for own, wide in pairs)
        own = max(max(gaps, default=0.0) / row.range, least) if row.range > 0 else 0.0
        # The largest of a few runs is less than the largest of all.
        certain = 1 if len(pairs) == len(expected) else _OF_FEW_RUNS
        factor = ROUNDING_FACTOR * certain if own <= ROUNDING_LIMIT else 0
        allowed = max(PARITY_BOUND, factor * own)
        found.append(replace(row, allowed=allowed, own_rounding=own))
    return tuple(found)


def output_range(values: NDArray[Any]) -> float:
    """Largest minus smallest finite value; where all are equal, their size."""
    wide = values.astype(np.float64)
    wide = wide[np.isfinite(wide)]
    spread = float(wide.max() - wide.min()) if wide.size else 0.0
    return spread or float(np.abs(wide).max(initial=0.0))


def require_parity(differences: Sequence[Difference], layers: LayerReport | None = None) -> None:
    """Raise :class:`ParityError` if any output is off by more than it is allowed; ``layers`` say where."""
    where = "" if layers is None else f". Layer by layer: {layers}"
    for row in differences:
        if not np.isfinite(row.max_abs):
            raise ParityError(
                f"nothing can be proven of output {row.output!r}: it is infinite or undefined on "
                f"{row.count} samples ({row.description}); give some that it is made for with --samples"
            )
        if not row.relative <= row.allowed:  # a NaN is off too
            raise ParityError(
                f"the exported graph is not the network: output {row.output!r} differs by up to "
                f"{row.max_abs:.3g}, {row.relative:.2g} of its range, on {row.count} samples "
                f"({row.description}); allowed is {row.allowed:.2g}{where}. No artifact was written"
            )


def summarize(differences: Sequence[Difference]) -> str:
    """One sentence for a person."""
    worst = max(differences, key=lambda row: row.relative)
    agreements = [row.top1_agreement for row in differences if row.top1_agreement is not None]
    same = f", top-1 agreement {min(agreements):.2%}" if agreements else ""
    per_set = {row.samples: row for row in differences}.values()
    counts = " and ".join(f"{row.count} {row.samples}" for row in per_set)
    because = ""
    if worst.own_rounding is not None and worst.allowed != PARITY_BOUND:
        because = ", since the network in float32 is off from itself in float64 by "
        because += f"{worst.own_rounding:.1g}"
    return (
        f"largest difference {worst.max_abs:.2g}, {worst.relative:.1g} of the outputs' range "
        f"(allowed {worst.allowed:.2g}{because}){same}; on {counts} samples"
    )
