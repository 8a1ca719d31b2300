"""Lower precisions and engines in an artifact: what is written, what is promised, what is refused."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from repr_export import cli
from repr_export.errors import OptionError, PrecisionError
from repr_export.options import ExportOptions
from repr_export.pipeline import Exported, export
from repr_export.precision.options import PrecisionOptions
from repr_export.samples import CpuGraph
from repr_export.tensorrt.options import EngineOptions
from repr_models.data.cifar10 import bundled_subset
from repr_models.registry import resolve
from repr_runtime import read_manifest
from repr_runtime.artifact.manifest import PreprocessingInfo
from repr_runtime.cuda.driver import cuda_status
from repr_runtime.preprocess import preprocess

INT8 = ExportOptions(precision=PrecisionOptions(names=("int8",)))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    options = ExportOptions(
        precision=PrecisionOptions(names=("fp16", "bf16", "int8")),
        engine=EngineOptions(edition="tensorrt-rtx"),
    )
    return export("lenet5", tmp_path_factory.mktemp("artifacts"), options)


def test_each_precision_has_its_graph_and_engine(everything: Exported) -> None:
    manifest = read_manifest(everything.path)
    graphs = {(f.precision, f.target): f.path for f in manifest.files if f.role == "graph"}
    assert graphs == {
        ("fp32", "any"): "model.onnx",
        ("fp16", "any"): "model.fp16.onnx",
        ("bf16", "any"): "model.bf16.onnx",
        ("int8", "tensorrt"): "model.int8.onnx",
        ("int8", "cpu"): "model.int8-cpu.onnx",
    }
    assert [engine.precision for engine in manifest.engines] == ["fp32", "fp16", "bf16", "int8"]
    for engine in manifest.engines:
        built_from = manifest.graph(engine.precision, "tensorrt")
        assert built_from is not None
        content = (everything.path / built_from.path).read_bytes()
        assert engine.graph_sha256 == hashlib.sha256(content).hexdigest() == built_from.sha256
        assert engine.flavour == "tensorrt-rtx"
        assert [(p.min, p.opt, p.max) for p in engine.profiles] == [(1, 8, 32)]
        assert (everything.path / engine.path).stat().st_size > 1000


def test_the_precision_receipt_is_read_from_the_graph(everything: Exported) -> None:
    receipts = everything.manifest.receipts["precision"]
    assert receipts["model.fp16.onnx"]["precision"]["shares"] == {"fp16": 1.0}
    # by hand: all but the last of LeNet-5's layers, which stays fp32 in bf16
    total = 6 * 28 * 28 * 75 + 16 * 10 * 10 * 150 + 400 * 120 + 120 * 84 + 84 * 10
    bf16 = receipts["model.bf16.onnx"]["precision"]["shares"]
    assert bf16["bf16"] == pytest.approx(1 - 840 / total)
    int8 = receipts["model.int8.onnx"]["precision"]["shares"]
    first_and_last = 6 * 28 * 28 * 75 + 840
    assert int8["int8"] == pytest.approx(1 - first_and_last / total)
    weights = onnx.load(everything.path / "model.fp16.onnx").graph.initializer
    kernels = [t for t in weights if t.name.endswith("weight")]
    assert {t.data_type for t in kernels} == {onnx.TensorProto.FLOAT16}


def test_an_engine_is_inspected_where_it_can_run(everything: Exported) -> None:
    for receipt in everything.manifest.receipts["engines"].values():
        assert receipt["source"] == "network"
        if cuda_status().devices:
            assert receipt["inspected"]
        else:
            assert receipt["inspected"] == f"not here: {cuda_status().reason}"


def test_the_accuracy_receipt_is_what_the_graph_does(everything: Exported) -> None:
    pre = resolve("lenet5").preprocessing
    subset = bundled_subset()
    info = PreprocessingInfo(pre.resize, (pre.crop, pre.crop), pre.mean, pre.std)
    inputs = {"input": preprocess(subset.images, info)}
    reference = CpuGraph((everything.path / "model.onnx").read_bytes())(inputs)["logits"]
    for path in ("model.int8.onnx", "model.int8-cpu.onnx"):
        graph = CpuGraph((everything.path / path).read_bytes(), as_floats=path == "model.int8.onnx")
        logits = graph(inputs)["logits"]
        receipt = everything.manifest.receipts["precision"][path]["accuracy"]
        assert receipt["images"] == 2000
        assert receipt["hits"] == np.count_nonzero(logits.argmax(1) == subset.labels)
        assert receipt["flipped"] == np.count_nonzero(logits.argmax(1) != reference.argmax(1))
        assert receipt["drop_points"] <= receipt["max_drop"] == 0.5
        low, high = receipt["top1_interval"]
        assert low < receipt["hits"] / 2000 < high


def test_a_loss_over_the_bound_fails_and_writes_nothing(tmp_path: Path) -> None:
    options = replace(INT8, precision=replace(INT8.precision, max_drop=0.0))
    with pytest.raises(PrecisionError, match=r"int8 loses .* allowed are 0"):
        export("lenet5", tmp_path, options)
    assert list(tmp_path.iterdir()) == []


def test_bisection_finds_nodes_that_bring_it_within_the_bound(tmp_path: Path) -> None:
    options = replace(INT8, precision=replace(INT8.precision, max_drop=0.2, bisect=True))
    done = export("lenet5", tmp_path, options)
    receipt = done.manifest.receipts["precision"]["model.int8.onnx"]
    assert receipt["accuracy"]["drop_points"] <= 0.2
    assert receipt["search"]["keep"]
    assert 0 < receipt["search"]["kept_share"] < 1
    kept = set(receipt["search"]["keep"])
    assert kept <= set(receipt["conversion"]["kept"])


def test_random_weights_are_not_held_to_an_accuracy(tmp_path: Path) -> None:
    done = export("lenet5", tmp_path, replace(INT8, weights="random"))
    receipt = done.manifest.receipts["precision"]["model.int8.onnx"]["accuracy"]
    assert receipt["hits"] is None
    assert receipt["drop_is"].startswith("an upper bound")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("fp8",)}, "no precision 'fp8'"),
        ({"io": "fp16"}, "give --fp16 too"),
        ({"bisect": True}, "--bisect is for int8"),
        ({"calibration": Path("x")}, "--calibration is for int8"),
        ({"names": ("int8",), "max_drop": -1.0}, "--max-drop must lie in 0..100"),
    ],
)
def test_options_that_do_not_go_together(changes: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        PrecisionOptions(**changes)  # type: ignore[arg-type]


def test_int8_needs_to_know_how_images_become_inputs(tmp_path: Path) -> None:
    source = export("lenet5", tmp_path).path / "model.onnx"
    with pytest.raises(OptionError, match="give --calibration"):
        export(str(source), tmp_path / "out", INT8)
    for number in range(16):
        (tmp_path / f"{number}.png").touch()  # never read
    chosen = replace(INT8, precision=replace(INT8.precision, calibration=tmp_path))
    with pytest.raises(OptionError, match="--mean and --std"):
        export(str(source), tmp_path / "out", chosen)


def test_a_graph_of_several_inputs_is_calibrated_on_its_own_data(
    tmp_path: Path, graphs: Any
) -> None:
    """Without classes each output's error is judged, and every layer can be looked at."""
    text = """g (float[N, 4, T] x, float[N, 4, 1] z) => (float[N, 8, T] y)
        { s = Add(x, z) c = Conv <pads=[1,1]>(s, a) r = Relu(c) d = Conv(r, b) e = Relu(d) y = Conv(e, k) }"""
    shapes = {"a": (8, 4, 3), "b": (8, 8, 1), "k": (8, 8, 1)}
    drawn = {name: graphs.draw(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    source, data = tmp_path / "two.onnx", tmp_path / "data.npz"
    source.write_bytes(graphs.content(text, **drawn))
    np.savez(data, x=graphs.draw(20, 4, 9), z=graphs.draw(20, 4, 1, seed=1))
    precision = PrecisionOptions(names=("int8", "fp16"), calibration=data)
    options = ExportOptions(samples=data, precision=precision, compare_layers=True)
    done = export(str(source), tmp_path / "out", options)
    receipts = done.manifest.receipts["precision"]
    for path in ("model.int8.onnx", "model.int8-cpu.onnx", "model.fp16.onnx"):
        (row,) = receipts[path]["accuracy"]["outputs"]
        assert 0 < row["relative"] < 0.1
        assert row["cosine"] > 0.99
        layers = receipts[path]["layers"]
        assert "within" in layers["summary"]
        assert {layer["op"] for layer in layers["layers"]} == {"Add", "Conv", "Relu"}
    assert "20 samples of data.npz" in receipts["model.int8.onnx"]["conversion"]["description"]
    assert receipts["model.fp16.onnx"]["precision"]["shares"] == {
        "fp16": 1.0
    }  # of the shapes given


def test_the_command_says_what_each_precision_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half, engine = ["--fp16", "--io", "fp16"], ["--engine", "tensorrt-rtx", "--shapes", "1,4,16"]
    assert cli.main(["lenet5", *half, *engine, "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "100.0% fp16" in out
    assert "2,000 images" in out
    manifest = read_manifest(tmp_path / "lenet5")
    assert [(p.min, p.opt, p.max) for p in manifest.engines[0].profiles] == [(1, 4, 16)]
    half = onnx.load(tmp_path / "lenet5" / "model.fp16.onnx").graph
    assert half.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
