"""The command `repr-inspect`: what it shows, its exit status, and never a traceback."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest

from repr_runtime import cli as inspect_cli
from repr_runtime.artifact.manifest import WeightsInfo
from repr_runtime.cli import main
from repr_runtime.machine import version_of

Inspect = Callable[..., tuple[int, str]]
COMMAND = [sys.executable, "-W", "error", "-m", "repr_runtime.cli"]


def test_a_good_artifact(lenet5: Path, inspect: Inspect) -> None:
    status, shown = inspect(lenet5, "--verify", "--device", "cpu")
    assert status == 0
    for part in (
        f"artifact  {lenet5}",
        "network   lenet5.cifar10, 62,006 parameters, ",
        "weights   bundled (",
        "input     input: float32[batch, 3, 32, 32]",
        "output    logits: float32[batch, 10]",
        "images    RGB, shorter side to 32, centre 32x32, mean (0.4914, ",
        "labels    10: airplane, automobile, bird, cat, …",
        "file      model.onnx (graph, fp32, 0.26 MB)",
        "fold      0 of 0 BatchNorms folded",
        "parity    ",
        "[ok] manifest: schema 1, unaltered",
        "[ok] files: 2 files, 0.3 MB, SHA-256 of each as exported",
        "[ok] runs here: ONNX Runtime ",
        "[ok] self-test: ",
        "\nThis artifact will run here.\n",
    ):
        assert part in shown


def test_lines_are_wrapped_to_a_narrow_terminal_between_words(
    artifact: Path, inspect: Inspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    (artifact / "model.onnx").unlink()
    whole = inspect(artifact)[1]
    assert max(map(len, whole.splitlines())) > 80  # where there is no terminal
    monkeypatch.setenv("COLUMNS", "40")
    narrow = inspect(artifact)[1]
    assert narrow.split() == whole.split()
    assert all(len(line) <= 40 or " " not in line.strip() for line in narrow.splitlines())
    for part in (r"\nimages    RGB, .*\n          \S", r"\n\[NO\] files:.*\n     \S"):
        assert re.search(part, narrow)


def test_every_command_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    commands = [e for e in entry_points(group="console_scripts") if e.name.startswith("repr-")]
    assert len(commands) >= 4
    for command in commands:
        with pytest.raises(SystemExit) as caught:
            command.load()(["--version"])
        assert caught.value.code == 0
        assert capsys.readouterr().out == f"{command.name} {version('repr-deploy')}\n"
    assert version_of("no such distribution") == "unknown"


def test_verifying_is_asked_for(artifact: Path, inspect: Inspect) -> None:
    assert "sizes as exported" in inspect(artifact)[1]
    golden = artifact / "golden.npz"
    golden.write_bytes(golden.read_bytes()[:-1] + b"?")
    assert inspect(artifact)[0] == 0
    status, shown = inspect(artifact, "--verify")
    assert (status, "[NO] files: " in shown) == (1, True)


def test_a_broken_artifact_and_none(artifact: Path, inspect: Inspect) -> None:
    (artifact / "model.onnx").write_bytes(b"x")
    status, shown = inspect(artifact)
    assert status == 1
    for part in ("network   tiny", "[ok] manifest", "[NO] files: ", "again, or export it again"):
        assert part in shown
    assert shown.endswith("This artifact will not run here.\n")
    assert "runs here:" not in shown
    none = artifact / "none"
    assert inspect(none) == (
        1,
        f"[NO] manifest: {none} is not an artifact: there is no such folder; make one "
        "with repr-export\nThis artifact will not run here.\n",
    )


def test_another_precision_and_device(artifact: Path, inspect: Inspect) -> None:
    status, shown = inspect(artifact, "--precision", "int8")
    assert (status, "[NO] runs here: " in shown) == (1, True)
    assert "no int8 graph; it has fp32" in shown
    with pytest.raises(SystemExit) as caught:
        inspect(artifact, "--device", "tpu")
    assert caught.value.code == 2


def test_json_gives_everything(artifact: Path, inspect: Inspect) -> None:
    status, shown = inspect(artifact, "--json", "--verify", "--device", "cpu")
    report = json.loads(shown)
    assert (status, report["runs_here"]) == (0, True)
    names = [check["name"] for check in report["checks"]]
    assert names == ["manifest", "files", "runs here", "self-test"]
    assert all(set(check) == {"name", "passed", "detail"} for check in report["checks"])
    assert report["manifest"]["network"]["parameters"] == 245
    (artifact / "manifest.json").unlink()
    status, shown = inspect(artifact, "--json")
    report = json.loads(shown)
    assert (status, report["runs_here"], report["manifest"]) == (1, False, None)


def test_what_a_terminal_would_obey_or_cannot_show_is_escaped(tiny: Any, tmp_path: Path) -> None:
    weights = WeightsInfo("file", "\x1b[31mred\n[ok] trust me", None, {})
    path = tiny.write(tmp_path / "a", labels=("木", "b", "c", "d", "e"), weights=weights)
    done = subprocess.run(
        [*COMMAND, str(path)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert rb"labels    5: \u6728, b, c, d, \u2026" in done.stdout
    assert rb"\x1b[31mred\n[ok] trust me" in done.stdout
    assert b"\x1b" not in done.stdout
    assert done.stderr == b""


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes of this kind")
@pytest.mark.parametrize("option", ["--json", "--verify"])
def test_a_reader_that_goes_away(artifact: Path, option: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, str(artifact), option, "--device", "cpu"],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 0


def test_an_interruption(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inspect_cli, "preflight", interrupt)
    assert main([str(artifact)]) == 130
    assert capsys.readouterr().err == "repr-inspect: interrupted\n"


def test_the_accuracy_that_training_recorded_is_shown(
    tiny: Any, tmp_path: Path, inspect: Inspect
) -> None:
    record = {"accuracy": {"test_top1": 0.7437}, "data": {"test": {"description": "10 images"}}}
    path = tiny.write(tmp_path / "a", weights=WeightsInfo("bundled", "w", "ab" * 32, record))
    expected = "weights   bundled (w, SHA-256 abababababab…): 74.37% top-1 on 10 images\n"
    assert expected in inspect(path)[1]
    for odd in ({"accuracy": 3}, {"accuracy": {"test_top1": "high"}, "data": []}):
        path = tiny.write(tmp_path / "a", weights=WeightsInfo("bundled", "w", None, odd))
        assert "weights   bundled (w)\n" in inspect(path)[1]
