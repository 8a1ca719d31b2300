"""Triton model repositories: read by Triton's own schema, their warm-up run by plain ONNX Runtime."""

import importlib.util
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from google.protobuf import text_format

from repr_export import cli
from repr_export.errors import TritonError
from repr_export.triton import repository
from repr_export.triton.config import HEADER, Model
from repr_export.triton.repository import model_names, write_triton
from repr_runtime import read_manifest
from repr_runtime.artifact.manifest import (
    EngineInfo,
    Manifest,
    NetworkInfo,
    ProfileInfo,
    TensorSpec,
    WeightsInfo,
)
from repr_runtime.artifact.reading import describe_file
from repr_runtime.artifact.writing import write_artifact

CLASSES = "agraph (float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }"
NUMPY = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BOOL": "bool"}
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def schema() -> Any:
    """Tritonclient's `model_config_pb2`, out of its file: its package asks for all of gRPC."""
    spec = importlib.util.find_spec("tritonclient")
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).parent / "grpc" / "model_config_pb2.py"
    alone = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert alone is not None
    assert alone.loader is not None
    module = importlib.util.module_from_spec(alone)
    alone.loader.exec_module(module)
    return module


@pytest.fixture
def read(schema: Any) -> Callable[[Path], Any]:
    """The configuration of a model's folder."""

    def config(model: Path) -> Any:
        return text_format.Parse((model / "config.pbtxt").read_text("utf-8"), schema.ModelConfig())

    return config


@pytest.fixture
def write(graphs: Any, tmp_path: Path) -> Write:
    """An artifact of graphs by path in ONNX's syntax, the samples its first graph's answers are of."""

    def artifact(
        texts: Mapping[str, str],
        samples: Mapping[str, Any],
        inseparable: str = "",
        engines: tuple[EngineInfo, ...] = (),
        **fields: Any,
    ) -> Path:
        weights = {"w": np.arange(12, dtype=np.float32).reshape(4, 3)}
        models = {path: graphs.using(weights, text) for path, text in texts.items()}
        files = {path: repository.ir.to_proto(m).SerializeToString() for path, m in models.items()}
        first = next(iter(models.values()))
        names = [output.name for output in first.graph.outputs]
        outputs = dict(zip(names, graphs.run(first, samples), strict=True))
        stream = io.BytesIO()
        arrays = {f"input.{name}": values for name, values in samples.items()}
        np.savez(stream, **arrays, **{f"output.{name}": v for name, v in outputs.items()})
        entries = [
            describe_file(path, content, "graph", path.split(".")[1].split("-")[0], _target(path))
            for path, content in files.items()
        ]
        entries[0] = replace(entries[0], precision="fp32")
        files["golden.npz"] = stream.getvalue()
        files |= {engine.path: b"plan" for engine in engines}
        entries.append(describe_file("golden.npz", files["golden.npz"], "golden"))
        entries += [describe_file(e.path, b"plan", "engine", e.precision) for e in engines]
        manifest = Manifest(
            network=NetworkInfo("mine", "mine", None, 12, 12, "onnx"),
            weights=WeightsInfo("onnx", "mine.onnx", None, {}),
            inputs=(TensorSpec("x", "float32", ("N", 4)),),
            outputs=(TensorSpec("y", "float32", ("N", 3)),),
            preprocessing=None,
            labels=fields.get("labels", ("ant", "bee", "cat")),
            files=tuple(entries),
            engines=engines,
            receipts={
                "golden": {
                    "samples": len(next(iter(samples.values()))),
                    "tolerance": dict.fromkeys(outputs, 1e-3),
                    "inseparable": inseparable,
                }
            },
        )
        write_artifact(tmp_path / "art" / "mine", manifest, files)
        return tmp_path / "art" / "mine"

    return artifact


def _target(path: str) -> str:
    return "cpu" if "-cpu" in path else "tensorrt" if "int8" in path else "any"


