"""`repr-inspect --machine`: what there is, what loads, what computes, and exactly why the rest does not."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_tensorrt
import onnx
import pytest
from fake_cuda import FakeCuda

from repr_runtime import cli
from repr_runtime.backends import survey as module
from repr_runtime.backends.survey import Found, Survey, survey, try_device
from repr_runtime.backends.tensorrt.library import Edition, Library
from repr_runtime.cuda.driver import CudaStatus, Gpu
from repr_runtime.errors import BackendError

Inspect = Callable[..., tuple[int, str]]
H100 = CudaStatus(1, "", (13, 0), (Gpu("NVIDIA H100", "9.0", 80 << 30),))


@pytest.mark.parametrize(
    ("code", "works", "detail"),
    [
        ("print(name); print('1.2')", True, "x; 1.2"),
        ("raise ValueError('no\\nway')", False, "ValueError: no; way"),
        ("import nowhere", False, "ModuleNotFoundError: No module named 'nowhere'"),
        (
            "import os; print('so', file=sys.stderr); os.abort()",
            False,
            "its process ended with SIGABRT; the last it said: so",
        ),
    ],
)
def test_an_attempt_says_what_came_of_it(code: str, works: bool, detail: str) -> None:
    assert module._attempt("x", code) == Found("x", works, detail)


def test_an_attempt_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.3)
    found = module._attempt("x", "import time; time.sleep(60)")
    assert found == Found("x", False, "it has not come back within 0.3 s")


def test_a_library_without_code_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stubs_alone").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "stubs_alone has no code here" in module._attempt("stubs_alone", module._IMPORT).detail
    assert module._attempt("numpy", module._IMPORT).works


def test_the_version_is_that_of_the_part_that_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, version in (("made", ""), ("made/bindings", "13.3.1"), ("made/finder", "1.8.1")):
        (tmp_path / name).mkdir()
        text = f"__version__ = {version!r}\n" if version else ""
        (tmp_path / name / "__init__.py").write_text(text)
    (tmp_path / "made" / "bindings" / "driver.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert module._attempt("made.bindings.driver", module._IMPORT).detail == "13.3.1"


def test_the_graph_that_is_tried_is_what_it_is_said_to_be() -> None:
    model = onnx.load_model_from_string(module._GRAPH)
    onnx.checker.check_model(model, full_check=True)
    assert [(node.op_type, [*node.input]) for node in model.graph.node] == [("Add", ["x", "x"])]
    assert "computes there, by CPUExecutionProvider" in try_device("cpu")
    assert re.fullmatch(r"OpenVINO [\d.]+ computes there", try_device("openvino"))


def test_tensorrt_is_each_of_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Edition, "installed", property(lambda each: each.just_in_time))

    def library(edition: Edition) -> Library:
        return Library(edition, fake_tensorrt.module(rtx=True))

    devices: list[FakeCuda] = []
    monkeypatch.setattr(module, "open_cuda", lambda: devices.append(FakeCuda()) or devices[-1])
    monkeypatch.setattr(module, "open_library", library)
    said = try_device("tensorrt")
    assert said.startswith(
        "TensorRT-RTX 1.7.1.116 through fake, 1.0 of 1.0 GiB free; whether it takes"
    )
    assert said.endswith("; TensorRT is not installed; TensorRT's lean runtime is not installed")
    monkeypatch.setattr(module, "cuda_status", lambda: H100)
    refused = (
        "not installed; TensorRT-RTX does not run on NVIDIA H100 (compute capability 9.0), but"
    )
    with pytest.raises(BackendError, match=re.escape(refused)):
        try_device("tensorrt")
    monkeypatch.setattr(module, "RUNNERS", {})
    with pytest.raises(BackendError):
        try_device("tensorrt")
    assert all(device.closed for device in devices)


def test_facts_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 580.159.04, 1980 MHz\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    facts = dict(module._facts(H100))
    assert facts["GPU 0"] == "NVIDIA H100, compute capability 9.0, 80.0 GiB"
    assert facts["CUDA"] == "the driver speaks CUDA 13.0"
    assert facts["SMI 0"].endswith(": 580.159.04, 1980 MHz")
    assert dict(module._facts(CudaStatus(0, "no driver")))["GPU"] == "none: no driver"


def test_the_command(inspect: Inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_attempt", lambda name, _: Found(name, name == "cpu", "so"))
    monkeypatch.setattr(cli, "survey", survey)
    status, shown = inspect("--machine")
    assert status == 0
    assert "[NO] library tensorrt_rtx: so\n" in shown
    assert shown.endswith("[NO] device openvino: so\n[ok] device cpu: so\n")
    status, shown = inspect("--machine", "--json")
    found = json.loads(shown)
    assert found["devices"][-1] == {"name": "cpu", "works": True, "detail": "so"}
    assert {"system", "CPU", "precision"} <= {*found["facts"]}
    nothing: Any = Survey({}, (), (Found("cpu", False, "no"),))
    monkeypatch.setattr(cli, "survey", lambda: nothing)
    assert inspect("--machine")[0] == 1


@pytest.mark.parametrize("arguments", [[], ["artifact", "--machine"]])
def test_either_an_artifact_or_the_machine(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)
    assert error.value.code == 2
    assert "give an artifact, or --machine without one" in capsys.readouterr().err
