"""Checkpoints: the formats read, what does not fit, what is refused, and the seeded draw."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from repr_models import (
    CIFAR10,
    FoldContract,
    NetworkSpec,
    Published,
    WeightsError,
    bundled_record,
    is_bundled,
    load_checkpoint,
    load_weights,
    randomize,
    resolve,
)
from repr_models.weights.download import cached_path


class Small(nn.Module):
    """A convolution, a BatchNorm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(self.bn(self.conv(x)).relu().mean((2, 3)))
        return result


SPEC = NetworkSpec("small.cifar10", "small", CIFAR10, Small, 166, FoldContract(1))
State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    """A state that no fresh network has."""
    source = Small()
    with torch.no_grad():
        for value in source.state_dict().values():
            value.copy_(torch.rand(value.shape) if value.is_floating_point() else value + 3)
    return source.state_dict()


def assert_has(network: nn.Module, state: State) -> None:
    own = network.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], state[key]) for key in own)


def save_safetensors(state: State, path: Path) -> None:
    save_file(state, path)


FORMATS = [
    pytest.param(save_safetensors, "w.safetensors", id="safetensors"),
    pytest.param(save_safetensors, "w.SafeTensors", id="suffix-in-capitals"),
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


def test_an_old_checkpoint_without_batch_counters_loads(state: State, tmp_path: Path) -> None:
    del state["bn.num_batches_tracked"]
    torch.save(state, tmp_path / "w.pth")
    network = Small()
    load_checkpoint(network, tmp_path / "w.pth")
    assert torch.equal(network.bn.running_var, state["bn.running_var"])  # type: ignore[arg-type]


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
    for key, value in change.items():
        if value is None:
            del state[key]
        else:
            state[key] = value
    torch.save(state, tmp_path / "w.pth")
    network = Small()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_checkpoint(network, tmp_path / "w.pth")
    assert_has(network, before)


class Hostile:
    """Unpickled without a check, this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


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


def test_a_pickled_network_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"asks for torch\.nn\.modules\.linear\.Linear, which"):
        load_checkpoint(nn.Linear(2, 2), tmp_path / "w.pth")


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
        ({"lr": 0.1, "epoch": 3}, r"not tensors \(lr, epoch\); a state dict is looked for at"),
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


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_web_page_is_no_checkpoint(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"<html>404 not found</html>" * 20)
    with pytest.raises(WeightsError, match=name):
        load_checkpoint(Small(), tmp_path / name)


def test_a_path_with_nothing_or_a_folder_behind_it(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(WeightsError, match=r"there is no checkpoint .*; give the path"):
            load_checkpoint(Small(), path)


# --- the bundled checkpoints ----------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: State) -> Path:
    """A package with one bundled checkpoint, that of ``SPEC``; returns the checkpoint's path."""
    folder = tmp_path / "bundled"
    folder.mkdir()
    path = folder / "small.cifar10.safetensors"
    save_file(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps({"weights_sha256": digest, "seed": 5}))
    monkeypatch.setattr(resources, "files", lambda _: tmp_path)
    return path


def test_bundled_weights_load_with_their_record(bundle: Path, state: State) -> None:
    network = Small()
    assert is_bundled(SPEC)
    source = load_weights(network, None, SPEC)
    assert_has(network, state)
    assert source.kind == "bundled"
    assert source.sha256 == hashlib.sha256(bundle.read_bytes()).hexdigest()
    assert source.record["seed"] == 5


def test_every_altered_byte_of_a_bundled_checkpoint_is_noticed(bundle: Path) -> None:
    content = bundle.read_bytes()
    network = Small()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    for position in range(0, len(content), 37):
        altered = bytearray(content)
        altered[position] ^= 1 << position % 8
        bundle.write_bytes(altered)
        with pytest.raises(WeightsError, match="not the file that its record describes"):
            load_weights(network, None, SPEC)
    assert_has(network, before)


@pytest.mark.parametrize("record", [None, "", "[1", '{"weights_sha256": null}', "{}"])
def test_a_bundled_checkpoint_without_its_record_is_refused(
    bundle: Path, record: str | None
) -> None:
    path = bundle.with_suffix(".json")
    if record is None:
        path.unlink()
    else:
        path.write_text(record)
    with pytest.raises(WeightsError, match="install the package again"):
        load_weights(Small(), None, SPEC)


def test_a_network_without_bundled_weights_names_the_ways_out(bundle: Path) -> None:
    shutil.rmtree(bundle.parent)
    assert not is_bundled(SPEC)
    with pytest.raises(
        WeightsError, match=r"no trained weights of small\.cifar10 .*--weights FILE"
    ):
        load_weights(Small(), None, SPEC)
    with pytest.raises(WeightsError, match="cannot be read"):
        bundled_record(SPEC)


def test_a_file_is_loaded_by_its_path(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "random")
    for path in (tmp_path / "random", str(tmp_path / "random")):
        network = Small()
        assert load_weights(network, path, SPEC).kind == "file"
        assert_has(network, state)


def test_a_path_called_random_is_a_file(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(state, "random")
    assert load_weights(Small(), Path("random"), SPEC).kind == "file"
    assert load_weights(Small(), "random", SPEC).kind == "random"


# --- heads for training alone, and names of others -------------------------------------------


class Headed(Small):
    """With an auxiliary head, which gives logits in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Sequential(nn.Linear(4, 10), nn.BatchNorm1d(10))


HEADED = replace(SPEC, builder=Headed, training_only=("aux",))


@pytest.mark.parametrize("save", [save_file, torch.save], ids=["safetensors", "torch"])
@pytest.mark.parametrize("heads", [True, False])
def test_heads_are_loaded_where_they_are_and_kept_where_they_are_not(
    save: Callable[[State, Path], None], heads: bool, tmp_path: Path
) -> None:
    path = tmp_path / f"w.{'safetensors' if save is save_file else 'pth'}"
    source, network = Headed(), Headed()
    with torch.no_grad():
        for value in source.parameters():
            value.copy_(torch.rand(value.shape))
    state = source.state_dict()
    save({k: v for k, v in state.items() if heads or not k.startswith("aux")}, path)
    expected = {**network.state_dict(), **(state if heads else {})}
    expected = {k: v.clone() if k.startswith("aux") else state[k] for k, v in expected.items()}
    assert load_weights(network, path, HEADED).kind == "file"
    assert_has(network, expected)
    if not heads:  # whoever does not say which network it is gets no leave
        with pytest.raises(WeightsError, match=r"missing: aux\.0\.weight"):
            load_checkpoint(Headed(), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aux.0.bias": None}, r"network; missing: aux\.0\.bias$"),
        ({"aux.0.bias": torch.zeros(3)}, r"aux\.0\.bias is \(3,\)"),
        ({"aux.2.bias": torch.zeros(3)}, r"unexpected: aux\.2\.bias$"),
    ],
)
def test_heads_that_do_not_fit_are_refused(
    change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    state = {**Headed().state_dict(), **change}
    torch.save({k: v for k, v in state.items() if v is not None}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        load_weights(Headed(), tmp_path / "w.pth", HEADED)


@pytest.mark.usefixtures("bundle")
def test_bundled_weights_come_without_heads() -> None:
    network = Headed()
    before = network.aux[0].weight.detach().clone()
    load_weights(network, None, HEADED)
    assert torch.equal(network.aux[0].weight, before)


RENAMES = ((r"^convolution\.", "conv."), (r"\.([wb])$", r".\1_"), (r"_$", ""))
OLD_NAMES = {"conv.weight": "convolution.weight", "fc.bias": "fc.bias_"}


def published_spec(url: str, content: bytes) -> NetworkSpec:
    digest = hashlib.sha256(content).hexdigest()
    return replace(SPEC, published=Published("a library", url, digest, 0.75, RENAMES))


def old_file(state: State, path: Path) -> bytes:
    torch.save({OLD_NAMES.get(key, key): value for key, value in state.items()}, path)
    return path.read_bytes()


def test_names_of_the_publisher_are_renamed_in_a_users_file(state: State, tmp_path: Path) -> None:
    content = old_file(state, tmp_path / "w.pth")
    network = Small()
    load_weights(network, tmp_path / "w.pth", published_spec("https://a.org/w.pth", content))
    assert_has(network, state)
    with pytest.raises(WeightsError, match=r"missing: conv\.weight, fc\.bias; unexpected: co"):
        load_weights(Small(), tmp_path / "w.pth", SPEC)


def test_two_tensors_for_one_name_are_refused(state: State, tmp_path: Path) -> None:
    torch.save({**state, "convolution.weight": state["conv.weight"]}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"two tensors for conv\.weight: convolution\.weight is"):
        load_weights(Small(), tmp_path / "w.pth", published_spec("https://a.org/w.pth", b""))


def test_a_renaming_that_is_no_regular_expression_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'\(' is no regular expression"):
        Published("a library", "https://a.org/w.pth", "0" * 8, 0.5, ((r"(", ""),))


def test_published_weights_are_taken_where_none_are_bundled(
    bundle: Path, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPR_CACHE", str(tmp_path / "cache"))
    other = {key: value + 1 for key, value in state.items()}
    content = old_file(other, tmp_path / "w.pth")
    spec = published_spec("http://127.0.0.1:9/w.pth", content)  # nobody is there
    assert load_weights(Small(), None, spec).kind == "bundled"
    shutil.rmtree(bundle.parent)
    with pytest.raises(WeightsError, match=r"http://127\.0\.0\.1:9/w\.pth cannot be fetched"):
        load_weights(Small(), None, spec)

    assert spec.published is not None
    path = cached_path(spec.published)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    network = Small()
    source = load_weights(network, None, spec)
    assert_has(network, other)
    assert source.kind == "published"
    assert source.location == "http://127.0.0.1:9/w.pth"
    assert source.sha256 == hashlib.sha256(content).hexdigest()
    assert source.record == {"source": "a library", "published_top1": 0.75}


# --- random weights -------------------------------------------------------------------------


def drawn(name: str) -> tuple[nn.Module, int]:
    spec = resolve(name)
    with torch.device("meta"):  # no time for an initialisation that the draw replaces
        network = spec.build()
    network.to_empty(device="cpu")
    with torch.no_grad():
        for value in network.state_dict().values():
            value.fill_(float("nan") if value.is_floating_point() else 0)
    return network, randomize(network, spec.name, spec.input_shape)


def test_the_same_name_gives_the_same_network() -> None:
    stream = torch.get_rng_state()
    (first, seed), (second, other_seed) = drawn("resnet20.cifar10"), drawn("resnet20.cifar10")
    assert seed == other_seed
    assert_has(first, second.state_dict())
    assert torch.equal(torch.get_rng_state(), stream), "the caller's random stream was used"
    third, third_seed = drawn("plain20.cifar10")
    assert third_seed != seed
    assert not torch.equal(first.get_parameter("fc.weight"), third.get_parameter("fc.weight"))


def test_the_draw_leaves_modes_and_momentum_as_they_were() -> None:
    network = Small()
    network.bn.momentum = 0.25
    for training in (True, False):
        network.train(training)
        randomize(network, "a", (3, 8, 8))
        assert all(module.training is training for module in network.modules())
        assert network.bn.momentum == 0.25


@pytest.mark.parametrize(
    "name",
    [
        *("plain20.cifar10", "plain56.cifar10", "resnet20.cifar10", "resnet110.cifar10"),
        *("resnet18.imagenet", "resnet50.imagenet", "resnet152.imagenet"),
    ],
)
def test_random_networks_are_alive_and_their_batchnorms_no_identities(name: str) -> None:
    """Else folding them would prove nothing: dead or exploding signals hide every error."""
    spec = resolve(name)
    network = drawn(spec.name)[0].eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            scale, shift = module.weight.detach(), module.bias.detach()
            assert 0.5 <= float(scale.min()) < float(scale.max()) <= 1.5
            assert float(scale.std()) > 0.1
            assert float(shift.std()) > 0.02
            assert float(module.running_mean.std()) > 0.01
            assert float((module.running_var - 1).abs().max()) > 0.1
            assert float(module.running_var.min()) > 0.01
    size = min(64, spec.input_shape[1])
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network(images)
    assert 0.1 < float(logits.abs().max()) < 1e3
    # and they depend on the image, by far more than float32 rounds
    assert float((logits[0] - logits[1]).abs().max()) > 1e-2 * float(logits.abs().max())


def test_random_weights_are_recorded_as_such() -> None:
    spec = resolve("lenet5.cifar10")
    network = spec.build()
    source = load_weights(network, "random", spec)
    assert source.kind == "random"
    assert source.location.startswith("seed ")
    assert source.sha256 is None
    assert torch.equal(
        network.state_dict()["fc1.weight"], drawn(spec.name)[0].state_dict()["fc1.weight"]
    )


def test_the_draw_reaches_every_kind_of_layer() -> None:
    """GroupNorm, transposed and one-dimensional layers too: nothing of the old stays."""
    network = nn.Sequential(
        nn.ConvTranspose1d(5, 6, 3), nn.GroupNorm(2, 6), nn.BatchNorm1d(6), nn.PReLU(6)
    )
    before = {key: value.clone() for key, value in network.state_dict().items()}
    randomize(network, "b", (5, 20))
    after = network.state_dict()
    assert not any(torch.equal(before[key], after[key]) for key in before)
    assert all(bool(value.isfinite().all()) for value in after.values())
