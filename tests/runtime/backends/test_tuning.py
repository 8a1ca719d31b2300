"""Tuned settings: kept for one graph on one machine, used by `load`, ignored when in doubt."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repr_runtime import load, read_manifest
from repr_runtime.artifact.manifest import FileEntry
from repr_runtime.backends import tuning as module
from repr_runtime.backends.tuning import (
    Machine,
    Setting,
    resolve,
    store,
    this_machine,
    tuning_path,
    tuning_subject,
)
from repr_runtime.errors import OptionError

GRAPH = "ab" * 32
HERE = Machine("A CPU", 4, 2, "Linux x86_64", "1.31.1", "2026.4.1")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tuning"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(module, "this_machine", lambda: HERE)
    return HERE


def test_what_is_stored_is_found_and_the_other_goal_stays(here: Machine, cache: Path) -> None:
    quick, many = Setting(threads=1, spinning=False), Setting(threads=1, instances=2, batch=8)
    store("latency", [quick], GRAPH, here, search={"candidates": [1]})
    path = store("throughput", [many], GRAPH, here)
    assert path == tuning_path(GRAPH, here)
    assert [file.name for file in cache.iterdir()] == [path.name]
    assert resolve("latency", GRAPH) == (
        quick,
        "tuned for latency: 1 thread, no spinning",
    )
    assert resolve("throughput", GRAPH)[0] == many
    assert json.loads(path.read_text())["goals"]["latency"]["search"] == {"candidates": [1]}


@pytest.mark.usefixtures("here")
def test_none_a_setting_of_ones_own_and_a_goal_that_was_never_tuned() -> None:
    assert resolve(None, GRAPH) == (None, "")
    mine = Setting(threads=3)
    assert resolve(mine, GRAPH) == (mine, "with 3 threads")
    words = "not tuned for latency: this graph was never tuned here; repr-bench --tune latency"
    assert resolve("latency", GRAPH) == (None, words)


@pytest.mark.parametrize(
    ("goal", "graph", "change", "words"),
    [
        ("latency", GRAPH, {"cpu": "Another"}, "cpu Another, here A CPU"),
        ("latency", GRAPH, {"usable_cores": 4}, "usable_cores 4, here 2"),
        ("latency", GRAPH, {"onnxruntime": "1.30.0"}, "onnxruntime 1.30.0, here 1.31.1"),
        ("latency", GRAPH, {"openvino": ""}, "openvino none, here 2026.4.1"),
        ("throughput", GRAPH, {}, "tuned for throughput alone"),
        ("latency", GRAPH[:16] + "cd" * 24, {}, "of another graph"),  # in the same file
    ],
)
def test_what_was_tuned_for_something_else_is_not_used(
    here: Machine, goal: str, graph: str, change: dict[str, Any], words: str
) -> None:
    store(goal, [Setting(threads=1)], graph, replace(here, **change))
    setting, why = resolve("latency", GRAPH)
    assert setting is None
    assert words in why


@pytest.mark.parametrize(
    "damage",
    [
        *(
            {"schema": 1},
            {"goals": 3},
            {"goals": {"latency": {}}},
            {"goals": {"latency": []}},
            {"goals": {"latency": {"settings": []}}},
        ),
        *(
            {"goals": {"latency": {"settings": [setting]}}}
            for setting in (
                *({"threads": -1}, {"threads": True}, {"threads": "2"}),
                *({"spinning": 1}, {"optimization": "rm"}, {"code": "x"}),
            )
        ),
        *({"machine": {}}, {"machine": asdict(HERE) | {"cores": 8}}),
        *(b"", b"\xff", b"[" * 100_000, b" " * (2**20 + 1), b"[]"),
    ],
)
def test_a_damaged_file_is_not_used_and_is_replaced(here: Machine, damage: Any) -> None:
    path = store("latency", [Setting()], GRAPH, here)
    changed = isinstance(damage, dict)
    content = json.dumps(json.loads(path.read_text()) | damage).encode() if changed else damage
    path.write_bytes(content)
    setting, words = resolve("latency", GRAPH)
    assert setting is None
    assert words.startswith("not tuned for latency: ")
    assert not changed or "repr-bench --tune" in words
    store("latency", [Setting(threads=2)], GRAPH, here)
    assert resolve("latency", GRAPH)[0] == Setting(threads=2)


def test_a_folder_that_cannot_be_read_is_no_error(
    here: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REPR_CACHE", str(tmp_path / "file"))
    assert resolve("latency", GRAPH)[0] is None
    with pytest.raises(OSError):
        store("latency", [Setting()], GRAPH, here)


def test_load_uses_what_was_stored(artifact: Path) -> None:
    subject = tuning_subject(read_manifest(artifact), "fp32")
    with load(artifact, device="cpu", tuned="throughput") as session:
        assert "not tuned for throughput: this graph was never tuned" in session.choice
        x = np.random.default_rng(0).standard_normal((2, 3, 4, 4), np.float32)
        plain = session.run(x)
    setting = Setting(threads=1, instances=2, arena=False, memory_pattern=False, batch=4)
    store("throughput", [setting], subject, this_machine())
    with load(artifact, device="cpu", tuned="throughput") as session:
        assert (
            "on cpu, tuned for throughput: 2 instances of 1 thread, no arena, no memory pattern, "
            "batch 4" in session.choice
        )
        assert session.backend.instances == 2
        for name, values in session.run(x).items():
            np.testing.assert_allclose(values, plain[name], rtol=1e-5, atol=1e-6)
    with load(artifact, device="cpu", tuned="throughput", threads=1) as session:
        assert session.backend.instances == 1
        assert "but for the threads and instances that were asked for" in session.choice


def test_the_options_reach_onnx_runtime(artifact: Path) -> None:
    mine = Setting(
        threads=2, spinning=False, arena=False, memory_pattern=False, optimization="extended"
    )
    with load(artifact, device="cpu", tuned=mine) as session:
        backend: Any = session.backend
        options = backend.session.get_session_options()
        assert options.intra_op_num_threads == 2
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (False, False)
        assert options.graph_optimization_level.name == "ORT_ENABLE_EXTENDED"
        assert "with 2 threads, no spinning, no arena" in session.choice


def test_what_is_tuned_is_a_precision_with_all_the_graphs_that_it_may_run_as(
    artifact: Path,
) -> None:
    def subjects(**files: str) -> list[str]:
        entries = [
            FileEntry(path, "graph", path[:4], 1, sha256, path[5:] or "any")
            for path, sha256 in files.items()
        ]
        manifest = replace(read_manifest(artifact), files=tuple(entries))
        return [tuning_subject(manifest, precision) for precision in ("fp32", "bf16", "int8")]

    fp32, bf16, int8 = subjects(fp32="a", bf16="a", int8_cpu="b", int8_tensorrt="c")
    assert len({fp32, bf16, int8}) == 3
    changed = subjects(fp32="a", bf16="x", int8_cpu="b", int8_tensorrt="d")
    assert changed[0] == fp32
    assert not {bf16, int8} & set(changed)


def test_a_batch_size_has_the_setting_of_the_next_one_that_was_tried(here: Machine) -> None:
    best, *others = (Setting(threads=n, batch=n) for n in (8, 1, 32))
    store("throughput", [best, *others], GRAPH, here)
    found = {
        batch: getattr(resolve("throughput", GRAPH, batch)[0], "threads", None)
        for batch in (None, 1, 2, 4, 8, 15, 17, 1000)
    }
    assert found == {None: 8, 1: 1, 2: 1, 4: 8, 8: 8, 15: 8, 17: 32, 1000: 32}


def test_what_one_library_has_is_not_for_the_other() -> None:
    assert str(Setting("openvino", "tensorrt", 1, 2)) == (
        "OpenVINO, the graph for tensorrt, 2 instances of 1 thread"
    )
    with pytest.raises(OptionError, match=r"spinning, arena.*library='openvino'"):
        Setting(library="openvino", spinning=False)
    with pytest.raises(OptionError, match="library must be one of onnxruntime, openvino"):
        Setting(library="torch")
    with pytest.raises(OptionError, match="target must be one of cpu, tensorrt"):
        Setting(target="any")
