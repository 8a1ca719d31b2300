"""Does an artifact compute here what it computed at export? Its golden samples say."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_runtime.artifact.manifest import Manifest, TensorSpec
from repr_runtime.artifact.npz import read_npz
from repr_runtime.artifact.reading import read_file
from repr_runtime.errors import ArtifactError, MissingFileError, SelfTestError


@dataclass(frozen=True)
class SelfTestReport:
    """How far the golden samples' outputs are from the original network's.

    Of the output that is nearest to its bound: ``max_abs`` is the largest absolute
    difference, ``tolerance`` the largest allowed.
    """

    samples: int
    max_abs: float
    tolerance: float
    top1_agreement: float


@dataclass(frozen=True)
class Golden:
    """The samples of the artifact at ``path``: inputs, the original's outputs, what they may differ by.

    ``whole``: they are one batch, which must be run as such.
    """

    path: Path
    samples: int
    whole: bool
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]
    tolerances: dict[str, float]

    def compare(self, actual: Mapping[str, NDArray[Any]], choice: str) -> SelfTestReport:
        """How far ``actual`` is from the outputs, each of which has a tolerance of its own.

        ``choice`` says what ran. Raises :class:`SelfTestError` if one is too far, and
        :class:`ArtifactError` if it has another shape.
        """
        found = []
        agreement = 1.0
        for name, reference in self.outputs.items():
            values = actual[name]
            if reference.shape != values.shape:
                raise ArtifactError(
                    f"the golden samples of {self.path} have {name!r} of shape {reference.shape}, "
                    f"its graph gives {values.shape}; export it again"
                )
            with np.errstate(invalid="ignore"):  # of infinities; NaN is more than any tolerance
                gaps = np.abs(values.astype(np.float64) - reference)
            differences = np.where(values == reference, 0.0, gaps)  # as of the same infinities
            largest = float(differences.max(initial=0.0))
            found.append((_ratio(largest, self.tolerances[name]), largest, self.tolerances[name]))
            if reference.ndim == 2 and reference.size:
                same = values.argmax(1) == reference.argmax(1)
                agreement = min(agreement, float(np.mean(same)))
        ratio, worst, tolerance = max(found, key=lambda row: row[0])
        if ratio > 1:
            raise SelfTestError(
                f"{self.path} does not compute here what it computed at export: its golden samples "
                f"differ by up to {worst:.3g}, allowed is {tolerance:.3g} ({choice}); "
                f"try device='cpu', or export it again"
            )
        return SelfTestReport(self.samples, worst, tolerance, agreement)


def read_golden(
    path: Path,
    manifest: Manifest,
    graph: str,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> Golden:
    """The samples for the artifact's file ``graph``, which takes ``inputs`` and gives ``outputs``.

    Raises :class:`ArtifactError` if they are missing, altered or another network's.
    """
    entry = next((file for file in manifest.files if file.role == "golden"), None)
    if entry is None:
        raise MissingFileError(f"{path} has no golden samples; export it again")
    content = read_file(path, entry)
    try:
        receipt = manifest.receipts["golden"]
        stored = {f"input.{spec.name}": spec for spec in inputs}
        stored |= {f"output.{spec.name}": spec for spec in outputs}
        whole, samples = bool(manifest.inseparable), _count(receipt["samples"])

        def check(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
            spec = stored[name]
            expected = spec.shape if whole else (samples, *spec.shape[1:])
            same = dtype == spec.dtype or (spec.dtype == "float16" and dtype == np.float32)
            if not same or not _fits(shape, expected):
                raise ValueError(
                    f"{name} is {dtype}{list(shape)}, expected {spec.dtype}{list(expected)}"
                )

        arrays = read_npz(content, stored, check)
        tolerances = receipt.get("tolerances", {}).get(graph, receipt["tolerance"])
        return Golden(
            path=path,
            samples=samples,
            whole=whole,
            inputs={spec.name: cast(arrays[f"input.{spec.name}"], spec) for spec in inputs},
            outputs={spec.name: arrays[f"output.{spec.name}"] for spec in outputs},
            tolerances={spec.name: _tolerance(tolerances[spec.name]) for spec in outputs},
        )
    except Exception as error:  # what zipfile, zlib and numpy raise shares no base but this
        raise ArtifactError(
            f"{path / entry.path} holds no golden samples of the network ({error!r:.200}); "
            f"export it again"
        ) from error


def _count(value: object) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"the receipt says {value!r:.40} samples")
    return value


def _tolerance(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError(f"the receipt allows a difference of {value!r:.40}")
    return float(value)


def _fits(shape: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    """Whether an array can be of that shape, in which a name stands for any size."""
    return len(shape) == len(expected) and all(
        isinstance(b, str) or a == b for a, b in zip(shape, expected, strict=True)
    )


def cast(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """``array`` as float16 where the graph takes that in place of float32."""
    with np.errstate(over="ignore"):  # infinity is looked for by whoever runs it
        return array.astype(np.float16) if spec.dtype == "float16" else array


def _ratio(largest: float, allowed: float) -> float:
    """How much of what is allowed; NaN is more than anything."""
    if math.isnan(largest) or (allowed <= 0 and largest > 0):
        return math.inf
    return largest / allowed if allowed > 0 else 0.0
