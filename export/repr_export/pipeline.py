"""`export`: from a target to an artifact. The whole way, in order, in one function."""

from __future__ import annotations

import io
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from repr_export.errors import FoldContractError, GraphError, OptionError
from repr_export.graph.multiply_adds import UncountableError, count_multiply_adds, count_parameters
from repr_export.graph.serialize import serialize, version_of
from repr_export.options import ExportOptions
from repr_export.parity import (
    GOLDEN_SAMPLES,
    PARITY_BOUND,
    Difference,
    allow_rounding,
    compare,
    output_range,
    require_parity,
    summarize,
)
from repr_export.passes import FoldReport, PassError, run_pipeline
from repr_export.precision.evaluation import make_evaluation
from repr_export.precision.variants import make_variants
from repr_export.samples import Arrays, SampleSet, run_graph, run_in_batches, sample_sets
from repr_export.source import Source
from repr_export.sources.opening import open_source
from repr_export.tensorrt.engines import build_engines
from repr_models.spec import FoldContract
from repr_models.weights.download import Progress
from repr_runtime.artifact.manifest import DTYPES, Manifest, NetworkInfo, TensorSpec
from repr_runtime.artifact.reading import describe_file
from repr_runtime.artifact.writing import check_free, write_artifact

DEFAULT_OUT = Path("artifacts")
GRAPH_FILE, GOLDEN_FILE = "model.onnx", "golden.npz"
_MADE_BY = ("repr-deploy", "torch", "onnx", "onnx-ir", "onnxscript", "numpy")


@dataclass(frozen=True)
class Exported:
    """An artifact that was written: where, what its manifest says, a note on the target."""

    path: Path
    manifest: Manifest
    note: str


def export(
    target: str,
    out: str | Path = DEFAULT_OUT,
    options: ExportOptions | None = None,
    *,
    progress: Callable[[str], None] = lambda _: None,
    download: Progress | None = None,
) -> Exported:
    """Export ``target`` into the folder ``out/NAME``: captured, folded, proven and written at once.

    ``target`` is a registered name, ``package.module:factory`` or ``FILE.onnx``;
    ``progress`` gets a few words at each step, ``download`` the name, the bytes so far and all
    bytes of a checkpoint that is fetched. An artifact of that name is replaced when the
    new one is whole, never before. Raises :class:`repr_export.errors.ExportError`,
    ``repr_models.errors.ModelsError`` or ``repr_runtime.errors.ArtifactError``; nothing is
    written then.
    """
    options = options or ExportOptions()
    progress("loading the network")
    source = open_source(target, options, download)
    folder = Path(out) / source.identity.folder
    check_free(folder)

    progress("capturing the graph")
    model = source.model()
    progress("folding BatchNorm")
    try:
        fold = run_pipeline(model).fold
    except PassError as error:
        raise GraphError(f"{error}; no artifact was written") from error
    parameters = source.parameters if source.parameters is not None else count_parameters(model)
    _require_contract(fold, source.fold, model)
    graph = serialize(model)
    multiply_adds = _multiply_adds(model)

    progress("comparing with the original network")
    # An initializer among the inputs is a default that a caller may override, and none here does.
    inputs = tuple(_spec(value) for value in model.graph.inputs if not value.is_initializer())
    outputs = tuple(map(_spec, model.graph.outputs))
    _require_labels(source, outputs)
    sets = sample_sets(inputs, source.preprocessing, options.input_shape, multiply_adds)
    batch = inputs[0].shape[0] if inputs[0].shape else None
    fixed = batch if isinstance(batch, int) else None
    differences: list[Difference] = []
    golden: bytes | None = None
    for samples in sets:
        expected = run_in_batches(source.reference, samples.inputs, fixed)
        actual = run_in_batches(lambda feed: run_graph(graph, feed), samples.inputs, fixed)
        rows = compare(samples, expected, actual)
        if not all(row.relative <= row.allowed for row in rows):
            progress("computing the original network in float64")
            exact = run_in_batches(source.exact, samples.inputs, fixed)
            rows = allow_rounding(rows, expected, exact)
        differences += rows
        if golden is None:
            golden, golden_receipt = _golden(samples, expected, rows)
    require_parity(differences)
    assert golden is not None

    variants = []
    if options.precision.names:
        progress("running the original network on the images to judge by")
        evaluation = make_evaluation(source, sets[0], fixed)
        variants = make_variants(
            model, graph, evaluation, source.preprocessing, options.precision, progress
        )
    engines = []
    if options.engine is not None:
        graphs = {"fp32": graph, **{v.precision: v.graph for v in variants if v.target != "cpu"}}
        engines = build_engines(graphs, options.engine, progress)

    progress("writing the artifact")
    files = [
        (describe_file(GRAPH_FILE, graph, "graph", "fp32"), graph),
        (describe_file(GOLDEN_FILE, golden, "golden"), golden),
        *(
            (describe_file(v.path, v.graph, "graph", v.precision, v.target), v.graph)
            for v in variants
        ),
        *(
            (describe_file(e.info.path, e.content, "engine", e.info.precision), e.content)
            for e in engines
        ),
    ]
    golden_receipt["tolerances"] = {v.path: v.golden for v in variants}
    manifest = Manifest(
        network=NetworkInfo(
            source.identity.name,
            source.identity.architecture,
            source.identity.dataset,
            parameters,
            multiply_adds,
            source.identity.source,
        ),
        weights=source.weights,
        inputs=inputs,
        outputs=outputs,
        preprocessing=source.preprocessing,
        labels=source.labels,
        files=tuple(entry for entry, _ in files),
        engines=tuple(engine.info for engine in engines),
        receipts={
            "fold": {"summary": str(fold), **fold.as_dict()},
            "parity": {
                "summary": summarize(differences),
                "bound": PARITY_BOUND,
                "differences": [asdict(row) for row in differences],
            },
            "golden": golden_receipt,
            "precision": {variant.path: variant.receipts for variant in variants},
            "engines": {engine.info.path: engine.receipt for engine in engines},
        },
        versions=_versions(model),
    )
    write_artifact(folder, manifest, {entry.path: content for entry, content in files})
    return Exported(folder, manifest, source.identity.note)


