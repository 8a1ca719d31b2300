"""What an export made, as the files and the manifest of an artifact."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from repr_export.graph.multiply_adds import UncountableError, count_multiply_adds, count_parameters
from repr_export.graph.signature import Signature
from repr_export.parity import Parity
from repr_export.passes import FoldReport
from repr_export.precision.variants import Variant
from repr_export.source import Source
from repr_export.tensorrt.engines import ArtifactEngine
from repr_runtime.artifact.manifest import FileEntry, Manifest, NetworkInfo
from repr_runtime.artifact.reading import describe_file
from repr_runtime.machine import version_of

GRAPH_FILE, GOLDEN_FILE = "model.onnx", "golden.npz"
_MADE_BY = ("repr-deploy", "torch", "onnx", "onnx-ir", "onnxscript", "numpy")


@dataclass(frozen=True)
class Contents:
    """All that an export made of ``source``: the folded ``model``, as bytes ``graph``, and what is of it.

    ``multiply_adds`` are those of one sample, None where they cannot be counted.
    """

    source: Source
    model: ir.Model
    graph: bytes
    signature: Signature
    multiply_adds: int | None
    fold: FoldReport
    parity: Parity
    variants: Sequence[Variant]
    engines: Sequence[ArtifactEngine]

    def artifact(self) -> tuple[Manifest, dict[str, bytes]]:
        """The manifest, and the files' bytes by path."""
        files = [*self._files()]
        return self._manifest([entry for entry, _ in files]), {e.path: data for e, data in files}

    def _files(self) -> Iterator[tuple[FileEntry, bytes]]:
        golden = self.parity.golden.content
        yield describe_file(GRAPH_FILE, self.graph, "graph", "fp32"), self.graph
        yield describe_file(GOLDEN_FILE, golden, "golden"), golden
        for made in self.variants:
            entry = describe_file(made.path, made.graph, "graph", made.precision, made.target)
            yield entry, made.graph
        for engine in self.engines:
            info = engine.info
            entry = describe_file(info.path, engine.content, "engine", info.precision)
            yield entry, engine.content

    def _manifest(self, files: Sequence[FileEntry]) -> Manifest:
        source, identity, counted = self.source, self.source.identity, self.source.parameters
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
            files=tuple(files),
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
