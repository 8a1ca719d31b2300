"""The command `repr-export` as a user meets it."""

import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from repr_export import cli, pipeline
from repr_export.sources import opening as sources
from repr_models.registry import resolve
from repr_runtime import cli as inspect_cli
from repr_runtime import load, read_manifest


def test_export_then_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lenet5", "-o", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "lenet5 is lenet5.cifar10" in out
    assert "10,000 images" in out  # an accuracy says on how many
    assert "0 of 0 BatchNorms folded" in out
    assert str(tmp_path / "lenet5") in out
    assert "\x1b" not in out + err  # to a pipe, plain
    assert inspect_cli.main([str(tmp_path / "lenet5"), "--verify"]) == 0


@pytest.mark.parametrize(("bar", "said"), [(0.8, True), (0.7437, False), (None, False)])
def test_weights_below_their_bar_are_said_to_be(
    bar: float | None,
    said: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    low = dataclasses.replace(resolve("lenet5"), bar=bar)
    monkeypatch.setattr(sources, "resolve", lambda _name: low)
    assert cli.main(["lenet5", "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert ("all 10,000 images; below its bar of 80%\n" in out) is said
    assert read_manifest(tmp_path / "lenet5").weights.record.get("bar") == bar


def test_json_is_all_there_is_on_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plain20", "--weights", "random", "-o", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["manifest"]["receipts"]["fold"]["total"] == 19
    with load(said["artifact"], device="cpu") as session:
        session.self_test()


def test_quiet_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lenet5", "-o", str(tmp_path), "--quiet", "--name", "other"]) == 0
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "other" / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet5O"], "did you mean"),
        (["shufflenet_v1.imagenet"], "--weights random"),
        (["lenet5", "--weights", "absent.pth"], "there is no checkpoint absent.pth"),
        (["lenet5", "--batch", "0"], "--batch must be a number from 1"),
        (["lenet5", "--opset", "3"], "--opset must lie in"),
        (
            ["lenet5", "--mean", "127,127,127", "--std", "1,1,1"],
            "--mean 0.498,0.498,0.498 --std 0.003922",
        ),
        ([__file__], "is no ONNX file; a checkpoint goes with its network"),
        (["lenet5", "--samples", "absent.npz"], "cannot be read: [Errno 2]"),
        (["lenet5", "--samples", __file__], "it is no .npz file; give a file of numpy.savez"),
        (["lenet5", "--int8", "--calibration", "absent"], "absent: no such folder"),
        (
            ["lenet5", "--int8", "--calibration", "absent.npz"],
            "--calibration absent.npz cannot be read",
        ),
        (["lenet5", "--name", "../up"], "--name must be usable"),
        (["lenet5", "--mean", "0,0,0"], "--mean and --std go together"),
        (["lenet5", "--opt-level", "3"], "--opt-level is for engines; give --engine too"),
        (["absent.onnx"], "there is no file absent.onnx"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_1(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("REPR_CACHE", str(tmp_path_factory.mktemp("cache")))
    for scheme in ("http", "https"):  # nothing is fetched, wherever the test runs
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    assert cli.main([*arguments, "-o", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("repr-export: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--input", "3x"], ["--mean", "1,2"], ["--batch", "many"]])
def test_malformed_options_are_exit_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(["lenet5", *arguments])
    assert error.value.code == 2
    assert re.search("is (not|neither) ", capsys.readouterr().err)


def test_a_disk_that_is_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert cli.main(["lenet5", "-o", str(tmp_path)]) == 1
    assert "No space left on device; nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["file", "file/below/it"])
def test_out_that_cannot_be_written_is_found_before_the_work(
    place: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(pipeline, "open_source", lambda *_: pytest.fail("it works"))
    assert cli.main(["lenet5", "-o", str(tmp_path / place)]) == 1
    assert "file says 'Not a directory'; choose another place with -o" in capsys.readouterr().err


def test_lines_are_as_wide_as_the_terminal_and_whole_for_a_pipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    line = "parity    largest difference 6.7e-06, 3e-07 of the outputs' range (allowed 0.0001)"
    assert cli._wrapped(line) == line
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    first, *more = cli._wrapped(line).splitlines()
    assert first == "parity    largest difference 6.7e-06,"
    assert all(part.startswith(" " * 10) and len(part) <= 40 for part in more)
    assert " ".join([first, *map(str.strip, more)]) == line


@pytest.mark.parametrize(
    ("name", "message"),
    [("lenet5", "pip install 'repr-deploy[export]'"), ("resnet5", "did you mean resnet")],
)
def test_without_torch_the_install_line_is_said_and_a_wrong_name_is_wrong(
    name: str, message: str, tmp_path: Path
) -> None:
    """A fresh interpreter in which torch cannot be imported, as in a base install."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None\n"
        f"from repr_export import cli; sys.exit(cli.main([{name!r}]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert run.returncode == 1
    assert message in run.stderr
    assert "Traceback" not in run.stderr
