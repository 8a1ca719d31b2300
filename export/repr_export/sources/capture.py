"""A torch network becomes an `onnx_ir` model: traced by torch.export, not optimised by anyone."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx_ir as ir
import torch
from torch import nn

from repr_export.errors import CaptureError, first_line

INPUT_NAME = "input"
OUTPUT_NAME = "logits"


def capture(
    network: nn.Module, input_shape: tuple[int, ...], *, batch: int | None, opset: int
) -> ir.Model:
    """Trace ``network`` in eval mode into a model with one input (batch, *input_shape) float32.

    ``batch`` None keeps the batch size free. The exporter's own optimiser is off: it fuses
    BatchNorm uncounted, and has fused it wrongly before (pytorch issues 166797, 169178).
    Raises :class:`CaptureError`.
    """
    network = network.eval()
    # With a free batch the example must not be 1, which torch.export would take for a constant.
    example = torch.zeros(2 if batch is None else batch, *input_shape)
    dynamic = None if batch is not None else ({0: torch.export.Dim("batch", min=1)},)
    with torch.no_grad():
        try:
            output = network(example)
        except Exception as error:  # whatever the user's network raises
            raise CaptureError(
                f"the network fails on an input of shape {tuple(example.shape)}: {first_line(error)}; "
                f"check --input"
            ) from error
    if not isinstance(output, torch.Tensor):
        raise CaptureError(
            f"the network returns {type(output).__name__}, expected one tensor; wrap it in a module "
            f"that returns the tensor to deploy"
        )
    with _quiet():
        try:
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                optimize=False,
                opset_version=opset,
                dynamic_shapes=dynamic,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                verbose=False,
            )
        except Exception as error:  # torch raises many kinds, all of them about this network
            hint = "; if it needs a fixed batch size, give --batch N" if batch is None else ""
            raise CaptureError(f"torch cannot trace the network: {_cause(error)}{hint}") from error
    if program is None:
        raise CaptureError("torch.onnx.export returned nothing; update torch to 2.9 or later")
    model = program.model
    shape = model.graph.inputs[0].shape
    if batch is None and (shape is None or isinstance(shape[0], int)):
        # The exporter fixes a dimension rather than fail.
        raise CaptureError(
            "the network works for one batch size alone (torch fixed it while tracing); "
            "give it with --batch N"
        )
    got = model.opset_imports.get("")
    if got != opset:
        raise CaptureError(
            f"torch wrote opset {got}, not {opset}: it cannot convert this network; use --opset {got}"
        )
    return model


def _cause(error: BaseException) -> str:
    """The innermost cause: torch wraps it in reports of many lines."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's reports and warnings, none of which is about the user's network."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