def warmed_up(config: Any, model: Path) -> list[list[np.ndarray]]:
    """What plain ONNX Runtime answers to each warm-up request, made as Triton makes it."""
    session = ort.InferenceSession(
        model / "1" / config.default_model_filename, providers=["CPUExecutionProvider"]
    )
    kinds = type(config.input[0]).DESCRIPTOR.fields_by_name["data_type"].enum_type
    answers = []
    for request in config.model_warmup:
        feeds = {}
        for tensor in config.input:
            given = request.inputs[tensor.name]
            kind = kinds.values_by_number[given.data_type].name.removeprefix("TYPE_")
            content = (model / "warmup" / given.input_data_file).read_bytes()
            one = np.frombuffer(content, NUMPY.get(kind, kind.lower()))
            shape = tensor.reshape.shape if tensor.HasField("reshape") else given.dims
            batch = [1] if config.max_batch_size else []
            feeds[tensor.name] = one.reshape(*batch, *shape)
        answers.append(session.run(None, feeds))
    return answers


def golden(artifact: Path) -> dict[str, np.ndarray]:
    return dict(np.load(artifact / "golden.npz"))


def test_a_bundled_network_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], read: Any
) -> None:
    out, models = tmp_path / "artifacts", tmp_path / "models"
    assert cli.main(["lenet5", "-o", str(out), "--triton", str(models)]) == 0
    assert f"triton    {models / 'lenet5'}\n" in capsys.readouterr().out
    config = read(models / "lenet5")
    assert (config.name, config.backend, config.max_batch_size) == ("lenet5", "onnxruntime", 32)
    assert config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [3, 32, 32]
    assert list(config.output[0].dims) == [10]
    labels = (models / "lenet5" / config.output[0].label_filename).read_text().splitlines()
    assert tuple(labels) == read_manifest(out / "lenet5").labels
    answers = warmed_up(config, models / "lenet5")
    expected = golden(out / "lenet5")["output.logits"]
    assert len(answers) == len(expected) == 4
    np.testing.assert_allclose(np.concatenate([a for (a,) in answers]), expected, atol=1e-4)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_each_precision_is_a_model_with_its_own_types(
    write: Write, tmp_path: Path, read: Any
) -> None:
    half = "agraph (float16[N,4] x) => (float16[N,3] y) { v = Cast<to=10>(w) y = MatMul(x, v) }"
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    paths = ("model.onnx", "model.fp16.onnx", "model.int8.onnx", "model.int8-cpu.onnx")
    artifact = write(dict(zip(paths, (CLASSES, half, CLASSES, CLASSES), strict=True)), {"x": x})
    written = write_triton(artifact, tmp_path / "models").models
    assert [m.name for m in written] == ["mine", "mine.fp16", "mine.int8", "mine.int8-cpu"]
    assert set(model_names("mine", ("fp16", "int8"), engines=False)) == {m.name for m in written}
    for model in written:
        config = read(model)
        assert config.name == model.name
        (y,) = np.split(golden(artifact)["output.y"], 1)
        answers = np.concatenate([a for (a,) in warmed_up(config, model)])
        np.testing.assert_allclose(answers, y, atol=0.02)
        assert answers.dtype == ("float16" if "fp16" in model.name else "float32")
    assert [group.kind for group in read(written[3]).instance_group] == [2]  # KIND_CPU
    assert not read(written[0]).instance_group


