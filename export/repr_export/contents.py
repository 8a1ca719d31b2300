"""What an export made, as the files and the manifest of an artifact."""

from __future__ import annotations

import platform

import onnx_ir as ir

from repr_export.graph.multiply_adds import UncountableError, count_multiply_adds, count_parameters
from repr_export.graph.signature import Signature
from repr_export.parity import Parity
from repr_export.passes import FoldReport
from repr_export.precision.variants import Variant
from repr_export.source import Source
from repr_export.tensorrt.engines import ArtifactEngine
from repr_runtime.artifact.manifest import Manifest, NetworkInfo
from repr_runtime.artifact.reading import describe_file
from repr_runtime.machine import version_of

GRAPH_FILE, GOLDEN_FILE = "model.onnx", "golden.npz"
_MADE_BY = ("repr-deploy", "torch", "onnx", "onnx-ir", "onnxscript", "numpy")


def manifest_and_files(
    source: Source,
    model: ir.Model,
    graph: bytes,
    signature: Signature,
    multiply_adds: int | None,
    fold: FoldReport,
    parity: Parity,
    variants: list[Variant],
    engines: list[ArtifactEngine],
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest of the artifact that all this makes, and its files' bytes by path."""
    identity, golden, counted = source.identity, parity.golden, source.parameters
    files = [
        (describe_file(GRAPH_FILE, graph, "graph", "fp32"), graph),
        (describe_file(GOLDEN_FILE, golden.content, "golden"), golden.content),
        *(
            (describe_file(v.path, v.graph, "graph", v.precision, v.target), v.graph)
            for v in variants
        ),
        *(
            (describe_file(e.info.path, e.content, "engine", e.info.precision), e.content)
            for e in engines
        ),
    ]
    receipts = {
        "fold": {"summary": str(fold), **fold.as_dict()},
        "parity": parity.as_dict(),
        "golden": {
            "samples": golden.samples,
            "description": golden.description,
            "tolerance": golden.tolerance,
            "tolerances": {variant.path: variant.golden for variant in variants},
            "inseparable": golden.inseparable,
        },
        "precision": {variant.path: variant.receipts for variant in variants},
        "engines": {engine.info.path: engine.receipt for engine in engines},
    }
    manifest = Manifest(
        network=NetworkInfo(
            name=identity.name,
            architecture=identity.architecture,
            dataset=identity.dataset,
            parameters=count_parameters(model) if counted is None else counted,
            multiply_adds=multiply_adds,
            source=identity.source,
        ),
        weights=source.weights,
        inputs=signature.inputs,
        outputs=signature.outputs,
        preprocessing=source.preprocessing,
        labels=source.labels,
        files=tuple(entry for entry, _ in files),
        engines=tuple(engine.info for engine in engines),
        receipts=receipts,
        versions=_versions(model),
    )
    return manifest, {entry.path: content for entry, content in files}


def total_multiply_adds(model: ir.Model) -> int | None:
    """For one sample; None for a graph with free dimensions, which has no one number."""
    try:
        return sum(row.count for row in count_multiply_adds(model))
    except UncountableError:
        return None


def _versions(model: ir.Model) -> dict[str, str]:
    import onnxruntime

    return {name: version_of(name) for name in _MADE_BY} | {
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
        "opset": str(model.opset_imports.get("", "?")),
    }
