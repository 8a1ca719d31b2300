"""Sessions over the lower precisions of an artifact, on ONNX Runtime's CPU kernels."""

import numpy as np
import pytest

from repr_export.options import ExportOptions
from repr_export.pipeline import Exported, export
from repr_export.precision.options import PrecisionOptions
from repr_models.data.cifar10 import bundled_subset
from repr_runtime import load
from repr_runtime.errors import ModelLoadError


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    precision = PrecisionOptions(names=("fp16", "bf16", "int8"), io="fp16")
    return export(
        "lenet5", tmp_path_factory.mktemp("artifacts"), ExportOptions(precision=precision)
    )


def test_int8_runs_the_graph_made_for_cpus(halved: Exported) -> None:
    subset = bundled_subset()
    with load(halved.path, device="cpu", precision="int8") as session:
        session.self_test()
        classes = session.run(session.preprocess(subset.images))["logits"].argmax(1)
    receipt = halved.manifest.receipts["precision"]["model.int8-cpu.onnx"]["accuracy"]
    assert np.count_nonzero(classes == subset.labels) == receipt["hits"]


def test_a_graph_with_half_inputs_is_fed_with_half(halved: Exported) -> None:
    images = bundled_subset().images[:100]
    with (
        load(halved.path, device="cpu", precision="fp16") as half,
        load(halved.path, device="cpu") as full,
    ):
        assert half.inputs[0].dtype == half.outputs[0].dtype == "float16"
        half.self_test()
        same = [
            a.index == b.index
            for a, b in zip(half.classify(images), full.classify(images), strict=True)
        ]
    assert np.mean(same) > 0.97


def test_bf16_has_no_kernels_on_a_cpu_and_says_so(halved: Exported) -> None:
    with pytest.raises(ModelLoadError, match="no kernel for that on cpu; use another precision"):
        load(halved.path, device="cpu", precision="bf16")
