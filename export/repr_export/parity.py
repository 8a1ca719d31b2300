"""Does the exported graph compute what the original network computes? The receipt, and the golden samples."""

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_export.errors import ParityError
from repr_export.samples import Arrays, CpuGraph, SampleSet, run_in_batches
from repr_export.source import Source

PARITY_BOUND = 1e-4
"""The largest difference of an output that an export may show, as a share of its range."""
ROUNDING_FACTOR = 4
"""How many times the original network's own rounding an export may differ, where that is more.

Some networks amplify rounding: a plain one of a hundred layers with drawn weights differs from
itself in float64 by more than the bound, and no graph in float32 could do better."""
ROUNDING_LIMIT = 0.02
"""The original's own rounding, as a share of the range, beyond which nothing can be proven."""

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
    """

    content: bytes
    samples: int
    description: str
    tolerance: dict[str, float]


@dataclass(frozen=True)
class Parity:
    """The proof that a graph is its network: the difference of each output, and golden samples."""

    differences: tuple[Difference, ...]
    golden: Golden

    def as_dict(self) -> dict[str, Any]:
        """The receipt as plain data that JSON can hold."""
        return {
            "summary": summarize(self.differences),
            "bound": PARITY_BOUND,
            "differences": [asdict(row) for row in self.differences],
        }


def prove_parity(
    source: Source,
    graph: bytes,
    sets: Sequence[SampleSet],
    batch: int | None,
    progress: Callable[[str], None],
) -> Parity:
    """Compare ``graph`` with ``source`` on each set; the first set gives the golden samples.

    ``batch`` is the graph's fixed batch size, or None. Raises :class:`ParityError` if any output
    is off by more than it is allowed.
    """
    differences: list[Difference] = []
    golden: list[Golden] = []
    run_graph = CpuGraph(graph)
    for samples in sets:
        expected = run_in_batches(source.reference, samples.inputs, batch)
        actual = run_in_batches(run_graph, samples.inputs, batch)
        rows = compare(samples, expected, actual)
        if not all(row.relative <= row.allowed for row in rows):
            progress("computing the original network in float64")
            exact = run_in_batches(source.exact, samples.inputs, batch)
            rows = allow_rounding(rows, expected, exact)
        differences += rows
        golden.append(_golden(samples, expected, rows))
    require_parity(differences)
    return Parity(tuple(differences), golden[0])


def _golden(samples: SampleSet, expected: Arrays, rows: Sequence[Difference]) -> Golden:
    count = min(GOLDEN_SAMPLES, len(samples))
    arrays: dict[str, NDArray[Any]] = {}
    for kind, named in (("input", samples.inputs), ("output", expected)):
        arrays |= {f"{kind}.{name}": values[:count] for name, values in named.items()}
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    tolerance = {row.output: row.allowed * output_range(expected[row.output]) for row in rows}
    return Golden(stream.getvalue(), count, samples.description, tolerance)


def compare(samples: SampleSet, expected: Arrays, actual: Arrays) -> tuple[Difference, ...]:
    """The difference of each output; raises :class:`ParityError` if shapes or names differ."""
    if list(expected) != list(actual):
        raise ParityError(f"the graph's outputs are {list(actual)}, the network's {list(expected)}")
    rows = []
    for name, reference in expected.items():
        values = actual[name]
        if values.shape != reference.shape:
            raise ParityError(
                f"output {name!r} has shape {values.shape}, expected {reference.shape}"
            )
        a, b = values.astype(np.float64), reference.astype(np.float64)
        spread = output_range(reference)
        max_abs = float(np.abs(a - b).max(initial=0.0))
        relative = max_abs / spread if spread > 0 else (0.0 if max_abs == 0 else float("inf"))
        classes = b.ndim == 2 and b.shape[1] > 1
        agreement = float(np.mean(a.argmax(1) == b.argmax(1))) if classes else None
        kind = (samples.name, samples.description, len(samples))
        rows.append(Difference(*kind, name, max_abs, spread, relative, agreement))
    return tuple(rows)


def allow_rounding(
    rows: Sequence[Difference], expected: Arrays, exact: Arrays
) -> tuple[Difference, ...]:
    """``rows`` with what each is allowed, where the original's own rounding exceeds the bound.

    ``expected`` is what the original computed in float32, ``exact`` what it computes in float64.
    """
    found = []
    for row in rows:
        gap = float(np.abs(expected[row.output].astype(np.float64) - exact[row.output]).max())
        own = gap / row.range if row.range > 0 else 0.0
        factor = ROUNDING_FACTOR if own <= ROUNDING_LIMIT else 0
        allowed = max(PARITY_BOUND, factor * own)
        found.append(replace(row, allowed=allowed, own_rounding=own))
    return tuple(found)


def output_range(values: NDArray[Any]) -> float:
    """Largest minus smallest value; where all are equal, their size."""
    wide = values.astype(np.float64)
    spread = float(wide.max() - wide.min()) if wide.size else 0.0
    return spread or float(np.abs(wide).max(initial=0.0))


def require_parity(differences: Sequence[Difference]) -> None:
    """Raise :class:`ParityError` if any output is off by more than it is allowed."""
    for row in differences:
        if not row.relative <= row.allowed:  # a NaN is off too
            raise ParityError(
                f"the exported graph is not the network: output {row.output!r} differs by up to "
                f"{row.max_abs:.3g}, {row.relative:.2g} of its range, on {row.count} samples "
                f"({row.description}); allowed is {row.allowed:.2g}. No artifact was written"
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
