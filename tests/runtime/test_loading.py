"""What `load` is asked for, which library it takes, and what it logs of that."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engine_place import Place
from refusals import refuses

from repr_runtime import load
from repr_runtime.backends import onnxruntime as ort
from repr_runtime.cuda.driver import cuda_status
from repr_runtime.errors import DeviceUnavailableError, OptionError
from repr_runtime.loading import LoadOptions


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"nonfinite": "ignore"}, "nonfinite must be one of error, allow, got 'ignore'"),
        ({"threads": 0}, "threads must be a whole number from 1 to 65,536, got 0"),
        ({"threads": "2"}, "threads must be a whole number"),
        ({"threads": 10**12}, "to 65,536, got 1000000000000"),
        ({"instances": -1}, "instances must be a whole number from 1"),
        ({"instances": True}, "got True"),
        ({"tuned": "speed"}, "latency, throughput, got 'speed'"),
        ({"tuned": 3}, "latency, throughput, got 3"),
        ({"batch": 0}, "batch must be a whole number from 1"),
        ({"limits": {"nodes": 1}}, "limits must be Limits, got {'nodes': 1}"),
        ({"engine": 3}, "engine must be the path of a file or folder, got 3"),
        ({"engine": "x.engine", "device": "cpu"}, "device='tensorrt', not 'cpu'"),
    ],
)
def test_options_check_themselves_before_anything_is_read(asked: Any, words: str) -> None:
    for make in (LoadOptions, lambda **options: load("no such folder", **options)):
        with refuses(OptionError, words) as caught:
            make(**asked)
        assert isinstance(caught.value, ValueError)


def test_what_is_no_path_and_no_options() -> None:
    for path in (None, 3):
        with refuses(OptionError, f"path must be the path of a file or folder, got {path}"):
            load(path)  # type: ignore[arg-type]
    with refuses(OptionError, "options must be TensorRTOptions, got {'gpu': 1}"):
        load("no such folder", options={"gpu": 1})  # type: ignore[arg-type]


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    why_not = ort.why_not
    monkeypatch.setattr(ort, "why_not", lambda d: "no GPU" if d == "cuda" else why_not(d))


@pytest.mark.usefixtures("no_gpu")
def test_what_was_chosen_is_logged_and_nothing_is_printed(
    artifact: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, logger="repr_runtime")
    with load(artifact) as session:
        assert session.choice == (
            f"ONNX Runtime {ort.version()} on cpu; not on cuda: no GPU; "
            "not on tensorrt: the artifact has no fp32 engine"
        )
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == ["DEBUG", "DEBUG", "INFO"]
    assert [words.partition(": ")[2].partition(":")[0] for _, words in said[:2]] == [
        "not on tensorrt",
        "not on cuda",
    ]
    assert said[2][1] == f"{artifact}, model.onnx: {session.choice}"
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("repr_runtime").handlers == []


@pytest.mark.usefixtures("no_gpu")
def test_what_falls_back_is_a_warning(
    tiny: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = Place(tmp_path / "a", tiny, monkeypatch).write("tensorrt", platform="none")
    monkeypatch.setenv("REPR_CACHE", str(tmp_path / "cache"))
    load(path, tuned="latency").close()
    tuned, fell = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert tuned.startswith("tiny: not tuned for latency: ")
    assert fell.startswith(f"{path} runs on cpu; not on tensorrt: ")


@pytest.mark.skipif(ort.why_not("cuda") is None, reason="CUDA can be used here")
@pytest.mark.parametrize("device", ["cuda", "onnxruntime-tensorrt", "auto"])
def test_a_provider_that_cannot_be_loaded_is_an_error_and_no_line_on_stderr(
    artifact: Path,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A GPU with its driver, and not the libraries that ONNX Runtime needs."""
    if ort.why_not("onnxruntime-tensorrt") != cuda_status().reason:
        pytest.skip("this ONNX Runtime has no provider for GPUs")
    monkeypatch.setattr(ort, "cuda_status", lambda: SimpleNamespace(devices=1, reason=""))
    if device == "auto":
        with load(artifact, device=device) as session:
            said = session.choice
    else:
        with pytest.raises(DeviceUnavailableError) as caught:
            load(artifact, device=device)
        said = str(caught.value)
    for part in ("cannot load its library: lib", "cannot open shared object", "install page"):
        assert part in said
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("precision", "tf32", "words"),
    [
        ("fp32", "0", "on cuda, TF32 off"),
        ("fp16", "1", "on cuda, TF32 allowed"),
        ("bf16", "1", "on cuda, TF32 allowed"),
        ("int8", "0", "on cuda, what is int8 in the graph computed in float32, TF32 off"),
    ],
)
def test_on_a_gpu_it_is_said_what_arithmetic_is_used(
    tiny: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    tf32: str,
    words: str,
) -> None:
    """Without tensor cores, which TF32 stands for in the library, half precisions would crawl."""
    options: dict[str, str] = {}
    opened = ort._open

    class OnTheCpu:
        def __init__(self, library: Any, graph: bytes, how: Any, providers: Any) -> None:
            options.update(dict(providers)["CUDAExecutionProvider"])
            self._real = opened(library, graph, how, [ort._CPU])

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def get_provider_graph_assignment_info(self) -> list[Any]:
            return []

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    monkeypatch.setattr(ort, "_open", OnTheCpu)
    monkeypatch.setattr(ort, "why_not", lambda _: None)
    more = {f"model.{precision}.onnx": (tiny.graph(), "graph", precision)}
    path = tiny.write(tmp_path / "a", more={} if precision == "fp32" else more)
    with load(path, device="cuda", precision=precision) as session:
        assert session.choice == f"ONNX Runtime {ort.version()} {words}, as asked for"
    assert options == {"use_tf32": tf32, "device_id": "0"}


def test_any_number_of_samples_on_a_graph_of_a_fixed_batch(tiny: Any, tmp_path: Path) -> None:
    with load(tiny.write(tmp_path / "a", batch=4), device="cpu", threads=1) as session:
        for count in (1, 3, 4, 5, 8):
            x = tiny.inputs(count)
            logits = session.run_all({"input": x})["logits"]
            np.testing.assert_allclose(logits, tiny.logits(x), rtol=1e-4, atol=1e-5)
        assert session.self_test().samples == 3
        assert len(session.classify(np.zeros((5, 9, 7, 3), np.uint8))) == 5
