"""A checkpoint as it is stored: small, measured as stored, and stored anew from an older one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from train_files import FILES, names, read_record

from repr_models import (
    CIFAR10,
    FoldContract,
    NetworkSpec,
    load_checkpoint,
    load_cifar10,
    registry,
    resolve,
)
from repr_models.training import cli as train_cli
from repr_models.training import loop
from repr_models.training import stored as stored_checkpoint
from repr_models.training.augment import ResidentImages
from repr_models.training.loop import evaluate


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
    Headed, "headed.cifar10", "test", CIFAR10, 98_666, FoldContract(0), training_only=("aux",)
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
    record = read_record(tmp_path, "headed.cifar10")
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
        lambda s, **how: encode({k: torch.zeros_like(v) for k, v in s.items()}, **how),
    )
    assert train_cli.main([*headed, "-o", str(tmp_path), "--quiet"]) == 0
    record = read_record(tmp_path, "headed.cifar10")
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
    record = read_record(tmp_path, "headed.cifar10")
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
    first, second = (read_record(f, "headed.cifar10", timed=False) for f in (anew, expected))
    assert first == second


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
