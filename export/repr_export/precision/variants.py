"""The lower precisions of an artifact: each a graph, with the receipts that judge it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from repr_export.errors import GraphError, OptionError
from repr_export.graph.serialize import serialize
from repr_export.graph.values import node_name
from repr_export.parity import GOLDEN_SAMPLES, output_range
from repr_export.precision.evaluation import Evaluation
from repr_export.precision.half.convert import Io, to_half
from repr_export.precision.half.emulate import emulate_half
from repr_export.precision.half.formats import HalfName
from repr_export.precision.int8.calibration import (
    CalibrationSet,
    bundled_calibration,
    folder_calibration,
)
from repr_export.precision.int8.quantizable import FLAVOURS, Flavour
from repr_export.precision.int8.quantize import Quantized, quantize
from repr_export.precision.int8.ranges import Ranges, measure_ranges
from repr_export.precision.int8.sensitivity import Bisection, bisect, scan
from repr_export.precision.options import MAX_DROP, PrecisionOptions
from repr_export.precision.receipt import (
    AccuracyReceipt,
    compare_accuracy,
    read_precision,
    require_accuracy,
    require_precision,
    wilson_interval,
)
from repr_runtime.artifact.manifest import PreprocessingInfo

LEAST_SQNR_DB = 12.0
"""A node that alone in int8 leaves the output less signal over noise than this stays in fp32."""

# What a golden sample may differ by, as a share of the outputs' range, where it differed by less
# on this machine: another machine adds in another order, and rounds other values the other way.
_GOLDEN_SHARE = {"fp16": 1e-3, "bf16": 1e-2, "int8": 2e-2}
_GOLDEN_FACTOR = 3.0
_OVERFLOW_SAMPLES = 256

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """A graph of the artifact: its precision, what it is for, its bytes and its receipts.

    ``golden`` is by how much each output may differ from the golden one, by name.
    """

    precision: str
    target: str
    path: str
    graph: bytes
    golden: dict[str, float]
    receipts: dict[str, Any]


def make_variants(
    model: ir.Model,
    graph: bytes,
    evaluation: Evaluation,
    preprocessing: PreprocessingInfo | None,
    options: PrecisionOptions,
    progress: Progress,
) -> list[Variant]:
    """The graphs of ``options.names``, each within its bounds, from the folded fp32 ``model``.

    ``graph`` is the same as bytes. Raises :class:`repr_export.errors.PrecisionError` for one
    that did not come out in its precision or loses too much, and what the makers raise.
    """
    variants = []
    for name in dict.fromkeys(options.names):
        if name == "int8":
            variants += _int8(graph, evaluation, preprocessing, options, progress)
        else:
            progress(f"writing {name} into the graph")
            variants.append(_half(model, "bf16" if name == "bf16" else "fp16", evaluation, options))
    return variants


def _half(
    model: ir.Model, name: HalfName, evaluation: Evaluation, options: PrecisionOptions
) -> Variant:
    copy = model.clone()
    count = min(_OVERFLOW_SAMPLES, len(evaluation.samples))
    if evaluation.batch is not None:
        count = max(count // evaluation.batch, 1) * evaluation.batch
    samples = {
        key: np.resize(values, (count, *values.shape[1:]))
        for key, values in evaluation.samples.inputs.items()
    }
    io: Io = "half" if name == "fp16" and options.io == "fp16" else "fp32"
    # Logits of bf16 have eight bits: two classes that are near become equal.
    keep = _last_layer(copy) if name == "bf16" else ()
    report = to_half(copy, name, io=io, keep=keep, samples=samples)
    receipt = read_precision(copy)
    require_precision(receipt, name)
    # ONNX Runtime's CPU kernels would skip the rounding: the emulation does not.
    emulated = serialize(emulate_half(copy))
    outputs = _widened_run(emulated, evaluation, io)
    accuracy = _judge(name, outputs, evaluation, options)
    return Variant(
        name,
        "any",
        f"model.{name}.onnx",
        serialize(copy),
        _golden_bounds(name, outputs, evaluation),
        {
            "summary": f"{receipt}; {accuracy['summary']}; {report}",
            "conversion": report.as_dict(),
            "precision": receipt.as_dict(),
            "accuracy": accuracy,
        },
    )


def _last_layer(model: ir.Model) -> tuple[str, ...]:
    """The name of the node that makes the logits, if it is a matrix product."""
    producer = model.graph.outputs[0].producer()
    if producer is None or producer.op_type not in ("Gemm", "MatMul"):
        return ()
    return (node_name(producer),)


def _widened_run(graph: bytes, evaluation: Evaluation, io: Io) -> dict[str, NDArray[Any]]:
    if io == "fp32":
        return evaluation.run(graph)
    halved = {
        name: values.astype(np.float16) if values.dtype == np.float32 else values
        for name, values in evaluation.samples.inputs.items()
    }
    narrow = replace(evaluation, samples=replace(evaluation.samples, inputs=halved))
    return {name: values.astype(np.float32) for name, values in narrow.run(graph).items()}


def _int8(
    graph: bytes,
    evaluation: Evaluation,
    preprocessing: PreprocessingInfo | None,
    options: PrecisionOptions,
    progress: Progress,
) -> list[Variant]:
    calibration = _calibration(preprocessing, options)

    def tell(what: str, done: int, total: int) -> None:
        progress(f"int8: {what}, {done} of {total}")

    ranges = measure_ranges(graph, calibration, options.method, progress=tell)
    variants = []
    for flavour in FLAVOURS:
        made, search = _search(graph, ranges, calibration, evaluation, options, flavour, tell)
        progress(f"int8: judging the graph for {flavour}")
        outputs = evaluation.run(made.graph)
        receipt = read_precision(ir.from_proto(onnx.load_model_from_string(made.graph)))
        accuracy = _judge("int8", outputs, evaluation, options)
        suffix = "" if flavour == "tensorrt" else f"-{flavour}"
        variants.append(
            Variant(
                "int8",
                flavour,
                f"model.int8{suffix}.onnx",
                made.graph,
                _golden_bounds("int8", outputs, evaluation),
                {
                    "summary": f"{receipt}; {accuracy['summary']}{_searched(search)}",
                    "conversion": made.report.as_dict(),
                    "calibration_sha256": calibration.sha256,
                    "search": search,
                    "precision": receipt.as_dict(),
                    "accuracy": accuracy,
                },
            )
        )
    return variants


def _calibration(
    preprocessing: PreprocessingInfo | None, options: PrecisionOptions
) -> CalibrationSet:
    if preprocessing is None:
        raise OptionError("int8 needs to know how images become inputs; give --mean and --std")
    if options.calibration is None:
        return bundled_calibration(preprocessing)
    return folder_calibration(options.calibration, preprocessing)


def _search(
    graph: bytes,
    ranges: Ranges,
    calibration: CalibrationSet,
    evaluation: Evaluation,
    options: PrecisionOptions,
    flavour: Flavour,
    tell: Callable[[str, int, int], None],
) -> tuple[Quantized, dict[str, Any]]:
    """The int8 graph, and which nodes were kept out of it: by bisection, or by the scan alone."""
    if options.bisect:
        found: Bisection = bisect(
            graph,
            ranges,
            calibration,
            evaluation.accuracy,
            flavour=flavour,
            reference=evaluation_reference(evaluation),
            max_drop=_bound("int8", options),
            progress=tell,
        )
        return found.quantized, {"by": "bisection", "summary": str(found), **found.as_dict()}
    ranked = scan(graph, ranges, calibration, flavour=flavour, progress=tell)
    exclude = [row.node for row in ranked if row.sqnr_db < LEAST_SQNR_DB]
    if len(exclude) == len(ranked):  # a network that int8 ruins throughout: the bound will tell
        exclude = []
    made = quantize(graph, ranges, flavour=flavour, exclude=exclude)
    return made, {
        "by": "scan",
        "least_sqnr_db": LEAST_SQNR_DB,
        "keep": exclude,
        "sensitivity": [asdict(row) for row in ranked],
    }


def evaluation_reference(evaluation: Evaluation) -> float:
    """The original network's own accuracy on the evaluation: 1 where there are no labels."""
    if evaluation.labels is None:
        return 1.0
    return float(np.mean(evaluation.logits.argmax(1) == evaluation.labels))


