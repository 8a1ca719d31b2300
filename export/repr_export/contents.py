"""What an export made, as the files and the manifest of an artifact."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import onnx_ir as ir

from repr_export.errors import GraphError, OptionError
from repr_export.graph.multiply_adds import UncountableError, count_multiply_adds, count_parameters
from repr_export.graph.serialize import version_of
from repr_export.parity import Parity
from repr_export.passes import FoldReport
from repr_export.precision.variants import Variant
from repr_export.source import Source
from repr_export.tensorrt.engines import ArtifactEngine
from repr_runtime.artifact.manifest import DTYPES, Manifest, NetworkInfo, TensorSpec
from repr_runtime.artifact.reading import describe_file

GRAPH_FILE, GOLDEN_FILE = "model.onnx", "golden.npz"
_MADE_BY = ("repr-deploy", "torch", "onnx", "onnx-ir", "onnxscript", "numpy")


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a graph, and its fixed batch size, None if that is free."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, model: ir.Model) -> Signature:
        """Of ``model``; raises :class:`GraphError` for one that does not say its shapes and dtypes."""
        # An initializer among the inputs is a default that a caller may override; none here does.
        given = (value for value in model.graph.inputs if not value.is_initializer())
        return cls(tuple(map(_spec, given)), tuple(map(_spec, model.graph.outputs)))

    @property
    def batch(self) -> int | None:
        """The first dimension of the first input, where it is fixed."""
        first = self.inputs[0].shape[0] if self.inputs[0].shape else None
        return first if isinstance(first, int) else None

    def require_labels(self, labels: tuple[str, ...] | None) -> None:
        """Raise :class:`OptionError` if ``labels`` are not as many as the network's classes."""
        classes = self.outputs[0].shape[-1] if self.outputs[0].shape else None
        if labels is not None and isinstance(classes, int) and classes != len(labels):
            raise OptionError(f"there are {len(labels)} labels, the network has {classes} classes")


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


def _versions(model: ir.Model) -> dict[str, str]:
    import onnxruntime

    return {name: version_of(name) for name in _MADE_BY} | {
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
        "opset": str(model.opset_imports.get("", "?")),
    }
