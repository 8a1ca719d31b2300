"""`export`: from a target to an artifact. The whole way, in order, in one function."""

from __future__ import annotations

import importlib.metadata
import io
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from repr_export.errors import FoldContractError, GraphError, OptionError, first_line
from repr_export.multiply_adds import UncountableError, count_multiply_adds, count_parameters
from repr_export.options import ExportOptions
from repr_export.passes import FoldReport, PassError, run_pipeline
from repr_export.sources import Source, open_source
from repr_export.verify import (
    GOLDEN_SAMPLES,
    PARITY_BOUND,
    Arrays,
    Difference,
    SampleSet,
    compare,
    output_range,
    require_parity,
    run_graph,
    run_in_batches,
    sample_sets,
    summarize,
)
from repr_models.registry import FoldContract
from repr_runtime.artifact import check_free, describe_file, write_artifact
from repr_runtime.manifest import DTYPES, Manifest, NetworkInfo, TensorSpec

DEFAULT_OUT = Path("artifacts")
GRAPH_FILE, GOLDEN_FILE = "model.onnx", "golden.npz"
_LARGEST = 2**31 - 1
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
) -> Exported:
    """Export ``target`` into the folder ``out/NAME``: captured, folded, proven and written at once.

    ``target`` is a registered name, ``package.module:factory`` or ``FILE.onnx``;
    ``progress`` gets a few words at each step. An artifact of that name is replaced when the
    new one is whole, never before. Raises :class:`repr_export.errors.ExportError`,
    ``repr_models.errors.ModelsError`` or ``repr_runtime.errors.ArtifactError``; nothing is
    written then.
    """
    options = options or ExportOptions()
    progress("loading the network")
    source = open_source(target, options)
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
    graph = _serialize(model)
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
        differences += compare(samples, expected, actual)
        if golden is None:
            golden, golden_receipt = _golden(samples, expected)
    require_parity(differences)
    assert golden is not None

    progress("writing the artifact")
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
        files=(
            describe_file(GRAPH_FILE, graph, "graph", "fp32"),
            describe_file(GOLDEN_FILE, golden, "golden"),
        ),
        receipts={
            "fold": {"summary": str(fold), **fold.as_dict()},
            "parity": {
                "summary": summarize(differences),
                "bound": PARITY_BOUND,
                "differences": [asdict(row) for row in differences],
            },
            "golden": golden_receipt,
        },
        versions=_versions(model),
    )
    write_artifact(folder, manifest, {GRAPH_FILE: graph, GOLDEN_FILE: golden})
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


def _serialize(model: ir.Model) -> bytes:
    model.producer_name, model.producer_version = "repr-deploy", _version("repr-deploy")
    try:
        proto = ir.to_proto(model)
        if proto.ByteSize() > _LARGEST:
            raise GraphError(
                f"the graph has {proto.ByteSize():,} bytes; files of 2 GiB and more are not supported"
            )
        content: bytes = proto.SerializeToString(deterministic=True)
        onnx.checker.check_model(content, full_check=True)
    except GraphError:
        raise
    except Exception as error:  # protobuf's and onnx's share no base
        raise GraphError(
            f"the folded graph does not pass the onnx checker: {first_line(error)}"
        ) from error
    return content


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


def _golden(samples: SampleSet, expected: Arrays) -> tuple[bytes, dict[str, Any]]:
    """A few samples with the original network's outputs, and the bound that they must keep."""
    count = min(GOLDEN_SAMPLES, len(samples))
    arrays: dict[str, NDArray[Any]] = {}
    for name, values in samples.inputs.items():
        arrays[f"input.{name}"] = values[:count]
    for name, values in expected.items():
        arrays[f"output.{name}"] = values[:count]
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    tolerance = {name: PARITY_BOUND * output_range(values) for name, values in expected.items()}
    receipt = {"samples": count, "description": samples.description, "tolerance": tolerance}
    return stream.getvalue(), receipt


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _versions(model: ir.Model) -> dict[str, str]:
    import onnxruntime

    versions = {name: _version(name) for name in _MADE_BY}
    versions["onnxruntime"] = onnxruntime.__version__
    versions["python"] = platform.python_version()
    versions["opset"] = str(model.opset_imports.get("", "?"))
    return versions
