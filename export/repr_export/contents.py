"""What an export made, as the files and the manifest of an artifact."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from repr_export.graph.multiply_adds import UncountableError, count_multiply_adds, count_parameters
from repr_export.graph.serialize import version_of
from repr_export.graph.signature import Signature
from repr_export.parity import Parity
from repr_export.passes import FoldReport
from repr_export.precision.variants import Variant
from repr_export.source import Source
from repr_export.tensorrt.engines import ArtifactEngine
from repr_runtime.artifact.manifest import FileEntry, Manifest, NetworkInfo
from repr_runtime.artifact.reading import describe_file

GRAPH_FILE, GOLDEN_FILE = "model.onnx", "golden.npz"
_MADE_BY = ("repr-deploy", "torch", "onnx", "onnx-ir", "onnxscript", "numpy")


@dataclass(frozen=True)
class Contents:
    """Everything that goes into an artifact."""

    source: Source
    model: ir.Model
    graph: bytes
    signature: Signature
    multiply_adds: int | None
    fold: FoldReport
    parity: Parity
    variants: list[Variant]
    engines: list[ArtifactEngine]

    def files(self) -> list[tuple[FileEntry, bytes]]:
        """Each file's entry in the manifest, and its bytes."""
        golden = self.parity.golden.content
        return [
            (describe_file(GRAPH_FILE, self.graph, "graph", "fp32"), self.graph),
            (describe_file(GOLDEN_FILE, golden, "golden"), golden),
            *(
                (describe_file(v.path, v.graph, "graph", v.precision, v.target), v.graph)
                for v in self.variants
            ),
            *(
                (describe_file(e.info.path, e.content, "engine", e.info.precision), e.content)
                for e in self.engines
            ),
        ]

    def manifest(self, files: tuple[FileEntry, ...]) -> Manifest:
        """The manifest of an artifact with ``files``."""
        source, identity = self.source, self.source.identity
        counted = source.parameters
        return Manifest(
            network=NetworkInfo(
                name=identity.name,
                architecture=identity.architecture,
                dataset=identity.dataset,
                parameters=count_parameters(self.model) if counted is None else counted,
                multiply_adds=self.multiply_adds,
                source=identity.source,
            ),
            weights=source.weights,
            inputs=self.signature.inputs,
            outputs=self.signature.outputs,
            preprocessing=source.preprocessing,
            labels=source.labels,
            files=files,
            engines=tuple(engine.info for engine in self.engines),
            receipts=self._receipts(),
            versions=_versions(self.model),
        )

    def _receipts(self) -> dict[str, Any]:
        golden = self.parity.golden
        return {
            "fold": {"summary": str(self.fold), **self.fold.as_dict()},
            "parity": self.parity.as_dict(),
            "golden": {
                "samples": golden.samples,
                "description": golden.description,
                "tolerance": golden.tolerance,
                "tolerances": {variant.path: variant.golden for variant in self.variants},
                "inseparable": golden.inseparable,
            },
            "precision": {variant.path: variant.receipts for variant in self.variants},
            "engines": {engine.info.path: engine.receipt for engine in self.engines},
        }


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
