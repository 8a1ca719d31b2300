"""The command repr-train: its files, resuming, interruption, and every message it can end with."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from repr_models import (
    CIFAR10,
    FoldContract,
    NetworkSpec,
    load_checkpoint,
    load_cifar10,
    networks,
    registry,
    resolve,
)
from repr_models.training import cli as train_cli
from repr_models.training import loop
from repr_models.training import stored as stored_checkpoint
from repr_models.training.augment import ResidentImages
from repr_models.training.loop import evaluate
from repr_models.training.recipe import Recipe

NAME = "lenet5"
KNOWN = {spec.name for spec in networks()}
ELSEWHERE = next(s.architecture for s in networks() if f"{s.architecture}.cifar10" not in KNOWN)
FILES = ["lenet5.cifar10.json", "lenet5.cifar10.safetensors"]


@pytest.fixture
def command(cifar_folder: Path) -> list[str]:
    """Three epochs of eight steps; under a second."""
    return [
        *(NAME, "--data", str(cifar_folder), "--epochs", "3", "--batch-size", "20"),
        *("--learning-rate", "0.02", "--device", "cpu"),
    ]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupt_in_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Ctrl-C after the third step of ``epoch``."""
    whole = loop.train_epoch

    def epoch_cut_short(state: Any, data: Any, tick: Any) -> Any:
        def interrupting(done: int, total: int) -> None:
            tick(done, total)
            if state.epoch == epoch - 1 and done == 3:
                raise KeyboardInterrupt

        return whole(state, data, interrupting)

    monkeypatch.setattr(loop, "train_epoch", epoch_cut_short)


