"""Which int8 graph a CPU gets, and which tolerance its golden samples are held to."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repr_runtime import load
from repr_runtime.cuda.driver import cuda_status


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
    graphs = {
        f"model.int8.{target}.onnx": (tiny.graph(seed=i), "graph", "int8", target)
        for i, target in enumerate(targets, 1)
    }
    path = tiny.write(tmp_path / "a", more=graphs)
    with load(path, precision="int8", device=device) as s:
        np.testing.assert_allclose(s.run(x)["logits"], tiny.logits(x, seed), rtol=1e-4, atol=1e-4)


def test_golden_samples_are_held_to_the_tolerance_of_the_graph(tiny: Any, tmp_path: Path) -> None:
    tolerances: dict[str, Any] = {"samples": 3, "tolerance": {"logits": 1e-4}}
    tolerances["tolerances"] = {"model.fp16.onnx": {"logits": 1e3}}
    far_off = (tiny.graph(seed=1), "graph", "fp16")
    path = tiny.write(
        tmp_path / "a", more={"model.fp16.onnx": far_off}, receipts={"golden": tolerances}
    )
    for precision, tolerance in (("fp32", 1e-4), ("fp16", 1e3)):
        with load(path, device="cpu", precision=precision) as session:
            assert session.self_test().tolerance == tolerance
