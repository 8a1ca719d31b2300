"""Tiny artifacts, made in milliseconds."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx_bytes import model_of

from repr_runtime.artifact.manifest import (
    Manifest,
    NetworkInfo,
    PreprocessingInfo,
    TensorSpec,
    WeightsInfo,
)
from repr_runtime.artifact.reading import describe_file
from repr_runtime.artifact.writing import write_artifact

LABELS = ("ant", "bee", "cat", "dog", "elk")
PREPROCESSING = PreprocessingInfo(4, (4, 4), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


class Tiny:
    """A linear classifier of 4x4 RGB images: input (batch, 3, 4, 4), logits (batch, 5)."""

    def parameters(self, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        random = np.random.default_rng(seed)
        weight = random.standard_normal((48, 5)).astype(np.float32)
        return weight, random.standard_normal(5).astype(np.float32)

    def logits(self, x: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
        weight, bias = self.parameters(seed)
        return x.reshape(len(x), 48) @ weight + bias

    def inputs(self, count: int, seed: int = 0) -> NDArray[np.float32]:
        random = np.random.default_rng([seed, 1])
        return random.standard_normal((count, 3, 4, 4)).astype(np.float32)

    def graph(self, seed: int = 0, batch: int | str = "batch") -> bytes:
        weight, bias = self.parameters(seed)
        return model_of(
            [
                helper.make_node("Flatten", ["input"], ["flat"]),
                helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
            ],
            {"input": (batch, 3, 4, 4)},
            {"logits": (batch, 5)},
            {"weight": weight, "bias": bias},
        )

    def golden(self, seed: int = 0) -> dict[str, NDArray[Any]]:
        x = self.inputs(3, seed)
        return {"input.input": x, "output.logits": self.logits(x, seed)}

    def parts(
        self,
        *,
        seed: int = 0,
        batch: int | str = "batch",
        graph: bytes | None = None,
        golden: dict[str, NDArray[Any]] | bytes | None = None,
        more: Mapping[str, tuple[Any, ...]] | None = None,
        **changes: Any,
    ) -> tuple[Manifest, dict[str, bytes]]:
        """A manifest, with ``changes`` to its fields, and the files that it lists.

        ``more`` are further files by path: content, role and, where there is one, precision and
        target.
        """
        if not isinstance(golden, bytes):
            stream = io.BytesIO()
            arrays: dict[str, Any] = self.golden(seed) if golden is None else golden
            np.savez_compressed(stream, **arrays)
            golden = stream.getvalue()
        files = {
            "model.onnx": self.graph(seed, batch) if graph is None else graph,
            "golden.npz": golden,
        }
        further = (more or {}).items()
        manifest = Manifest(
            network=NetworkInfo("tiny", "linear", None, 245, 240, "onnx"),
            weights=WeightsInfo("random", f"seed {seed}", None, {}),
            inputs=(TensorSpec("input", "float32", (batch, 3, 4, 4)),),
            outputs=(TensorSpec("logits", "float32", (batch, 5)),),
            preprocessing=PREPROCESSING,
            labels=LABELS,
            files=(
                describe_file("model.onnx", files["model.onnx"], "graph", "fp32"),
                describe_file("golden.npz", files["golden.npz"], "golden"),
                *(describe_file(path, *described) for path, described in further),
            ),
            receipts={"golden": {"samples": 3, "tolerance": {"logits": 1e-4}}},
            versions={"repr-deploy": "0"},
        )
        return replace(manifest, **changes), files | {path: each[0] for path, each in further}

    def write(self, folder: Path, **choices: Any) -> Path:
        """An artifact in ``folder``; ``choices`` are those of :meth:`parts`."""
        manifest, files = self.parts(**choices)
        write_artifact(folder, manifest, files)
        return folder

    def write_model(
        self,
        folder: Path,
        nodes: Sequence[onnx.NodeProto],
        inputs: Mapping[str, Sequence[int | str]],
        outputs: Mapping[str, Sequence[int | str]],
        **choices: Any,
    ) -> Path:
        """An artifact of any float32 graph, with neither labels nor preprocessing."""
        specs = [
            tuple(TensorSpec(name, "float32", tuple(shape)) for name, shape in kind.items())
            for kind in (inputs, outputs)
        ]
        fields: dict[str, Any] = {"labels": None, "preprocessing": None, **choices}
        graph = model_of(nodes, inputs, outputs)
        return self.write(folder, graph=graph, inputs=specs[0], outputs=specs[1], **fields)
