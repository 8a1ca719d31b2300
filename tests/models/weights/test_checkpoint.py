"""Checkpoint files: the formats read, what does not fit, what is refused and not run."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hostile import Hostile
from safetensors.torch import save_file
from small_network import Small, State, assert_has, copied
from torch import Tensor, nn

from repr_models import (
    WeightsError,
    load_checkpoint,
)

FORMATS = [
    pytest.param(save_file, "w.safetensors", id="safetensors"),
    pytest.param(save_file, "w.SafeTensors", id="suffix-in-capitals"),
    pytest.param(torch.save, "w.pth", id="torch"),
    pytest.param(
        lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False),
        "w.pt",
        id="torch-legacy",
    ),
    pytest.param(lambda s, p: torch.save({"state_dict": s, "epoch": 3}, p), "w.tar", id="nested"),
    pytest.param(
        lambda s, p: torch.save({"model": {"state_dict": s}, "lr": 0.1}, p), "w", id="twice-nested"
    ),
]


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "module." * 2]
)
@pytest.mark.parametrize(("save", "name"), FORMATS)
def test_every_format_loads(
    save: Callable[[State, Path], None], name: str, prefix: str, state: State, tmp_path: Path
) -> None:
    path = tmp_path / name
    save({prefix + key: value for key, value in state.items()}, path)
    network = Small()
    source = load_checkpoint(network, path)
    assert_has(network, state)
    assert source.kind == "file"
    assert source.location == name
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source.record == {}


def test_a_network_whose_own_names_begin_with_module_keeps_them(tmp_path: Path) -> None:
    """Only a prefix that all keys share is DataParallel's."""
    source = nn.ModuleDict({"module": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    torch.save(source.state_dict(), tmp_path / "w.pth")
    network = nn.ModuleDict({"module": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    load_checkpoint(network, tmp_path / "w.pth")
    assert_has(network, source.state_dict())


def test_half_precision_parameters_become_the_networks_type(state: State, tmp_path: Path) -> None:
    halves = {key: v.half() if v.is_floating_point() else v for key, v in state.items()}
    save_file(halves, tmp_path / "w.safetensors")
    network = Small()
    load_checkpoint(network, tmp_path / "w.safetensors")
    assert network.fc.weight.dtype == torch.float32
    assert torch.equal(network.fc.weight, state["fc.weight"].half().float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.bias": None}, r"missing: fc\.bias$"),
        ({"extra.weight": torch.zeros(1)}, r"network; unexpected: extra\.weight$"),
        (
            {"fc.bias": torch.zeros(7)},
            r"of another shape: fc\.bias is \(7,\), the network's is \(10,\)$",
        ),
        (
            {"conv.weight": None, "conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1, 10)},
            r"missing: conv\.weight; unexpected: conv1\.weight; of another shape: fc\.bias is \(1,",
        ),
        ({f"x{i}": torch.zeros(1) for i in range(20)}, r"unexpected: x0, .*x7 and 12 more$"),
    ],
)
def test_what_does_not_fit_is_listed_and_nothing_is_changed(
    change: dict[str, Tensor | None], message: str, state: State, tmp_path: Path
) -> None:
    changed = {key: value for key, value in {**state, **change}.items() if value is not None}
    torch.save(changed, tmp_path / "w.pth")
    network = Small()
    before = copied(network)
    with pytest.raises(WeightsError, match=message):
        load_checkpoint(network, tmp_path / "w.pth")
    assert_has(network, before)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.pkl", "w.bin"])
@pytest.mark.parametrize("dump", [torch.save, lambda v, p: p.write_bytes(pickle.dumps(v, 2))])
def test_code_in_a_checkpoint_is_refused_and_not_run(
    dump: Callable[[object, Path], None], name: str, tmp_path: Path
) -> None:
    made = tmp_path / "made-by-the-pickle"
    dump({"state_dict": Hostile(made)}, tmp_path / name)
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(Small(), tmp_path / name)
    assert not made.exists()
    message = str(caught.value)
    assert "mkdir, which is code and was not run; save the tensors alone, with" in message
    assert "weights_only" not in message  # no invitation to switch the check off
    assert "\n" not in message
    torch.load(tmp_path / name, weights_only=False) if dump is torch.save else pickle.loads(
        (tmp_path / name).read_bytes()
    )
    assert made.exists(), "the pickle is harmless: this test would pass without the check"


@pytest.mark.parametrize(("save", "name"), FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.003, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_damaged(
    save: Callable[[State, Path], None], name: str, share: float, state: State, tmp_path: Path
) -> None:
    path = tmp_path / name
    save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(Small(), path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds a Tensor, not a dict of tensors"),
        ([1, 2], "holds a list, not a dict"),
        (
            {"lr": 0.1, "epoch": 3},
            r"not dense tensors \(lr, epoch\); a state dict is looked for at",
        ),
        ({}, "missing: conv.weight"),
        ({"state_dict": {}}, "missing: conv.weight"),
    ],
)
def test_a_file_of_something_else_says_what_it_holds(
    content: object, message: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        load_checkpoint(Small(), tmp_path / "w.pth")


def test_a_path_with_nothing_or_a_folder_behind_it(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(WeightsError, match=r"there is no checkpoint .*; give the path"):
            load_checkpoint(Small(), path)
