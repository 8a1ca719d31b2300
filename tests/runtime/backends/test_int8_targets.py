"""Which int8 graph a CPU gets, and which tolerance its golden samples are held to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repr_runtime import load
from repr_runtime.artifact.reading import describe_file
from repr_runtime.artifact.writing import write_artifact
from repr_runtime.cuda.driver import cuda_status


def two_int8_graphs(tiny: Any, folder: Path, *targets: str) -> Path:
    manifest, files = tiny.parts()
    files |= {f"model.int8.{t}.onnx": tiny.graph(seed=i + 1) for i, t in enumerate(targets)}
    entries = [
        describe_file(f"model.int8.{t}.onnx", files[f"model.int8.{t}.onnx"], "graph", "int8", t)
        for t in targets
    ]
    write_artifact(folder, replace(manifest, files=(*manifest.files, *entries)), files)
    return folder


@pytest.mark.parametrize(
    ("targets", "seed"),
    [(("cpu", "tensorrt"), 1), (("tensorrt", "cpu"), 2), (("tensorrt",), 1), (("any",), 1)],
)
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_cpu_gets_its_own_int8_graph(
    tiny: Any, tmp_path: Path, targets: tuple[str, ...], seed: int, device: str
) -> None:
    x = tiny.inputs(2)
    if cuda_status().devices and device == "auto":
        pytest.skip("auto takes the GPU here")
    with load(
        two_int8_graphs(tiny, tmp_path / "a", *targets), precision="int8", device=device
    ) as s:
        np.testing.assert_allclose(s.run(x)["logits"], tiny.logits(x, seed), rtol=1e-4, atol=1e-4)


def test_golden_samples_are_held_to_the_tolerance_of_the_graph(tiny: Any, tmp_path: Path) -> None:
    manifest, files = tiny.parts()
    files["model.fp16.onnx"] = tiny.graph(seed=1)  # far off
    manifest = replace(
        manifest,
        files=(
            *manifest.files,
            describe_file("model.fp16.onnx", files["model.fp16.onnx"], "graph", "fp16"),
        ),
        receipts={
            "golden": {
                "tolerance": {"logits": 1e-4},
                "tolerances": {"model.fp16.onnx": {"logits": 1e3}},
            }
        },
    )
    write_artifact(tmp_path / "a", manifest, files)
    for precision, tolerance in (("fp32", 1e-4), ("fp16", 1e3)):
        with load(tmp_path / "a", device="cpu", precision=precision) as session:
            assert session.self_test().tolerance == tolerance
