"""The command repr-train: its files, what it prints, and every message it can end with."""

import hashlib
import json
import os
import platform
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from train_files import FILES, RECIPE, names, read_record

from repr_models import (
    load_checkpoint,
    load_cifar10,
    networks,
    resolve,
)
from repr_models.training import cli as train_cli
from repr_models.training.augment import ResidentImages
from repr_models.training.loop import evaluate

KNOWN = {spec.name for spec in networks()}
ELSEWHERE = next(s.architecture for s in networks() if f"{s.architecture}.cifar10" not in KNOWN)


def test_a_run_writes_a_checkpoint_and_its_record(
    command: list[str],
    cifar_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "deep" / "out"
    assert train_cli.main([*command, "-o", str(out), "--seed", "5"]) == 0
    assert names(out) == FILES
    record = read_record(out)
    content = (out / FILES[1]).read_bytes()

    spec = resolve("lenet5.cifar10")
    network = spec.build()
    source = load_checkpoint(network, out / FILES[1])
    accuracy, data = dict[str, float](), dict[str, dict[str, str]]()
    for split in ("train", "test"):
        images = load_cifar10(cifar_folder, split)
        resident = ResidentImages(images, spec, torch.device("cpu"))
        accuracy[f"{split}_top1"] = evaluate(network, resident)
        data[split] = {"description": images.description, "sha256": images.sha256}
    history = record.pop("history")
    assert record == {
        "schema": 1,
        "network": "lenet5.cifar10",
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        "storage": {
            "store": "auto",
            "bytes": len(content),
            "values": {"float16": 3_690, "float32": 236 + 204, "int8": 58_080},  # with scales
            "left_out": [],
        },
        "parameters": 62_006,
        "accuracy": accuracy,
        "recipe": RECIPE,
        "seed": 5,
        "data": data,
        "versions": {
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "device": "cpu",
        "threads": torch.get_num_threads(),
    }
    assert source.sha256 == record["weights_sha256"]
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["test_top1"] == accuracy["test_top1"]

    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[4] == f"{out / FILES[1]}: {len(content) / 1e6:.2f} MB"
    assert [line[:9] for line in lines[:3]] == ["epoch   1", "epoch   2", "epoch   3"]
    assert f"{accuracy['test_top1']:.2%} top-1 on CIFAR-10 test set: all 40" in lines[3]


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
    assert json.loads(printed.out) == read_record(tmp_path)
    assert "epoch   3/3" in printed.err


def test_a_long_run_tells_its_first_epoch_each_tenth_and_the_last(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = [*command, "-o", str(tmp_path), "--epochs", "22", "--batch-size", "160"]
    assert train_cli.main(long) == 0
    lines = capsys.readouterr().err.splitlines()
    told = [int(line.split("/")[0].split()[1]) for line in lines[:-2]]
    assert told == [1, 3, 6, 9, 12, 15, 18, 21, 22]


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


def test_eval_every_tests_that_often_and_at_the_end_and_quiet_prints_nothing(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_cli.main([*command, "-o", str(tmp_path), "--quiet", "--eval-every", "2"]) == 0
    assert capsys.readouterr() == ("", "")
    history = read_record(tmp_path)["history"]
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
        (["--initial-size", "20"], "lenet5.cifar10 does not take images of 20x20: give a larger"),
        (["--initial-size", "40"], "images have 32 pixels a side, less than 40"),
        (
            ["--learning-rate", "1e30"],
            "training diverged in epoch 1 (loss nan); lower --learning-rate and --restart",
        ),
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
        ["--initial-size", "20", "--missing"],
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


@pytest.mark.parametrize("feature", ["_is_amx_tile_supported", "_is_avx512_bf16_supported", None])
def test_bf16_is_taken_unasked_where_the_cpu_computes_it(
    feature: str | None,
    cifar_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name == feature)
    asked = ["lenet5", "--data", str(cifar_folder), "--epochs", "1", "--batch-size", "20"]
    assert train_cli.main([*asked, "--device", "cpu", "-o", str(tmp_path)]) == 0
    assert read_record(tmp_path)["recipe"]["precision"] == ("bf16" if feature else "fp32")
