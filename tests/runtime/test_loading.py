"""What `load` is asked for, which library it takes, and what it logs of that."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repr_runtime import TensorRTOptions, load
from repr_runtime.artifact.manifest import EngineInfo, ProfileInfo
from repr_runtime.artifact.reading import describe_file
from repr_runtime.artifact.writing import write_artifact
from repr_runtime.backends import onnxruntime as ort
from repr_runtime.errors import DeviceUnavailableError
from repr_runtime.loading import LoadOptions


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"nonfinite": "ignore"}, "'error' or 'allow', got 'ignore'"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"instances": -1}, "instances must be at least 1, got -1"),
        ({"tuned": "speed"}, "latency, throughput, got 'speed'"),
        ({"engine": "x.engine", "device": "cpu"}, "device='tensorrt', not 'cpu'"),
    ],
)
def test_options_check_themselves_before_anything_is_read(asked: Any, words: str) -> None:
    for make in (LoadOptions, lambda **options: load("no such folder", **options)):
        with pytest.raises(ValueError) as caught:
            make(**asked)
        assert words in str(caught.value)
    with pytest.raises(DeviceUnavailableError):
        LoadOptions(device="tpu")
    assert LoadOptions().tensorrt == TensorRTOptions()


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
    manifest, files = tiny.parts()
    info = EngineInfo(
        path="e.engine",
        precision="fp32",
        flavour="tensorrt",
        version="0",
        platform="none",
        compute_capabilities=(),
        profiles=(ProfileInfo(1, 1, 1),),
        graph_sha256="0" * 64,
        options={},
    )
    engine = describe_file("e.engine", b"an engine", "engine", "fp32")
    parts = tiny.parts(files=(*manifest.files, engine), engines=(info,))[0]
    write_artifact(tmp_path / "a", parts, {**files, "e.engine": b"an engine"})
    monkeypatch.setenv("REPR_CACHE", str(tmp_path / "cache"))
    load(tmp_path / "a", tuned="latency").close()
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 2
    assert warnings[0].startswith("model.onnx: not tuned for latency: ")
    assert warnings[1].startswith(f"{tmp_path / 'a'} runs on cpu; not on tensorrt: ")


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8])
def test_any_number_of_samples_on_a_graph_of_a_fixed_batch(
    tiny: Any, tmp_path: Path, count: int
) -> None:
    x = tiny.inputs(count)
    with load(tiny.write(tmp_path / "a", batch=4), device="cpu", threads=1) as session:
        logits = session.run_all({"input": x})["logits"]
    assert logits.shape == (count, 5)
    np.testing.assert_allclose(logits, tiny.logits(x), rtol=1e-4, atol=1e-5)