def test_a_run_writes_a_checkpoint_and_its_record(
    command: list[str],
    cifar_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "deep" / "out"
    assert train_cli.main([*command, "-o", str(out), "--seed", "5"]) == 0
    assert names(out) == FILES
    record = json.loads((out / FILES[0]).read_text("utf-8"))
    content = (out / FILES[1]).read_bytes()

    spec = resolve("lenet5.cifar10")
    network = spec.build()
    source = load_checkpoint(network, out / FILES[1])
    assert record["weights_sha256"] == source.sha256 == hashlib.sha256(content).hexdigest()
    for split in ("train", "test"):
        images = load_cifar10(cifar_folder, split)
        measured = evaluate(network, ResidentImages(images, spec, torch.device("cpu")))
        assert record["accuracy"][f"{split}_top1"] == measured
        assert record["data"][split] == {
            "description": images.description,
            "sha256": images.sha256,
        }
    assert record["network"] == "lenet5.cifar10"
    assert record["storage"] == {
        "store": "auto",
        "bytes": len(content),
        "values": {"float16": 62_006 - 236, "float32": 236},  # weights, biases
        "left_out": [],
    }
    assert record["seed"] == 5
    assert record["parameters"] == 62_006
    assert record["device"] == "cpu"
    assert record["versions"] == {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    assert record["recipe"] == {
        "epochs": 3,
        "batch_size": 20,
        "learning_rate": 0.02,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "warmup_epochs": 1.0,
        "label_smoothing": 0.0,
        "precision": "fp32",
    }
    assert [row["epoch"] for row in record["history"]] == [1, 2, 3]
    assert record["history"][-1]["test_top1"] == record["accuracy"]["test_top1"]

    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[4] == f"{out / FILES[1]}: {len(content) / 1e6:.2f} MB"
    assert [line[:9] for line in lines[:3]] == ["epoch   1", "epoch   2", "epoch   3"]
    assert f"{record['accuracy']['test_top1']:.2%} top-1 on CIFAR-10 test set: all 40" in lines[3]


# --- how it is stored -----------------------------------------------------------------------


class Headed(nn.Module):
    """A layer large enough for int8, and a head for training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * 32 * 32, 32)
        self.fc = nn.Linear(32, 10)
        self.aux = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Any:
        features = self.hidden(x.flatten(1)).relu()
        logits = self.fc(features)
        return (logits, self.aux(features)) if self.training else logits


HEADED = NetworkSpec(
    "headed.cifar10", "test", CIFAR10, Headed, 98_666, FoldContract(0), training_only=("aux",)
)


@pytest.fixture
def headed(command: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command that trains it."""
    resolve("lenet5")  # the families register first
    monkeypatch.setitem(registry.registered, HEADED.name, HEADED)
    return ["headed", *command[1:]]


def test_a_checkpoint_is_stored_small_and_without_its_heads(
    headed: list[str], tmp_path: Path, cifar_folder: Path
) -> None:
    assert train_cli.main([*headed, "-o", str(tmp_path), "--quiet"]) == 0
    record = json.loads((tmp_path / "headed.cifar10.json").read_text("utf-8"))
    path = tmp_path / "headed.cifar10.safetensors"
    assert record["storage"] == {
        "store": "auto",
        "bytes": path.stat().st_size,
        "values": {"float16": 320, "float32": 32 + 10 + 32, "int8": 98_304},
        "left_out": ["aux"],
    }
    assert path.stat().st_size < 100_500
    network = Headed()
    load_checkpoint(network, path, HEADED)
    images = ResidentImages(load_cifar10(cifar_folder, "test"), HEADED, torch.device("cpu"))
    assert record["accuracy"]["test_top1"] == evaluate(network, images)


def test_the_accuracy_is_that_of_the_stored_bytes(
    headed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it measured in memory, a codec that spoils everything would not be noticed."""
    encode = stored_checkpoint.encode
    monkeypatch.setattr(
        stored_checkpoint,
        "encode",
        lambda s: encode({k: torch.zeros_like(v) for k, v in s.items()}),
    )
    assert train_cli.main([*headed, "-o", str(tmp_path), "--quiet"]) == 0
    record = json.loads((tmp_path / "headed.cifar10.json").read_text("utf-8"))
    assert record["accuracy"] == {"test_top1": 0.1, "train_top1": 0.1}  # always the first class
    assert record["history"][-1]["test_top1"] > 0.2


def test_store_fp32_keeps_every_bit(
    headed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    start = loop.start
    monkeypatch.setattr(loop, "start", lambda *a: made.append(start(*a)) or made[-1])
    assert train_cli.main([*headed, "-o", str(tmp_path), "--quiet", "--store", "fp32"]) == 0
    trained = made[0].network.state_dict()
    stored = load_file(tmp_path / "headed.cifar10.safetensors")
    assert stored.keys() == trained.keys() - {"aux.weight", "aux.bias"}
    assert all(torch.equal(value, trained[key]) for key, value in stored.items())
    record = json.loads((tmp_path / "headed.cifar10.json").read_text("utf-8"))
    assert record["storage"]["store"] == "fp32"
    assert record["storage"]["values"] == {"float32": 98_666}
    assert record["accuracy"]["test_top1"] == record["history"][-1]["test_top1"]


def test_a_checkpoint_is_stored_anew_as_if_trained_so(headed: list[str], tmp_path: Path) -> None:
    old, anew, expected = (tmp_path / name for name in ("old", "anew", "expected"))
    assert train_cli.main([*headed, "-o", str(old), "--quiet", "--store", "fp32"]) == 0
    assert train_cli.main([*headed, "-o", str(expected), "--quiet"]) == 0
    source = old / "headed.cifar10.safetensors"
    before = source.read_bytes()
    record = json.loads(source.with_suffix(".json").read_text("utf-8"))
    del record["storage"]  # as earlier versions wrote it
    source.with_suffix(".json").write_text(json.dumps(record), "utf-8")

    command = [*headed, "-o", str(anew), "--re-encode", str(source)]
    assert train_cli.main(command) == 0
    assert names(anew) == ["headed.cifar10.json", "headed.cifar10.safetensors"]
    assert source.read_bytes() == before
    again = (anew / source.name).read_bytes()
    assert again == (expected / source.name).read_bytes()
    records = [
        json.loads((folder / "headed.cifar10.json").read_text("utf-8"))
        for folder in (anew, expected)
    ]
    for found in records:
        for row in found["history"]:
            del row["seconds"]
    assert records[0] == records[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights_sha256": "0"}, "its weights_sha256 is 0, not "),
        ({"network": "resnet20.cifar10"}, "its network is resnet20.cifar10, not lenet5.cifar10"),
        ({"data": {"train": {"sha256": "1"}, "test": {"sha256": "2"}}}, "its train data is 1, not"),
        ({"data": None}, "is not the record of a checkpoint"),
    ],
)
def test_a_checkpoint_that_is_not_of_this_network_and_data_is_not_stored_anew(
    change: dict[str, Any],
    message: str,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train_cli.main([*command, "-o", str(tmp_path / "old"), "--quiet"]) == 0
    path = tmp_path / "old" / FILES[0]
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), "utf-8")
    source = str(path.with_suffix(".safetensors"))
    assert train_cli.main([*command, "-o", str(tmp_path / "new"), "--re-encode", source]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert names(tmp_path / "new") == []


def test_a_state_of_an_earlier_version_is_finished(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Written key by key as before there was a codec: what a run is known by has not changed."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    resumed.mkdir()
    assert train_cli.main([*command, "-o", str(whole)]) == 0
    capsys.readouterr()
    data = Path(command[command.index("--data") + 1])
    train_set, spec = load_cifar10(data, "train"), resolve("lenet5.cifar10")
    recipe = {
        "epochs": 3,
        "batch_size": 20,
        "learning_rate": 0.02,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "warmup_epochs": 1.0,
        "label_smoothing": 0.0,
        "precision": "fp32",
    }
    cpu = torch.device("cpu")
    state = loop.start(spec, Recipe(**recipe), 0, cpu)
    row = loop.train_epoch(state, ResidentImages(train_set, spec, cpu))
    torch.save(
        {
            "identity": {
                "network": "lenet5.cifar10",
                "recipe": recipe,
                "seed": 0,
                "data": train_set.sha256,
            },
            "network": state.network.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "epoch": 1,
            "history": [row],
        },
        resumed / "lenet5.cifar10.state.pt",
    )
    assert train_cli.main([*command, "-o", str(resumed), "--store", "auto"]) == 0
    assert "resuming lenet5.cifar10 after epoch 1 of 3" in capsys.readouterr().err
    assert (resumed / FILES[1]).read_bytes() == (whole / FILES[1]).read_bytes()


def test_the_same_command_gives_the_same_bytes_and_another_seed_others(
    command: list[str], tmp_path: Path
) -> None:
    contents = []
    for index, seed in enumerate(("1", "1", "2")):
        out = tmp_path / str(index)
        assert train_cli.main([*command, "-o", str(out), "--seed", seed, "--quiet"]) == 0
        contents.append((out / FILES[1]).read_bytes())
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    epoch: int,
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train_cli.main([*command, "-o", str(whole)]) == 0
    capsys.readouterr()
    with monkeypatch.context() as patched:
        interrupt_in_epoch(patched, epoch)
        assert train_cli.main([*command, "-o", str(cut)]) == 130
    assert "the same command goes on from the last whole epoch" in capsys.readouterr().err
    assert names(cut) == ([] if epoch == 1 else ["lenet5.cifar10.state.pt"])

    assert train_cli.main([*command, "-o", str(cut)]) == 0
    resumed = capsys.readouterr().err
    assert ("resuming" in resumed) == (epoch > 1)
    assert f"epoch   {epoch}/3" in resumed
    assert f"epoch   {epoch - 1}/3" not in resumed
    assert names(cut) == FILES
    assert (cut / FILES[1]).read_bytes() == (whole / FILES[1]).read_bytes()
    first, second = (json.loads((f / FILES[0]).read_text("utf-8")) for f in (whole, cut))
    for record in (first, second):
        for row in record["history"]:
            del row["seconds"]
    assert first == second


def test_a_run_stopped_behind_its_last_epoch_only_writes_its_files(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_space(path: Path, _content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    write = train_cli.replace_file
    with monkeypatch.context() as patched:
        patched.setattr(
            train_cli,
            "replace_file",
            lambda p, c: (no_space if p.suffix == ".safetensors" else write)(p, c),
        )
        assert train_cli.main([*command, "-o", str(tmp_path)]) == 1
    assert "No space left on device: " in capsys.readouterr().err
    assert train_cli.main([*command, "-o", str(tmp_path)]) == 0
    assert "resuming lenet5.cifar10 after epoch 3 of 3" in capsys.readouterr().err
    assert set(FILES) <= set(names(tmp_path))


def test_another_recipe_seed_or_data_is_refused_until_restart(
    command: list[str],
    cifar_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        interrupt_in_epoch(patched, 2)
        assert train_cli.main([*command, "-o", str(out)]) == 130
    state = (out / "lenet5.cifar10.state.pt").read_bytes()
    capsys.readouterr()
    for change in (["--seed", "1"], ["--weight-decay", "0"], ["--epochs", "4"]):
        assert train_cli.main([*command, "-o", str(out), *change]) == 1
        error = capsys.readouterr().err
        assert "unfinished run with another recipe, seed or data" in error
        assert "--restart" in error
        assert (out / "lenet5.cifar10.state.pt").read_bytes() == state

    with np.load(cifar_folder / "cifar10_train.npz") as file:
        images, labels = file["images"], file["labels"]
    images[0, 0, 0, 0] ^= 1
    np.savez(cifar_folder / "cifar10_train.npz", images=images, labels=labels)
    assert train_cli.main([*command, "-o", str(out)]) == 1
    assert "another recipe, seed or data" in capsys.readouterr().err

    assert train_cli.main([*command, "-o", str(out), "--restart", "--epochs", "1"]) == 0
    assert "resuming" not in capsys.readouterr().err
    assert len(json.loads((out / FILES[0]).read_text("utf-8"))["history"]) == 1


@pytest.mark.parametrize("content", [b"", b"half", None])
def test_a_damaged_state_is_refused_until_restart(
    content: bytes | None,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "lenet5.cifar10.state.pt"
    if content is None:
        torch.save({"epoch": 1}, path)
    else:
        path.write_bytes(content)
    assert train_cli.main([*command, "-o", str(tmp_path)]) == 1
    assert "cannot be read; start anew with --restart" in capsys.readouterr().err
    assert train_cli.main([*command, "-o", str(tmp_path), "--restart", "--epochs", "1"]) == 0
    assert set(FILES) <= set(names(tmp_path))


def test_a_failed_write_leaves_the_old_checkpoint_whole(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert train_cli.main([*command, "-o", str(out)]) == 0
    before = {name: (out / name).read_bytes() for name in FILES}
    for broken in ("fsync", "replace"):

        def fails(*_arguments: object) -> None:
            raise OSError(28, "No space left on device", "the disk")

        with monkeypatch.context() as patched:
            patched.setattr(os, broken, fails)
            assert train_cli.main([*command, "-o", str(out), "--seed", "9"]) == 1
        assert capsys.readouterr().err.endswith("repr-train: No space left on device: the disk\n")
        assert {name: (out / name).read_bytes() for name in names(out)} == before


def test_json_prints_the_record_and_nothing_else_on_standard_output(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_cli.main([*command, "-o", str(tmp_path), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads((tmp_path / FILES[0]).read_text("utf-8"))
    assert "epoch   3/3" in printed.err


def test_quiet_prints_nothing(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_cli.main([*command, "-o", str(tmp_path), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_terminal_sees_a_progress_bar(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert train_cli.main([*command, "-o", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "100 %" in printed.err
    assert "epoch   3/3" in printed.err


def test_eval_every_tests_that_often_and_at_the_end(command: list[str], tmp_path: Path) -> None:
    assert train_cli.main([*command, "-o", str(tmp_path), "--quiet", "--eval-every", "2"]) == 0
    history = json.loads((tmp_path / FILES[0]).read_text("utf-8"))["history"]
    assert ["test_top1" in row for row in history] == [False, True, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data", "nowhere"], "nowhere: no CIFAR-10 train set here; looked for"),
        (["--device", "cuda:99"], "CUDA devices, so there is no 'cuda:99'; leave --device out"),
        (["--device", "gpu"], "there is no device 'gpu'; give auto, cpu or cuda"),
        (["--device", "meta"], "runs on cpu or cuda, not on 'meta'"),
        (["--epochs", "0"], "epochs must be finite and more than 0, got 0"),
        (["--learning-rate", "nan"], "learning rate must be finite and more than 0, got nan"),
        (["--batch-size", "1000"], "160 images do not fill one batch of 1000; lower --batch-size"),
        (["--learning-rate", "1e30"], "diverged in epoch"),
    ],
)
def test_a_mistake_ends_in_one_line_and_status_1(
    change: list[str],
    message: str,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train_cli.main([*command, "-o", str(tmp_path / "out"), *change]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("repr-train: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err


def test_cuda_without_cuda_is_said(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert train_cli.main([*command, "-o", str(tmp_path), "--device", "cuda"]) == 1
    assert capsys.readouterr().err == (
        "repr-train: torch sees 0 CUDA devices, so there is no 'cuda'; "
        "leave --device out to train on what there is\n"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (ELSEWHERE, f"{ELSEWHERE}.imagenet is not for CIFAR-10, .*there are .*lenet5.cifar10"),
        ("resnet50.imagenet", "is not for CIFAR-10"),
        ("resnet21", "no network called 'resnet21'; did you mean .*resnet20"),
    ],
)
def test_a_network_that_cannot_be_trained_here(
    name: str,
    message: str,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train_cli.main([name, *command[1:], "-o", str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert re.search(message, printed)


def test_an_out_that_is_a_file_is_said(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("here already")
    assert train_cli.main([*command, "-o", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err == f"repr-train: File exists: {tmp_path / 'file'}\n"
    assert (tmp_path / "file").read_text() == "here already"


@pytest.mark.parametrize(
    "usage",
    [
        *(["--threads", "0"], ["--eval-every", "0"], ["--seed", "-1"], ["--seed", str(2**32)]),
        *(["--seed", "x"], ["--precision", "fp8"], ["--no-such"], ["--store", "int4"]),
    ],
)
def test_wrong_usage_is_status_2(
    usage: list[str], command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        train_cli.main([*command, *usage])
    assert caught.value.code == 2
    assert "usage: repr-train" in capsys.readouterr().err


def test_a_missing_extra_is_answered_with_the_install_line(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    monkeypatch.delitem(sys.modules, "repr_models.training.stored")  # as in a new process
    assert train_cli.main(command) == 1
    assert capsys.readouterr().err == (
        "repr-train needs safetensors.torch: pip install 'repr-deploy[export]'\n"
    )


IN_A_PROCESS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from repr_models.data import cifar10
from repr_models.training import cli
cifar10._SIZES = {"train": 160, "test": 40}
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is sent to a single POSIX process")
def test_ctrl_c_keeps_the_state_and_exits_130(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [*command, "--threads", "1", "-o", str(out), "--epochs", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_PROCESS, *arguments], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert first.startswith("epoch   1/100000"), first
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert rest.splitlines()[-1] == (
        "repr-train: interrupted; the same command goes on from the last whole epoch"
    )
    assert names(out) == ["lenet5.cifar10.state.pt"]
    saved = torch.load(out / "lenet5.cifar10.state.pt", weights_only=True)
    assert saved["epoch"] == len(saved["history"]) >= 1
