"""What `load` is asked for, which library it takes, and what it logs of that."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_place import Place

from repr_runtime import load
from repr_runtime.backends import onnxruntime as ort
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
    assert tuned.startswith("model.onnx: not tuned for latency: ")
    assert fell.startswith(f"{path} runs on cpu; not on tensorrt: ")


def test_any_number_of_samples_on_a_graph_of_a_fixed_batch(tiny: Any, tmp_path: Path) -> None:
    with load(tiny.write(tmp_path / "a", batch=4), device="cpu", threads=1) as session:
        for count in (1, 3, 4, 5, 8):
            x = tiny.inputs(count)
            logits = session.run_all({"input": x})["logits"]
            np.testing.assert_allclose(logits, tiny.logits(x), rtol=1e-4, atol=1e-5)
        assert session.self_test().samples == 3
        assert len(session.classify(np.zeros((5, 9, 7, 3), np.uint8))) == 5
