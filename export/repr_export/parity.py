"""Receipts: does the exported graph compute what the original network computes?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from repr_export.errors import GraphError, OptionError, ParityError, first_line
from repr_models.data.cifar10 import bundled_subset
from repr_runtime.artifact.manifest import PreprocessingInfo, TensorSpec
from repr_runtime.preprocess import preprocess

PARITY_BOUND = 1e-4
"""The largest difference of an output that an export may show, as a share of its range."""
ROUNDING_FACTOR = 4
"""How many times the original network's own rounding an export may differ, where that is more.

Some networks amplify rounding: a plain one of a hundred layers with drawn weights differs from
itself in float64 by more than the bound, and no graph in float32 could do better."""
ROUNDING_LIMIT = 0.02
"""The original's own rounding, as a share of the range, beyond which nothing can be proven."""

GOLDEN_SAMPLES = 4
_WORK = 20e9  # multiply-adds to spend on each set of samples
_FEWEST, _MOST = 8, 256
_NEUTRAL_MEAN, _NEUTRAL_STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

Arrays = Mapping[str, NDArray[Any]]
Network = Callable[[Arrays], dict[str, NDArray[Any]]]


@dataclass(frozen=True)
class SampleSet:
    """Inputs to compare on, by name, and a sentence that says what they are."""

    name: str
    description: str
    inputs: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


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


def run_graph(graph: bytes, inputs: Arrays, *, optimize: bool = True) -> dict[str, NDArray[Any]]:
    """Run an ONNX graph on the CPU; raises :class:`GraphError` if it cannot be."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except Exception as error:  # its exceptions share no base but this
        raise GraphError(f"ONNX Runtime cannot run the graph: {first_line(error)}") from error


def sample_sets(
    specs: Sequence[TensorSpec],
    preprocessing: PreprocessingInfo | None,
    input_shape: tuple[int, ...] | None,
    multiply_adds: int | None,
) -> tuple[SampleSet, ...]:
    """Real images, where the network takes RGB images, and noise of about their statistics.

    The number of samples follows from the network's size. ``input_shape`` stands in for
    free dimensions behind the batch. Raises :class:`OptionError` if one is still free.
    """
    count = int(np.clip(_WORK / max(multiply_adds or 1e9, 1), _FEWEST, _MOST))
    batch = specs[0].shape[0] if specs[0].shape else None
    if isinstance(batch, int):
        count = -(-count // batch) * batch  # whole batches
    shapes = {spec.name: _sample_shape(spec, input_shape, len(specs)) for spec in specs}
    generator = np.random.default_rng(0)
    noise = {spec.name: _noise(generator, spec, (count, *shapes[spec.name])) for spec in specs}
    sets = [SampleSet("noise", "Gaussian noise, mean 0, deviation 1, seed 0", noise)]
    shape = shapes[specs[0].name]
    if len(specs) == 1 and specs[0].dtype == "float32" and len(shape) == 3 and shape[0] == 3:
        crop = (shape[1], shape[2])
        info = preprocessing or PreprocessingInfo(max(crop), crop, _NEUTRAL_MEAN, _NEUTRAL_STD)
        subset = bundled_subset()
        chosen = np.resize(np.arange(len(subset)), count)
        images = preprocess(subset.images[chosen], info)
        description = f"CIFAR-10 test images, the first {count} of the bundled subset"
        sets.insert(0, SampleSet("real", description, {specs[0].name: images}))
    return tuple(sets)


def _sample_shape(
    spec: TensorSpec, input_shape: tuple[int, ...] | None, inputs: int
) -> tuple[int, ...]:
    sizes = spec.shape[1:]
    if input_shape is not None and inputs == 1:
        fits = len(sizes) == len(input_shape) and all(
            isinstance(a, str) or a == b for a, b in zip(sizes, input_shape, strict=True)
        )
        if not fits:
            raise OptionError(
                f"--input {'x'.join(map(str, input_shape))} does not fit the graph's input {spec}"
            )
        return input_shape
    free = [size for size in sizes if isinstance(size, str)]
    if free:
        raise OptionError(
            f"the input {spec} leaves {', '.join(free)} free; give one sample's shape, such as "
            f"--input 3x224x224"
        )
    return tuple(size for size in sizes if isinstance(size, int))


def _noise(
    generator: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...]
) -> NDArray[Any]:
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    # 0 and 1 are valid as indices, masks and flags alike.
    return generator.integers(0, 2, shape).astype(dtype)


def run_in_batches(network: Network, inputs: Arrays, batch: int | None) -> dict[str, NDArray[Any]]:
    """``network`` on all of ``inputs``: in batches of ``batch``, or where that is free, of 1 and more."""
    count = len(next(iter(inputs.values())))
    # A free batch size is tried as 1, as 2, and as all the rest.
    cuts = list(range(0, count, batch)) if batch else [c for c in (0, 1, 3) if c < count]
    parts = [
        network({name: values[begin:end] for name, values in inputs.items()})
        for begin, end in zip(cuts, [*cuts[1:], count], strict=True)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


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
        rows.append(
            Difference(
                samples.name,
                samples.description,
                len(samples),
                name,
                max_abs,
                spread,
                relative,
                agreement,
            )
        )
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
        allowed = (
            max(PARITY_BOUND, ROUNDING_FACTOR * own) if own <= ROUNDING_LIMIT else PARITY_BOUND
        )
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
    counts = " and ".join(f"{row.count} {row.samples}" for row in _one_per_set(differences))
    return (
        f"largest difference {worst.max_abs:.2g}, {worst.relative:.1g} of the outputs' range "
        f"(allowed {worst.allowed:.2g}{_because(worst)}){same}; on {counts} samples"
    )


def _because(row: Difference) -> str:
    if row.own_rounding is None or row.allowed == PARITY_BOUND:
        return ""
    return f", since the network in float32 is off from itself in float64 by {row.own_rounding:.1g}"


def _one_per_set(differences: Sequence[Difference]) -> list[Difference]:
    return list({row.samples: row for row in differences}.values())
