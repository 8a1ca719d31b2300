"""A torch network becomes an `onnx_ir` model: traced by torch.export, not optimised by anyone."""

import contextlib
import inspect
import io
import logging
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

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
    example = _example(input_shape, batch)
    dynamic = None if batch is not None else _free_batch(network)
    output_shape(network, input_shape, batch)
    with quiet():
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
            fixed = "; if it needs a fixed batch size, give --batch N" if batch is None else ""
            raise CaptureError(f"torch cannot trace the network: {_cause(error, fixed)}") from error
    if program is None:
        raise CaptureError("torch.onnx.export returned nothing; update torch to 2.9 or later")
    model = program.model
    _separate(model.graph)
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


def _free_batch(network: nn.Module) -> tuple[object, ...]:
    """The one input's first dimension as free, in the structure of the network's own arguments."""
    first = {0: torch.export.Dim("batch", min=1)}
    parameters = inspect.signature(network.forward).parameters.values()
    variadic = any(parameter.kind == parameter.VAR_POSITIONAL for parameter in list(parameters)[:1])
    return ((first,),) if variadic else (first,)


def output_shape(
    network: nn.Module, input_shape: tuple[int, ...], batch: int | None
) -> tuple[int, ...]:
    """The shape of the tensor that ``network`` makes of zeros; :class:`CaptureError` if it makes none."""
    example = _example(input_shape, batch)
    with torch.no_grad(), quiet():
        try:
            output = network(example)
        except Exception as error:  # whatever the user's network raises
            raise CaptureError(
                f"the network fails on one float32 tensor of shape {tuple(example.shape)}: "
                f"{first_line(error)}; check --input, or give FILE.onnx if it takes anything else"
            ) from error
    if not isinstance(output, torch.Tensor):
        raise CaptureError(
            f"the network returns {type(output).__name__}, expected one tensor; wrap it in a module "
            f"that returns the tensor to deploy, or give FILE.onnx, which may have several outputs"
        )
    if output.is_complex() or output.dtype == torch.bfloat16 or output.layout != torch.strided:
        raise CaptureError(
            f"the network returns {output.dtype} ({output.layout}); let it return a dense tensor of "
            f"float32"
        )
    return tuple(output.shape)


def _example(input_shape: tuple[int, ...], batch: int | None) -> torch.Tensor:
    # With a free batch the example must not be 1, which torch.export would take for a constant.
    return torch.zeros(2 if batch is None else batch, *input_shape)


def _separate(graph: ir.Graph) -> None:
    """An input that is the output as well is one value, which has one name: an Identity makes two."""
    (output,) = graph.outputs
    if output.is_graph_input():
        output.name = INPUT_NAME
        copy = ir.Value(name=OUTPUT_NAME, shape=output.shape, type=output.type)
        graph.append(ir.node("Identity", [output], outputs=[copy]))
        graph.outputs[0] = copy


def _cause(error: BaseException, hint: str) -> str:
    """The innermost cause, which torch wraps in reports of many lines, and the way out."""
    where = ""
    while True:
        for frame in traceback.extract_tb(error.__traceback__):
            if not frame.filename.startswith((*torch.__path__, str(Path(__file__).parent), "<")):
                where = f" ({Path(frame.filename).name}, line {frame.lineno}: {frame.line})"
        if error.__cause__ is None:
            break
        error = error.__cause__
    if isinstance(error, GuardOnDataDependentSymNode):
        return (
            f"what it does depends on the values in a tensor{where}, and a graph does the same for all; "
            f"choose by torch.where or torch.cond"
        )
    said = first_line(error)
    if "No ONNX function found" in said:
        hint = "; ONNX has no such operator, do the same with others"
    return f"{said}{where}{hint}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what torch and the network report, warn and print: what matters is in their errors."""
    level, nowhere = logging.root.manager.disable, io.StringIO()
    logging.disable()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