@pytest.mark.parametrize(
    ("text", "samples", "inseparable", "expected"),
    [  # the dims of inputs and outputs that Triton is told, after max_batch_size
        (CLASSES.replace("N", "5"), {"x": (5, 4)}, "", (0, [[5, 4]], [[5, 3]])),
        (CLASSES, {"x": (3, 4)}, "its outputs depend on the batch", (0, [[-1, 4]], [[-1, 3]])),
        (
            "agraph (float[N,T,4] x, int64[N] k) => (float[N,T,3] y, int64[N] z)"
            " { y = MatMul(x, w) z = Add(k, k) }",
            {"x": (3, 2, 4), "k": (3,)},
            "",
            (32, [[-1, 4], [1]], [[-1, 3], [1]]),
        ),
        (
            "agraph (float[2,N,4] x, bool[1] b) => (float[2,N,3] y) { y = MatMul(x, w) }",
            {"x": (2, 3, 4), "b": (1,)},
            "input 'x' has no row for each sample",
            (0, [[2, -1, 4], [1]], [[2, -1, 3]]),
        ),
    ],
)
def test_the_batch_is_triton_s_only_where_it_may_be_joined(
    text: str,
    samples: dict[str, tuple[int, ...]],
    inseparable: str,
    expected: tuple[int, list[list[int]], list[list[int]]],
    write: Write,
    tmp_path: Path,
    read: Any,
) -> None:
    kinds = {"k": np.int64, "b": np.bool_}
    arrays = {
        name: np.arange(np.prod(shape)).reshape(shape).astype(kinds.get(name, np.float32))
        for name, shape in samples.items()
    }
    artifact = write({"model.onnx": text}, arrays, inseparable)
    (model,) = write_triton(artifact, tmp_path / "models").models
    config = read(model)
    dims = [[list(tensor.dims) for tensor in side] for side in (config.input, config.output)]
    assert (config.max_batch_size, *dims) == expected
    assert config.HasField("dynamic_batching") is bool(config.max_batch_size)
    outputs = [value for key, value in golden(artifact).items() if key.startswith("output.")]
    for place, output in enumerate(outputs):
        rows = [answer[place] for answer in warmed_up(config, model)]
        np.testing.assert_array_equal(np.concatenate(rows), output)


def test_a_fixed_batch_of_more_than_the_golden_samples_has_them_over_again() -> None:
    x = np.arange(16, dtype=np.float32).reshape(4, 4)
    specs = (TensorSpec("x", "float32", (5, 4)),)
    files = Model("mine", b"", "onnxruntime", specs, specs, (), {"x": x}, False).files()
    assert files["warmup/golden0.input0"] == x[[0, 1, 2, 3, 0]].tobytes()


