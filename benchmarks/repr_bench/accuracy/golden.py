"""The golden samples through the very session that is timed: how far it is from the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repr_bench.accuracy.reference import ORIGINAL
from repr_bench.results.graph import Agreement, AgreementCount, Difference
from repr_runtime.errors import MissingFileError
from repr_runtime.self_test import read_golden

if TYPE_CHECKING:
    from repr_bench.request import Tolerance
    from repr_runtime import Session
    from repr_runtime.self_test import Golden


def compare_golden(
    session: Session, tolerance: Tolerance | None
) -> tuple[Difference | None, Agreement | None]:
    """How far ``session`` is from the original's outputs, and whether its classes are the same.

    ``tolerance`` None is the artifact's own. No difference without golden samples, no agreement
    where the first output has no classes. Raises :class:`repr_runtime.errors.ArtifactError` if
    the samples are damaged, or missing where a tolerance is given, and what running them raises.
    """
    try:
        golden = read_golden(
            session.path, session.manifest, session.graph, session.inputs, session.outputs
        )
    except MissingFileError:
        if tolerance is not None:
            raise
        return None, None
    actual = session.run(golden.inputs) if golden.whole else session.run_all(golden.inputs)
    found = {name: _difference(golden, name, actual[name], tolerance) for name in golden.outputs}
    _, furthest = max(found.values(), key=lambda pair: pair[0])
    return furthest, _agreement(session, golden, actual)


def _difference(
    golden: Golden, name: str, actual: NDArray[Any], tolerance: Tolerance | None
) -> tuple[float, Difference]:
    """How many times its bound the output ``name`` is off, and the difference."""
    original = golden.outputs[name].astype(np.float64)
    values = actual.astype(np.float64)
    if values.shape != original.shape:
        raise ValueError(f"{name!r} has shape {values.shape}, the original {original.shape}")
    atol = golden.tolerances[name] if tolerance is None else tolerance.atol
    rtol = 0.0 if tolerance is None else tolerance.rtol
    with np.errstate(invalid="ignore", divide="ignore"):
        off = np.where(values == original, 0.0, np.abs(values - original))
        times = np.where(off == 0, 0.0, off / (atol + rtol * np.abs(original)))
    # What is no number, or off by infinity, is off by more than anything.
    most = float(np.nan_to_num(times, nan=np.inf, posinf=np.inf).max(initial=0.0))
    largest = float(off.max(initial=0.0))
    shown = largest if np.isfinite(largest) else None
    return most, Difference(name, shown, atol, rtol, most <= 1, golden.samples)


def _agreement(session: Session, golden: Golden, actual: Any) -> Agreement | None:
    name, original = next(iter(golden.outputs.items()))
    entry = next(file for file in session.manifest.files if file.role == "golden")
    if original.ndim != 2 or original.shape[1] < 2 or original.dtype.kind != "f":
        return None
    if not (np.isfinite(original).all() and np.isfinite(actual[name]).all()):
        return None
    count = AgreementCount()
    count.add(original, actual[name])
    what = session.manifest.receipts["golden"].get("description", "")
    description = f"{golden.samples} golden samples" + (f" ({what})" if what else "")
    return count.finish(ORIGINAL, description, entry.sha256)