def _searched(search: dict[str, Any]) -> str:
    return f"; kept in fp32: {', '.join(search['keep'])}" if search["keep"] else ""


def _bound(name: str, options: PrecisionOptions) -> float:
    return MAX_DROP[name] if options.max_drop is None else options.max_drop


def _judge(
    name: str,
    outputs: dict[str, NDArray[Any]],
    evaluation: Evaluation,
    options: PrecisionOptions,
) -> dict[str, Any]:
    """The accuracy receipt; raises if the loss is over the bound.

    Without labels a flip of a few samples says little, so only a bound that was asked for holds.
    """
    logits = next(iter(outputs.values()))
    if logits.ndim != 2:
        raise GraphError(
            f"an output of shape {logits.shape} has no classes to compare; lower precisions are "
            f"for networks whose first output is (N, classes)"
        )
    receipt = compare_accuracy(
        name,
        logits,
        evaluation.logits,
        evaluation.labels,
        description=evaluation.samples.description,
    )
    bound = _bound(name, options)
    if evaluation.labels is not None or options.max_drop is not None:
        require_accuracy(receipt, bound)
    return {"summary": _sentence(receipt), "max_drop": bound, **receipt.as_dict()}


def _sentence(receipt: AccuracyReceipt) -> str:
    flips = f"{len(receipt.flips):,} of {receipt.images:,} images flipped"
    if receipt.hits is None or receipt.reference_hits is None:
        return flips
    ours, theirs = receipt.hits / receipt.images, receipt.reference_hits / receipt.images
    low, high = wilson_interval(receipt.hits, receipt.images)
    return f"top-1 {ours:.2%} ({low:.1%}–{high:.1%}), the fp32 network's {theirs:.2%}, {flips}"


def _golden_bounds(
    name: str, outputs: dict[str, NDArray[Any]], evaluation: Evaluation
) -> dict[str, float]:
    bounds = {}
    for output, reference in evaluation.reference.items():
        seen = np.abs(
            outputs[output][:GOLDEN_SAMPLES].astype(np.float64) - reference[:GOLDEN_SAMPLES]
        )
        bounds[output] = max(
            _GOLDEN_SHARE[name] * output_range(reference), _GOLDEN_FACTOR * float(seen.max())
        )
    return bounds
