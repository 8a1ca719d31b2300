"""A torch network becomes an `onnx_ir` model: traced by torch.export, not optimised by anyone."""

import contextlib
import inspect
import io
import logging
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx_ir as ir
import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from repr_export import collector
from repr_export.errors import CaptureError, first_line
from repr_export.sources.calling import INPUT_NAME, OUTPUT_NAME, Call, threads_for
from repr_export.sources.torchlib import unparsed


def capture(call: Call, *, batch: int | None, opset: int) -> ir.Model:
    """Trace a network in eval mode into a model with the inputs and outputs of ``call``.

    ``batch`` None keeps the batch size free. The exporter's own optimiser is off: it fuses
    BatchNorm uncounted, and has fused it wrongly before (pytorch issues 166797, 169178).
    Raises :class:`CaptureError`.
    """
    call.eval()
    example = _example(call, batch)
    outputs = list(run_once(call, batch))
    # A network of one tensor each way is traced as it is, without the call around it.
    plain = call.by_position and outputs == [OUTPUT_NAME]
    with quiet(), collector.paused(), unparsed():
        try:
            program = torch.onnx.export(
                call.network if plain else call,
                example,
                dynamo=True,
                optimize=False,
                opset_version=opset,
                dynamic_shapes=None if batch is not None else _free_batch(call, plain),
                input_names=[INPUT_NAME] if plain else None,
                output_names=outputs if plain else None,
                verbose=False,
            )
        except Exception as error:  # torch raises many kinds, all of them about this network
            fixed = "; if it needs a fixed batch size, give --batch N" if batch is None else ""
            raise CaptureError(f"torch cannot trace the network: {_cause(error, fixed)}") from error
    if program is None:
        raise CaptureError("torch.onnx.export returned nothing; update torch to 2.9 or later")
    model = program.model
    _name(model.graph, [entry.name for entry in call.inputs], outputs)
    for entry, value in zip(call.inputs, model.graph.inputs, strict=True):
        fixed_axis = value.shape is None or (
            entry.axis is not None and isinstance(value.shape[entry.axis], int)
        )
        if batch is None and fixed_axis:
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


def _free_batch(call: Call, plain: bool) -> tuple[object, ...]:
    """Each input's batch axis as free, of one size, in the structure of the arguments."""
    batch = torch.export.Dim("batch", min=1)
    axes = tuple({} if entry.axis is None else {entry.axis: batch} for entry in call.inputs)
    parameters = inspect.signature(call.network.forward).parameters.values()
    variadic = any(parameter.kind == parameter.VAR_POSITIONAL for parameter in list(parameters)[:1])
    return axes if plain and not variadic else (axes,)


def run_once(call: Call, batch: int | None) -> dict[str, torch.Tensor]:
    """The outputs of ``call`` by name, of its own samples; :class:`CaptureError` if it cannot be run."""
    example = _example(call, batch)
    with torch.no_grad(), quiet(), threads_for(call, example):
        try:
            outputs = call.outputs(*example)
        except CaptureError:
            raise
        except Exception as error:  # whatever the user's network raises
            raise failure(call, example, error) from error
    for name, output in outputs.items():
        if output.is_complex() or output.dtype == torch.bfloat16 or output.layout != torch.strided:
            raise CaptureError(
                f"the network returns {output.dtype} ({output.layout}) as {name}; let it return a dense "
                f"tensor of float32"
            )
    return outputs


def failure(call: Call, tensors: Sequence[torch.Tensor], error: Exception) -> CaptureError:
    """What to say of a network that fails on those inputs."""
    shown = [
        f"{str(t.dtype).removeprefix('torch.')} tensor of shape {tuple(t.shape)}" for t in tensors
    ]
    named = (f"{entry.name}, {text}" for entry, text in zip(call.inputs, shown, strict=True))
    said = f"one {shown[0]}" if call.by_position else " and ".join(named)
    return CaptureError(
        f"the network fails on {said}: {first_line(error)}; check --input and --samples FILE.npz, which "
        f"gives real inputs, and all that are not float32"
    )


def _example(call: Call, batch: int | None) -> tuple[torch.Tensor, ...]:
    # With a free batch the example must not be 1, which torch.export would take for a constant.
    return tuple(entry.tensor(2 if batch is None else batch) for entry in call.inputs)


def _name(graph: ir.Graph, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give the graph's inputs and outputs these names, and the weights those in the network.

    An output that is an input, a weight, or another output as well is one value, which has one
    name: an Identity makes two.
    """
    taken = {*inputs, *outputs}
    for value in [*graph.initializers.values()]:
        inner = str(value.name).removeprefix("network.")
        if inner not in taken and inner not in graph.initializers:
            value.name = inner
    nodes = ir.traversal.RecursiveGraphIterator(graph)
    values = [*graph.inputs, *(v for node in nodes for v in node.outputs)]
    for place, value in enumerate(values):
        if value.name in taken:
            value.name = f"{value.name}.{place}"
    for value, name in zip(graph.inputs, inputs, strict=True):
        value.name = name
    named: set[ir.Value] = set()
    for place, (output, name) in enumerate(zip([*graph.outputs], outputs, strict=True)):
        if output.is_graph_input() or output.is_initializer() or output in named:
            copy = ir.Value(name=name, shape=output.shape, type=output.type)
            graph.append(ir.node("Identity", [output], outputs=[copy]))
            graph.outputs[place] = copy
        else:
            output.name = name
            named.add(output)


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