def _require_contract(fold: FoldReport, contract: FoldContract | None, model: ir.Model) -> None:
    left = sum(node.op_type == "BatchNormalization" for node in model.graph.all_nodes())
    if left != len(fold.refused):
        raise FoldContractError(
            f"{left} BatchNorms are left in the graph, {len(fold.refused)} were refused; this is a defect"
        )
    if contract is None or (fold.total, len(fold.folded)) == (contract.batchnorms, contract.folded):
        return
    reasons = "; ".join(f"{row.batchnorm}: {row.reason}" for row in fold.refused[:5])
    raise FoldContractError(
        f"{fold}, the network promises {contract.folded} of {contract.batchnorms}"
        + (f" ({reasons})" if reasons else "")
        + ". No artifact was written"
    )


def _multiply_adds(model: ir.Model) -> int | None:
    try:
        return count_multiply_adds(model).total
    except UncountableError:  # free dimensions: there is no one number
        return None


def _spec(value: ir.Value) -> TensorSpec:
    if value.shape is None or value.dtype is None or value.name is None:
        raise GraphError(f"{value.name!r} has no shape or dtype in the graph; export it with both")
    dtype = value.dtype.numpy().name
    if dtype not in DTYPES:
        raise GraphError(f"{value.name!r} is {value.dtype.name}, which numpy cannot hold; cast it")
    shape = tuple(
        dim if isinstance(dim, int) else (dim.value or f"{value.name}_{axis}")
        for axis, dim in enumerate(value.shape)
    )
    return TensorSpec(value.name, dtype, shape)


def _require_labels(source: Source, outputs: tuple[TensorSpec, ...]) -> None:
    classes = outputs[0].shape[-1] if outputs[0].shape else None
    if source.labels is not None and isinstance(classes, int) and classes != len(source.labels):
        raise OptionError(
            f"there are {len(source.labels)} labels, the network has {classes} classes"
        )


def _golden(
    samples: SampleSet, expected: Arrays, rows: Sequence[Difference]
) -> tuple[bytes, dict[str, Any]]:
    """A few samples with the original network's outputs, and the bound that they must keep."""
    count = min(GOLDEN_SAMPLES, len(samples))
    arrays: dict[str, NDArray[Any]] = {}
    for name, values in samples.inputs.items():
        arrays[f"input.{name}"] = values[:count]
    for name, values in expected.items():
        arrays[f"output.{name}"] = values[:count]
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    tolerance = {row.output: row.allowed * output_range(expected[row.output]) for row in rows}
    receipt = {"samples": count, "description": samples.description, "tolerance": tolerance}
    return stream.getvalue(), receipt


def _versions(model: ir.Model) -> dict[str, str]:
    import onnxruntime

    versions = {name: version_of(name) for name in _MADE_BY}
    versions["onnxruntime"] = onnxruntime.__version__
    versions["python"] = platform.python_version()
    versions["opset"] = str(model.opset_imports.get("", "?"))
    return versions
