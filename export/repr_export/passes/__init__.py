"""The graph passes, in the one order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from repr_export.passes.constant_inputs import drop_constant_inputs
from repr_export.passes.fold_batchnorm import fold_batchnorm
from repr_export.passes.fold_constants import fold_constants
from repr_export.passes.fold_report import Folded, FoldReport, Refused
from repr_export.passes.infer_reshape_dim import infer_reshape_dim
from repr_export.passes.inline_functions import inline_functions
from repr_export.passes.lift_constants import lift_constants
from repr_export.passes.matmul_to_gemm import matmul_to_gemm
from repr_export.passes.remove_unused import remove_unused

__all__ = [
    "PIPELINE",
    "FoldReport",
    "Folded",
    "PassError",
    "PipelineReport",
    "Refused",
    "fold_batchnorm",
    "run_pipeline",
]

PIPELINE: tuple[Callable[[ir.Model], int | FoldReport], ...] = (
    inline_functions,
    drop_constant_inputs,
    fold_constants,
    lift_constants,
    infer_reshape_dim,
    remove_unused,  # before folding: a dead reader would count as a second consumer
    matmul_to_gemm,
    fold_batchnorm,
)
"""Each pass rewrites a model in place and returns what it did."""


@dataclass(frozen=True)
class PipelineReport:
    """What the passes did: the fate of each BatchNorm, and how much each pass changed."""

    fold: FoldReport
    changes: Mapping[str, int]


class PassError(RuntimeError):
    """A pass failed; the model is in the state that the passes before it left, or worse."""

    def __init__(self, failed: str, done: tuple[str, ...], cause: Exception) -> None:
        self.failed = failed
        self.done = done
        super().__init__(
            f"the graph pass {failed} failed after {', '.join(done) or 'no other'}: "
            f"{type(cause).__name__}: {cause}"
        )


def run_pipeline(model: ir.Model) -> PipelineReport:
    """Run :data:`PIPELINE` over ``model``, in place.

    Raises :class:`PassError` if a pass fails; the error names it and the passes already run.
    """
    changes: dict[str, int] = {}
    fold = FoldReport(0, (), ())
    for run in PIPELINE:
        try:
            result = run(model)
        except Exception as cause:
            raise PassError(run.__name__, tuple(changes), cause) from cause
        if isinstance(result, FoldReport):
            fold, result = result, len(result.folded)
        changes[run.__name__] = result
    return PipelineReport(fold, changes)
