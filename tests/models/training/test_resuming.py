"""Unfinished runs: interrupted, gone on with to the same bytes, refused where they are another run."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train_files import FILES, RECIPE, STATE, names, read_record

from repr_models import (
    TrainingError,
    load_cifar10,
    resolve,
)
from repr_models.training import cli as train_cli
from repr_models.training import loop
from repr_models.training.augment import ResidentImages
from repr_models.training.recipe import Recipe
from repr_models.training.unfinished import keep, resume


def interrupt_in_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Ctrl-C after the third step of ``epoch``."""
    whole = loop.train_epoch

    def epoch_cut_short(state: Any, data: Any, tick: Any, take: Any) -> Any:
        def interrupting(done: int, total: int) -> None:
            tick(done, total)
            if state.epoch == epoch - 1 and done == 3:
                raise KeyboardInterrupt

        return whole(state, data, interrupting, take)

    monkeypatch.setattr(loop, "train_epoch", epoch_cut_short)


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
    cpu = torch.device("cpu")
    state = loop.start(spec, Recipe(**RECIPE), 0, cpu)  # type: ignore[arg-type]
    row = loop.train_epoch(state, ResidentImages(train_set, spec, cpu))
    torch.save(
        {
            "identity": {
                "network": "lenet5.cifar10",
                "recipe": RECIPE,
                "seed": 0,
                "data": train_set.sha256,
            },
            "network": state.network.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "epoch": 1,
            "history": [row],
        },
        resumed / STATE,
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
    assert names(cut) == ([] if epoch == 1 else [STATE])

    assert train_cli.main([*command, "-o", str(cut)]) == 0
    resumed = capsys.readouterr().err
    assert ("resuming" in resumed) == (epoch > 1)
    assert f"epoch   {epoch}/3" in resumed
    assert f"epoch   {epoch - 1}/3" not in resumed
    assert names(cut) == FILES
    assert (cut / FILES[1]).read_bytes() == (whole / FILES[1]).read_bytes()
    assert read_record(cut, timed=False) == read_record(whole, timed=False)


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
    state = (out / STATE).read_bytes()
    capsys.readouterr()
    for change in (["--seed", "1"], ["--weight-decay", "0"], ["--epochs", "4"]):
        assert train_cli.main([*command, "-o", str(out), *change]) == 1
        error = capsys.readouterr().err
        assert "unfinished run with another recipe, seed or data" in error
        assert "--restart" in error
        assert (out / STATE).read_bytes() == state

    with np.load(cifar_folder / "cifar10_train.npz") as file:
        images, labels = file["images"], file["labels"]
    images[0, 0, 0, 0] ^= 1
    np.savez(cifar_folder / "cifar10_train.npz", images=images, labels=labels)
    assert train_cli.main([*command, "-o", str(out)]) == 1
    assert "another recipe, seed or data" in capsys.readouterr().err

    assert train_cli.main([*command, "-o", str(out), "--restart", "--epochs", "1"]) == 0
    assert "resuming" not in capsys.readouterr().err
    assert len(read_record(out)["history"]) == 1


def test_an_unfinished_run_whose_shortcuts_padded_behind_is_refused(
    cifar_folder: Path, tmp_path: Path
) -> None:
    spec, path = resolve("resnet20"), tmp_path / "resnet20.cifar10.state.pt"
    train_set = load_cifar10(cifar_folder, "train")
    state = loop.start(spec, Recipe(**RECIPE), 0, torch.device("cpu"))  # type: ignore[arg-type]
    keep(state, train_set, path)
    resume(state, train_set, path)
    saved = torch.load(path, weights_only=True)
    del saved["identity"]["padding"]
    torch.save(saved, path)
    with pytest.raises(TrainingError, match=r"padded zeros behind the channels; .* --restart"):
        resume(state, train_set, path)


@pytest.mark.parametrize("content", [b"", b"half", None])
def test_a_damaged_state_is_refused_until_restart(
    content: bytes | None,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / STATE
    if content is None:
        torch.save({"epoch": 1}, path)
    else:
        path.write_bytes(content)
    assert train_cli.main([*command, "-o", str(tmp_path)]) == 1
    assert "cannot be read; start anew with --restart" in capsys.readouterr().err
    assert train_cli.main([*command, "-o", str(tmp_path), "--restart", "--epochs", "1"]) == 0
    assert set(FILES) <= set(names(tmp_path))


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
    assert names(out) == [STATE]
    saved = torch.load(out / STATE, weights_only=True)
    assert saved["epoch"] == len(saved["history"]) >= 1
