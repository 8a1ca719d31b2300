"""The graph passes, in the one order in which they run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from repr_export.passes.affine_to_batchnorm import affine_to_batchnorm
from repr_export.passes.fold_batchnorm import fold_batchnorm
from repr_export.passes.fold_constants import fold_constants
from repr_export.passes.fold_scales import fold_scales
from repr_export.passes.infer_reshape_dim import infer_reshape_dim
from repr_export.passes.matmul_to_gemm import matmul_to_gemm
from repr_export.passes.remove_unused import remove_unused
from repr_export.passes.result import Folded, FoldReport, PassResult, Refused
from repr_export.passes.shortcut_to_conv import shortcut_to_conv
from repr_export.passes.shuffle_to_gather import shuffle_to_gather
from repr_export.passes.standard import drop_constant_inputs, inline_functions, lift_constants

__all__ = [
    "PIPELINE",
    "FoldReport",
    "Folded",
    "PassError",
    "PassResult",
    "PipelineReport",
    "Refused",
    "fold_batchnorm",
    "run_pipeline",
]

PIPELINE: tuple[Callable[[ir.Model], PassResult], ...] = (
    inline_functions,
    drop_constant_inputs,
    fold_constants,
    lift_constants,
    infer_reshape_dim,
    remove_unused,  # before folding: a dead reader would count as a second consumer
    matmul_to_gemm,
    fold_scales,  # before BatchNorm: one may stand between it and its Conv
    fold_batchnorm,
    shortcut_to_conv,
    shuffle_to_gather,
    affine_to_batchnorm,  # what no fold took
)
"""Each pass rewrites a model in place and returns what it did, as :class:`PassResult`."""


@dataclass(frozen=True)
class PipelineReport:
    """What the passes did: the fate of each BatchNorm, and the result of each pass by name."""

    fold: FoldReport
    results: Mapping[str, PassResult]


class PassError(RuntimeError):
    """A pass failed; the model is in the state that the passes before it left, or worse."""


def run_pipeline(model: ir.Model) -> PipelineReport:
    """Run :data:`PIPELINE` over ``model``, in place.

    Raises :class:`PassError` if a pass fails; the error names it and the passes already run.
    """
    results: dict[str, PassResult] = {}
    fold = FoldReport.of((), ())
    for run in PIPELINE:
        try:
            result = run(model)
        except Exception as cause:
            raise PassError(
                f"the graph pass {run.__name__} failed after {', '.join(results) or 'no other'}: "
                f"{type(cause).__name__}: {cause}"
            ) from cause
        if isinstance(result, FoldReport):
            fold = result
        results[run.__name__] = result
    fold = replace(
        fold,
        scales=results["fold_scales"].changed,
        shortcuts=results["shortcut_to_conv"].changed,
        shuffles=results["shuffle_to_gather"].changed,
        affines=results["affine_to_batchnorm"].changed,
    )
    return PipelineReport(fold, results)
