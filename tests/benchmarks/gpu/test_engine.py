"""Trials of engines, over the fakes: each stage, and the whole of what was said where one fails."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_place import RTX_PATH, Place, engine_info, summing_graph
from fake_tensorrt import engine_bytes
from tiny_artifact import Tiny

from repr_bench.gpu import engine as trials
from repr_bench.gpu.record import Record
from repr_export.tensorrt.build import BuiltEngine
from repr_export.tensorrt.receipt import EngineReceipt
from repr_runtime.backends.tensorrt.library import EDITIONS

EDITION = "tensorrt-rtx"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path / "artifacts" / "tiny", Tiny(), monkeypatch)
    monkeypatch.setattr(trials, "open_library", made._library)
    monkeypatch.setattr(trials, "open_cuda", made._cuda)
    receipt = EngineReceipt("engine", {"fp32": 1}, {})
    monkeypatch.setattr(trials, "open_builder", lambda edition: made._library(EDITIONS[edition]))
    monkeypatch.setattr(trials, "inspect_engine", lambda *_: receipt)
    monkeypatch.setattr(trials, "_TIMED", 3)
    made.write()
    return made


def tried(place: Place, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> dict[str, Any]:
    """The record of a trial whose builder makes a fake engine with ``fields``."""
    profiles = ((1, 8, 32),)
    info = engine_info(f"engines/fp32.{EDITION}.engine", EDITION, "1.7.1.116", summing_graph())
    info = replace(info, compute_capabilities=fields.pop("built_for", ("8.9",)))
    content = engine_bytes(rtx=True, version="1.7.1.116", profiles=profiles, **fields)
    receipt = EngineReceipt("network", {"fp32": 1}, {})
    built = BuiltEngine(content, info, receipt, ("a note",), 0.1)
    monkeypatch.setattr(trials, "build_engine", lambda *_, **__: built)
    path = place.folder.parent.parent / "trial.json"
    record = Record(path, network="tiny", precision="fp32", edition=EDITION, target="current")
    trials.try_engine(place.folder, "fp32", EDITION, "current", record)
    return {each["stage"]: each for each in json.loads(path.read_text())["stages"]}


def test_an_engine_that_works(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = tried(place, monkeypatch)
    assert {name: each["message"] for name, each in stages.items() if not each["ok"]} == {}
    assert [*stages] == [
        "build",
        "header",
        "deserialize",
        "load",
        "self-test",
        "answers",
        "time",
        "receipt",
        "graphs",
    ]
    assert stages["self-test"]["found"]["samples"] == 3
    assert [*stages["graphs"]["found"]] == ["none", "the library's", "own"]
    assert [*stages["time"]["found"]] == ["1", "2", "8", "32"]
    assert "TensorRT-RTX 1.7.1.116 on cuda:0" in stages["load"]["found"]["choice"]
    assert [info.path for info in place.manifest().engines] == [RTX_PATH]  # for the benchmark


def test_a_replay_that_differs_is_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = tried(place, monkeypatch, replays_wrongly=True)["graphs"]
    assert not graphs["ok"]
    assert (
        "own: CudaGraphWarning: no CUDA graph: its replay gives other values" in graphs["message"]
    )


def test_a_refused_engine_leaves_the_whole_message(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.install(EDITION, validity=2)
    stages = tried(place, monkeypatch, built_for=("9.0",))
    assert [*stages] == [
        "build",
        "header",
        "deserialize",
        "load",
        "load without checks",
        "self-test",
        "answers",
        "time",
        "receipt",
        "graphs",
    ]
    assert stages["header"]["found"]["invalid"] == ["UNSUPPORTED_CC"]
    assert "WrongGpuError: " in stages["load"]["message"]
    assert place.manifest().engines == ()
    assert stages["self-test"]["ok"]  # it runs all the same, and that is a finding


def test_an_engine_of_another_version(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.install(EDITION, "1.8.0.0")
    stages = tried(place, monkeypatch)
    assert [*stages] == ["build", "header", "deserialize", "load", "load without checks"]
    said = "version tag mismatch: 1.7.1.116 against 1.8.0.0"
    assert said in stages["deserialize"]["message"]
    assert said in stages["load without checks"]["message"]
