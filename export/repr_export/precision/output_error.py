"""What a lower precision costs a network without classes: the relative error of each output."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_export.errors import PrecisionError
from repr_export.layers import MAX_ERROR, relative_error


@dataclass(frozen=True)
class OutputError:
    """How far one output is from the original's, over all samples.

    ``relative`` is the Euclidean norm of the difference over that of the original, ``cosine`` the
    cosine of the angle between the two. Of an output of integers ``relative`` is the share that
    differs, and there is no cosine.
    """

    output: str
    relative: float
    cosine: float | None


def compare_outputs(
    outputs: Mapping[str, NDArray[Any]], reference: Mapping[str, NDArray[Any]], precision: str
) -> tuple[OutputError, ...]:
    """The error of each of ``outputs``; both by name, of the same samples.

    Raises :class:`PrecisionError` for one of another size, or with values that are not finite where
    the original's are.
    """
    rows = []
    for name, theirs in reference.items():
        ours = outputs[name]
        if ours.shape != theirs.shape:
            raise PrecisionError(
                f"in {precision} the output {name!r} has another shape, {ours.shape} in place of "
                f"{theirs.shape}: it depends on the values; leave --{precision} out"
            )
        if theirs.dtype.kind != "f":
            rows.append(OutputError(name, float(np.mean(ours != theirs)), None))
            continue
        finite = np.isfinite(theirs)
        a, b = ours[finite].astype(np.float64), theirs[finite].astype(np.float64)
        if not np.isfinite(a).all():
            raise PrecisionError(
                f"the {precision} graph gives values of {name!r} that are not finite: a value "
                f"overflows; leave --{precision} out"
            )
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        cosine = float(a @ b) / norms if norms else float(a.any() == b.any())
        rows.append(OutputError(name, relative_error(a, b), cosine))
    return tuple(rows)


def error_receipt(
    rows: tuple[OutputError, ...], precision: str, description: str, samples: int
) -> dict[str, Any]:
    """The receipt as plain data; raises :class:`PrecisionError` for an error over :data:`MAX_ERROR`."""
    bound = MAX_ERROR[precision]
    worst = max(rows, key=lambda row: row.relative)
    cosine = "" if worst.cosine is None else f", cosine {worst.cosine:.5f}"
    summary = f"relative error at most {worst.relative:.2g} ({worst.output!r}{cosine})"
    if not worst.relative <= bound:
        raise PrecisionError(
            f"{precision}: {summary}, allowed is {bound:g}, on {samples} samples ({description}); the "
            "first output has no classes, so that each output's error is judged; leave the precision "
            "out, or give samples of the network's own data with --samples"
        )
    return {
        "summary": f"{summary}, as it has no classes",
        "description": description,
        "max_error": bound,
        "outputs": [asdict(row) for row in rows],
    }
