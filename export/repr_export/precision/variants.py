"""The lower precisions of an artifact: each a graph, with the receipts that judge it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from repr_export.errors import OptionError, PrecisionError
from repr_export.graph.multiply_adds import with_shapes
from repr_export.graph.serialize import serialize
from repr_export.graph.values import node_name
from repr_export.layers import CompareLayers
from repr_export.parity import GOLDEN_SAMPLES, largest_gap, output_range
from repr_export.precision.evaluation import Evaluation
from repr_export.precision.half.convert import Io, to_half
from repr_export.precision.half.emulate import emulate_half
from repr_export.precision.half.formats import HalfName
from repr_export.precision.int8.calibration import (
    CalibrationSet,
    bundled_calibration,
    folder_calibration,
)
from repr_export.precision.int8.quantizable import TARGETS, Target
from repr_export.precision.int8.quantize import Quantized, quantize, require_quantizable
from repr_export.precision.int8.ranges import Ranges, measure_ranges
from repr_export.precision.int8.sensitivity import bisect, scan
from repr_export.precision.options import PrecisionOptions
from repr_export.precision.output_error import compare_outputs, error_receipt
from repr_export.precision.receipt import (
    AccuracyReceipt,
    PrecisionReceipt,
    compare_accuracy,
    read_precision,
    require_accuracy,
    require_precision,
)
from repr_export.samples import read_samples, sample_set
from repr_runtime.artifact.manifest import PreprocessingInfo, TensorSpec
from repr_runtime.proportion import wilson_interval

LEAST_SQNR_DB = 12.0
"""A node that alone in int8 leaves the output less signal over noise than this stays in fp32."""

# What a golden sample may differ by, as a share of the outputs' range, where it differed by less
# on this machine: another machine adds in another order, and rounds other values the other way.
_GOLDEN_SHARE = {"fp16": 1e-3, "bf16": 2e-2, "int8": 2e-2}
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


@dataclass(frozen=True)
class VariantMaker:
    """Makes each precision that ``options`` name, within its bounds, as ``evaluation`` judges.

    ``specs`` are the inputs of the fp32 graph; ``layers`` compares each graph layer by layer.
    """

    specs: Sequence[TensorSpec]
    evaluation: Evaluation
    preprocessing: PreprocessingInfo | None
    options: PrecisionOptions
    progress: Progress
    layers: CompareLayers | None = None

    def all_of(self, model: ir.Model, graph: bytes) -> list[Variant]:
        """The graphs of the folded fp32 ``model``; ``graph`` is the same as bytes.

        Raises :class:`repr_export.errors.PrecisionError` for one that did not come out in its
        precision or loses too much, and what the makers raise.
        """
        variants = []
        for name in dict.fromkeys(self.options.names):
            if name == "int8":
                variants += self._int8(graph)
            else:
                self.progress(f"writing {name} into the graph")
                variants.append(self._half(model, "bf16" if name == "bf16" else "fp16"))
        return variants

    def _half(self, model: ir.Model, name: HalfName) -> Variant:
        copy = model.clone()
        samples = self.evaluation.samples
        some = {key: values[:_OVERFLOW_SAMPLES] for key, values in samples.inputs.items()}
        samples = replace(samples, inputs=some)
        io: Io = "half" if name == "fp16" and self.options.io == "fp16" else "fp32"
        # Logits of bf16 have eight bits: two classes that are near become equal.
        last, keep = copy.graph.outputs[0].producer(), []
        if name == "bf16" and last is not None and last.op_type in ("Gemm", "MatMul"):
            keep.append(node_name(last))
        report = to_half(copy, name, io=io, keep=keep, samples=samples)
        receipt = self._precision_of(copy)
        require_precision(receipt, name)
        if not report.half:
            kept = "; ".join(f"{node.node}: {node.reason}" for node in report.kept[:3])
            why = kept or "none is in fp32 as it is"
            raise PrecisionError(f"no node can compute in {name} ({why}); leave --{name} out")
        # ONNX Runtime's CPU kernels would skip the rounding: the emulation does not.
        emulated = serialize(emulate_half(copy))
        outputs = _widened_run(emulated, self.evaluation, io)
        conversion = {"conversion": asdict(report), **self._layers(emulated, name)}
        return self._judged(
            name, "any", serialize(copy), outputs, receipt, f"; {report}", conversion
        )

    def _int8(self, graph: bytes) -> list[Variant]:
        require_quantizable(graph)
        calibration = self._calibration()
        ranges = measure_ranges(graph, calibration, self.options.method, progress=self._count)
        variants = []
        for target in TARGETS:
            made, search = self._search(graph, ranges, calibration, target)
            self.progress(f"int8: judging the graph for {target}")
            outputs = self.evaluation.run(made.graph, as_floats=target == "tensorrt")
            receipt = self._precision_of(ir.from_proto(onnx.load_model_from_string(made.graph)))
            kept = f"; kept in fp32: {', '.join(search['keep'])}" if search["keep"] else ""
            receipts = {
                "conversion": made.report.as_dict(),
                "calibration_sha256": calibration.sha256,
                "search": search,
                **self._layers(made.graph, "int8"),
            }
            variants.append(
                self._judged("int8", target, made.graph, outputs, receipt, kept, receipts)
            )
        return variants

    def _judged(
        self,
        name: str,
        target: str,
        graph: bytes,
        outputs: dict[str, NDArray[Any]],
        receipt: PrecisionReceipt,
        more: str,
        receipts: dict[str, Any],
    ) -> Variant:
        """The graph with its receipts; raises if the loss is over the bound.

        Without labels a flip of a few samples says little, so only a bound that was asked for
        holds.
        """
        try:
            accuracy = self._accuracy(name, outputs)
        except PrecisionError as error:
            if "layers" not in receipts:
                raise
            where = receipts["layers"]["summary"]
            raise PrecisionError(f"{error}. Layer by layer: {where}") from error
        return Variant(
            precision=name,
            target=target,
            path=f"model.{name}{'-cpu' if target == 'cpu' else ''}.onnx",
            graph=graph,
            golden=self._golden_bounds(name, outputs),
            receipts={
                "summary": f"{receipt}; {accuracy['summary']}{more}",
                **receipts,
                "precision": receipt.as_dict(),
                "accuracy": accuracy,
            },
        )

    def _layers(self, graph: bytes, name: str) -> dict[str, Any]:
        return {} if self.layers is None else {"layers": self.layers(graph, name).as_dict()}

    def _accuracy(self, name: str, outputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """The receipt: of the top-1 lost, or without classes of the outputs' errors."""
        samples, reference = self.evaluation.samples, self.evaluation.reference
        if not self.evaluation.has_classes:
            errors = compare_outputs(outputs, reference, name)
            return error_receipt(errors, name, samples.description, len(samples))
        logits, labels = next(iter(outputs.values())), self.evaluation.labels
        accuracy = compare_accuracy(
            name, logits, self.evaluation.logits, labels, description=samples.description
        )
        bound = self.options.bound(name)
        if labels is not None or self.options.max_drop is not None:
            require_accuracy(accuracy, bound)
        return {"summary": _sentence(accuracy), "max_drop": bound, **accuracy.as_dict()}

    def _precision_of(self, model: ir.Model) -> PrecisionReceipt:
        """Read from the graph as it stands for one run, where it leaves sizes free."""
        samples = self.evaluation.samples
        run = samples.run_of([0] * (samples.layout.size or 1))
        shapes = {name: values.shape for name, values in run.items()}
        return read_precision(with_shapes(model, shapes))

    def _calibration(self) -> CalibrationSet:
        given = self.options.calibration
        if given is not None and given.suffix == ".npz":
            arrays = read_samples(given, self.specs, "--calibration")
            samples = sample_set(arrays, self.evaluation.samples.layout, given.name)
            return CalibrationSet(samples, samples.description)
        assert self.preprocessing is not None, "an export asks for it before the work"
        if given is None:
            return bundled_calibration(self.preprocessing)
        return folder_calibration(given, self.preprocessing)

    def _search(
        self, graph: bytes, ranges: Ranges, calibration: CalibrationSet, target: Target
    ) -> tuple[Quantized, dict[str, Any]]:
        """The int8 graph, and which nodes were kept out of it: by bisection, or by the scan alone."""
        if self.options.bisect and not self.evaluation.has_classes:
            raise OptionError(
                "--bisect searches by top-1, and the first output has no classes; leave it out"
            )
        if self.options.bisect:
            found = bisect(
                graph,
                ranges,
                calibration,
                partial(self.evaluation.accuracy, as_floats=target == "tensorrt"),
                target=target,
                reference=self.evaluation.share_right(self.evaluation.logits),
                max_drop=self.options.bound("int8"),
                progress=self._count,
            )
            return found.quantized, {"by": "bisection", "summary": str(found), **found.as_dict()}
        ranked = scan(
            graph,
            ranges,
            calibration,
            target=target,
            bound=LEAST_SQNR_DB,
            progress=self._count,
        )
        exclude = [row.node for row in ranked if row.sqnr_db < LEAST_SQNR_DB]
        if len(exclude) == len(ranked):  # int8 ruins the network throughout: the bound will tell
            exclude = []
        return quantize(graph, ranges, target=target, exclude=exclude), {
            "by": "scan",
            "least_sqnr_db": LEAST_SQNR_DB,
            "keep": exclude,
            "sensitivity": [asdict(row) for row in ranked],
        }

    def _count(self, what: str, done: int, total: int) -> None:
        self.progress(f"int8: {what}, {done} of {total}")

    def _golden_bounds(self, name: str, outputs: dict[str, NDArray[Any]]) -> dict[str, float]:
        bounds = {}
        for output, reference in self.evaluation.reference.items():
            apart = len(reference) == len(self.evaluation.samples)  # a row for each sample
            rows = slice(GOLDEN_SAMPLES if apart else None)
            seen = largest_gap(outputs[output][rows], reference[rows])
            share = _GOLDEN_SHARE[name] * output_range(reference)
            bounds[output] = max(share, _GOLDEN_FACTOR * seen)
        return bounds


def _widened_run(graph: bytes, evaluation: Evaluation, io: Io) -> dict[str, NDArray[Any]]:
    if io == "fp32":
        return evaluation.run(graph)
    halved = {
        name: values.astype(np.float16) if values.dtype == np.float32 else values
        for name, values in evaluation.samples.inputs.items()
    }
    narrow = replace(evaluation, samples=replace(evaluation.samples, inputs=halved))
    return {name: values.astype(np.float32) for name, values in narrow.run(graph).items()}


def _sentence(receipt: AccuracyReceipt) -> str:
    flips = f"{len(receipt.flips):,} of {receipt.images:,} images flipped"
    if receipt.hits is None or receipt.reference_hits is None:
        return flips
    ours, theirs = receipt.hits / receipt.images, receipt.reference_hits / receipt.images
    low, high = wilson_interval(receipt.hits, receipt.images)
    return f"top-1 {ours:.2%} ({low:.1%}–{high:.1%}), the fp32 network's {theirs:.2%}, {flips}"
