"""Networks of the user's own: exported to the cache once, and measured as an artifact is."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from onnx_bytes import model_of
from torch import nn

from repr_bench import artifacts, cli
from repr_bench.artifacts import find_artifact

QUICK = ("--quick", "--seconds", "0.012", "--samples", "12", "--threads", "1", "--batch", "1")

pytestmark = pytest.mark.usefixtures("in_tmp_path", "cache_folder")
Bench = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Bench:
    """Runs the command: its status, its rows, and what it told."""

    def ran(*arguments: str) -> tuple[int, Any, str]:
        status = cli.main([*arguments, *QUICK, "--json", "-"])
        out, err = capsys.readouterr()
        return status, json.loads(out)["rows"] if out else [], err

    return ran


def write_graph(scale: float) -> None:
    weights = {"w": scale * np.random.default_rng(0).standard_normal((4, 3), np.float32)}
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    Path("mine.onnx").write_bytes(model_of([node], {"x": ("N", 4)}, {"y": ("N", 3)}, weights))


def test_an_onnx_file_is_exported_until_it_changes(bench: Bench) -> None:
    write_graph(1.0)
    status, (row,), told = bench("mine.onnx")
    assert (status, row["label"], row["status"]) == (0, "mine", "measured")
    assert "exporting mine.onnx to" in told
    graph = row["graph"]
    assert (graph["weights"], graph["accuracy"]) == ("onnx", None)
    agreement = graph["agreement"]
    assert agreement["reference"] == "the original network"
    assert agreement["same"] == agreement["images"] == 4
    assert graph["difference"]["within"]
    status, (again,), told = bench("mine.onnx")
    assert (status, again["graph"], "exporting" in told) == (0, graph, False)
    write_graph(2.0)
    status, (other,), told = bench("mine.onnx")
    assert (status, "exporting" in told) == (0, True)
    assert other["graph"]["sha256"] != graph["sha256"]


def test_a_precision_that_is_off_by_more_than_is_asked_for_is_a_note_and_the_exit_status(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    write_graph(1.0)
    assert bench("mine.onnx", "--fp16")[0] == 0
    status, rows, _ = bench("mine.onnx", "--fp16", "--atol", "1e-5", "--rtol", "1e-6")
    assert status == 1
    assert [row["status"] for row in rows] == ["measured"] * 2
    assert [row["graph"]["difference"]["within"] for row in rows] == [True, False]
    assert cli.main(["mine.onnx", "--fp16", "--atol", "1e-5", *QUICK]) == 1
    below = capsys.readouterr().out.splitlines()[3]
    assert below.startswith("mine fp16: 'y' is off by up to 0.00")
    assert below.endswith("on 4 golden samples, allowed is 1e-05")


def test_on_images_every_precision_is_compared_with_the_original(
    bench: Bench, write_pictures: Callable[..., Path]
) -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["y"]),
    ]
    Path("rgb.onnx").write_bytes(model_of(nodes, {"x": ("N", 3, 8, 8)}, {"y": ("N", 3)}))
    pictures = ("--label-free", str(write_pictures(Path("pictures"))))
    own = ("--mean", "0,0,0", "--std", "1,1,1", "--int8", "--calibration", "pictures")
    status, (row, int8), told = bench("rgb.onnx", *own, *pictures)
    assert (int8["status"], int8["reason"]) == ("absent", "no int8 graph in this artifact")
    assert "exporting rgb.onnx in fp32 alone" in told
    agreement = row["graph"]["agreement"]
    assert (status, agreement["reference"]) == (0, "the original network")
    assert (agreement["images"], agreement["same"], agreement["largest_shift"]) == (3, 3, 0.0)


def test_a_factory_is_exported_again_where_what_makes_it_may_have_changed(
    make_artifact: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = 0

    def export(_target: str, out: Path, *_: object) -> Path:
        nonlocal exported
        exported += 1
        return make_artifact("build", parent=out)

    def find(*own: str) -> int:
        with pytest.MonkeyPatch.context() as patch:  # each as in a process of its own
            patch.delitem(sys.modules, "a_factory", raising=False)
            find_artifact("a_factory:build", Path(), lambda _: None, (), ("--input=4", *own))
            del sys.modules["a_factory"]
        return exported

    monkeypatch.setattr(artifacts, "_export", export)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(Path.cwd())
    code = "from torch import nn\ndef build():\n    return nn.Linear(4, 3)\n"
    Path("a_factory.py").write_text(code)
    torch.save(nn.Linear(4, 3).state_dict(), "a.pth")
    weights = "--weights=a.pth"
    assert (find(weights), find(weights)) == (1, 1)
    Path("a_factory.py").write_text(f"{code}    # as before\n")
    assert (find(weights), find(weights)) == (2, 2)
    torch.save(nn.Linear(4, 3).state_dict(), "a.pth")
    assert (find(weights), find(weights, "--max-drop=1")) == (3, 4)
    assert (find(), find()) == (5, 6)  # nobody recorded what it makes by itself


def test_the_cache_keeps_the_newest_and_what_may_be_in_use(
    cache_folder: Path, make_artifact: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(_target: str, out: Path, *_: object) -> Path:
        return make_artifact("mine", parent=out)

    monkeypatch.setattr(artifacts, "_export", export)
    exported, now, day = cache_folder / "exported", time.time(), 86_400

    def fill(name: str, age: float) -> None:
        (exported / name / "net").mkdir(parents=True)
        (exported / name / "net" / "model.onnx").write_bytes(b"x")
        os.utime(exported / name, (now - age, now - age))

    def find(scale: float) -> Path:
        write_graph(scale)
        return find_artifact("mine.onnx", Path(), lambda _: None)

    for number in range(30):
        fill(f"old{number:02}", (2 + number) * day)
    first = find(1.0)
    old = [f"old{number:02}" for number in range(19)]
    assert sorted(os.listdir(exported)) == sorted([first.parent.name, *old])
    os.utime(first.parent, (now - 9 * day,) * 2)
    assert find(1.0) == first  # used again, and so none of the oldest
    for number in range(30):
        fill(f"used{number:02}", day / 2)
    second = find(2.0)
    used = [f"used{number:02}" for number in range(30)]
    assert sorted(os.listdir(exported)) == sorted([first.parent.name, second.parent.name, *used])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("none.onnx", "none.onnx: there is no file none.onnx"),
        ("no_such_module:build --input 3x8x8", "there is no module 'no_such_module'"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_sentence(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*line.split(), *QUICK]) == 1
    out, err = capsys.readouterr()
    assert (said in out, out.count("\n"), err) == (True, 1, "")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("mine.onnx --input 3by8", "argument --input: '3by8' is neither a shape such as"),
        ("mine.onnx --mean 0,0,0", "--mean and --std go together"),
        ("mine.onnx lenet5 --max-drop 101", "--max-drop must lie in 0..100 points"),
    ],
)
def test_wrong_options_are_said_before_anything_is_measured(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*line.split(), *QUICK]) == 1
    out, err = capsys.readouterr()
    assert (out, err.startswith(f"repr-bench: {said}"), err.count("\n")) == ("", True, 1)
