"""Sessions over the lower precisions of an artifact, on ONNX Runtime's CPU kernels."""

import numpy as np
import pytest

from repr_export.options import ExportOptions
from repr_export.pipeline import Exported, export
from repr_export.precision.options import PrecisionOptions
from repr_models.data.cifar10 import bundled_subset
from repr_runtime import load
from repr_runtime.backends.openvino import backend
from repr_runtime.backends.openvino.compiling import why_not
from repr_runtime.cuda.driver import cuda_status
from repr_runtime.errors import DeviceUnavailableError, ModelLoadError
from repr_runtime.loading import usual_library


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


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_openvino_computes_them_and_gets_as_many_right(halved: Exported, precision: str) -> None:
    if (reason := why_not(precision)) is not None:
        pytest.skip(reason)
    subset = bundled_subset()
    with (
        load(halved.path, device="openvino", precision=precision) as session,
        load(halved.path, device="cpu") as full,
    ):
        assert f" layers in {precision}" in session.choice
        assert f" 0 of 5 layers in {precision}" not in session.choice
        session.self_test()
        right = []
        for each in (session, full):
            logits = each.run(each.preprocess(subset.images))["logits"]
            right.append(np.count_nonzero(logits.argmax(1) == subset.labels))
    assert abs(right[0] - right[1]) <= 10  # half a point of 2,000


def test_auto_runs_bf16_where_the_cpu_computes_it(
    halved: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cuda_status().devices:
        pytest.skip("auto takes the GPU here")
    if why_not("bf16") is None:
        with load(halved.path, precision="bf16") as session:
            assert "which alone computes bf16 on a CPU" in session.choice
    monkeypatch.setattr(backend, "why_not", lambda _: "an old CPU")
    with pytest.raises(
        DeviceUnavailableError, match=r"cannot run bf16 here: an old CPU; .* another precision"
    ):
        load(halved.path, precision="bf16")


@pytest.mark.parametrize(
    ("precision", "flags", "batch", "library"),
    [
        ("fp32", {"amx_int8", "avx512_vnni"}, 32, "onnxruntime"),
        ("int8", {"avx512_vnni"}, None, "onnxruntime"),
        ("int8", {"avx512_vnni"}, 7, "onnxruntime"),
        ("int8", {"avx512_vnni"}, 8, "openvino"),
        ("int8", {"avx_vnni"}, 8, "onnxruntime"),
        ("int8", {"amx_int8"}, None, "openvino"),
        ("bf16", {"avx512_bf16"}, None, "openvino"),
    ],
)
def test_the_rule_where_nothing_was_tuned(
    precision: str,
    flags: set[str],
    batch: int | None,
    library: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("repr_runtime.loading.cpu_flags", lambda: frozenset(flags))
    assert usual_library(precision, batch)[0] == library