def test_openvino_takes_whole_batches_on_a_cpu(write: Write, tmp_path: Path, read: Any) -> None:
    artifact = write({"model.onnx": CLASSES}, {"x": np.ones((2, 4), np.float32)})
    (model,) = write_triton(artifact, tmp_path / "models", "openvino").models
    config = read(model)
    assert (config.backend, config.platform, config.max_batch_size) == ("openvino", "", 0)
    assert config.default_model_filename == "model.onnx"
    assert [group.kind for group in config.instance_group] == [2]
    openvino = pytest.importorskip("openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(model / "1" / "model.onnx", "CPU", settings)
    x = np.frombuffer((model / "warmup" / "golden0.input0").read_bytes(), np.float32)
    answer = compiled(x.reshape(config.model_warmup[0].inputs["x"].dims))[0]
    np.testing.assert_allclose(answer, golden(artifact)["output.y"], rtol=1e-6)


def _engine(path: str, flavour: str = "tensorrt", **options: Any) -> EngineInfo:
    profiles = (ProfileInfo(2, 2, 4), ProfileInfo(8, 16, 64))
    return EngineInfo(
        path, "fp32", flavour, "10.12", "linux", ("9.0",), profiles, "0" * 64, options
    )


def test_engines_of_tensorrt_are_models_and_others_say_why_not(
    write: Write, tmp_path: Path, read: Any
) -> None:
    engines = (
        _engine("engines/a.engine"),
        _engine("engines/b.engine", "tensorrt-rtx"),
        _engine("engines/c.engine", strip_weights=True),
    )
    samples = {"x": np.ones((2, 4), np.float32)}
    artifact = write({"model.onnx": CLASSES}, samples, engines=engines)
    done = write_triton(artifact, tmp_path / "models")
    assert [model.name for model in done.models] == ["mine", "mine.fp32-tensorrt"]
    assert done.models[1].name in model_names("mine", (), engines=True)
    config = read(done.models[1])
    assert (config.backend, config.platform, config.max_batch_size) == (
        "tensorrt",
        "tensorrt_plan",
        64,
    )
    assert (done.models[1] / "1" / config.default_model_filename).read_bytes() == b"plan"
    (group,) = config.instance_group
    assert (group.kind, list(group.profile)) == (1, ["0", "1"])  # KIND_GPU
    assert {request.batch_size for request in config.model_warmup} == {2}  # the least it takes
    rtx, stripped = done.as_dict()["left_out"]
    assert "not of TensorRT-RTX" in rtx
    assert "--strip-weights" in stripped


def test_others_models_stay_and_ours_is_replaced_as_a_whole(write: Write, tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "theirs" / "1").mkdir(parents=True)
    (models / "theirs" / "config.pbtxt").write_text('backend: "python"')
    artifact = write({"model.onnx": CLASSES}, {"x": np.ones((4, 4), np.float32)})
    (model,) = write_triton(artifact, models).models
    assert len(list((model / "warmup").iterdir())) == 4
    artifact = write({"model.onnx": CLASSES}, {"x": np.ones((2, 4), np.float32)}, labels=None)
    write_triton(artifact, models)
    assert len(list((model / "warmup").iterdir())) == 2
    assert not (model / "labels.txt").exists()
    assert sorted(os.listdir(models)) == ["mine", "theirs"]


def test_what_is_made_is_never_seen_by_triton(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes every folder of a repository for a model, hidden ones too."""
    seen, write_folder = [], repository.write_folder

    def watched(root: Path, *args: Any, **choices: Any) -> None:
        check = lambda _: seen.append(os.listdir(root.parent))  # noqa: E731
        write_folder(root, *args, **choices, check=check)

    monkeypatch.setattr(repository, "write_folder", watched)
    artifact = write({"model.onnx": CLASSES}, {"x": np.ones((2, 4), np.float32)})
    write_triton(artifact, tmp_path / "models")
    assert seen == [[]]


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        ("mine", None, "is there and is not a folder of files"),
        ("mine/config.pbtxt", 'name: "mine"', "has a config.pbtxt, which no export wrote"),
        ("mine/2/model.onnx", "theirs", r"holds 2/model\.onnx, which no export wrote"),
    ],
)
def test_what_no_export_wrote_is_never_replaced(
    place: str, content: str | None, message: str, write: Write, tmp_path: Path
) -> None:
    file = tmp_path / "models" / place
    file.parent.mkdir(parents=True)
    file.write_text(content or "x")
    if "2" in place:
        (tmp_path / "models" / "mine" / "config.pbtxt").write_text(HEADER)
    artifact = write({"model.onnx": CLASSES}, {"x": np.ones((2, 4), np.float32)})
    with pytest.raises(TritonError, match=f"{message}; give another --name"):
        write_triton(artifact, tmp_path / "models")
    assert file.read_text() == (content or "x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--triton", "file"], "file says 'Not a directory'; choose another place with --triton"),
        (
            ["--triton", "models", "--name", "my net"],
            "'my net' cannot be the name of a Triton model",
        ),
        (["--triton", "taken"], "lenet5 holds 1/model.py, which no export wrote"),
        (["--triton", "artifacts"], "artifacts has the artifact artifacts/lenet5 itself"),
        (["--triton", "artifacts/lenet5/models"], "give another folder to --triton"),
        (["--triton-backend", "openvino"], "give --triton DIR too"),
    ],
)
def test_mistakes_are_found_before_the_work(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("taken/lenet5/1").mkdir(parents=True)
    Path("taken/lenet5/1/model.py").write_text("theirs")
    monkeypatch.setattr("repr_export.pipeline._fold", lambda *_: pytest.fail("it works"))
    assert cli.main(["lenet5", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not Path("artifacts").exists()


def test_a_single_number_is_refused(write: Write, tmp_path: Path) -> None:
    text = "agraph (float[N,4] x) => (float y) { y = ReduceSum<keepdims=0>(x) }"
    artifact = write({"model.onnx": text}, {"x": np.ones((2, 4), np.float32)}, "a sum of the batch")
    with pytest.raises(TritonError, match=r"y: float32\[\] is a single number"):
        write_triton(artifact, tmp_path / "models")
