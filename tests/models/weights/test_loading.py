"""Where weights come from: the package, a file, a publisher; heads and names of others."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_network import SPEC, Small, State, assert_has, copied
from torch import Tensor, nn

from repr_models import (
    NetworkSpec,
    Published,
    WeightsError,
    bundled_record,
    is_bundled,
    load_checkpoint,
    load_weights,
)
from repr_models.weights.download import cached_path


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
    before = copied(network)
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


def test_a_file_is_loaded_by_its_path_even_one_called_random(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(state, "random")
    for path in (Path("random"), "./random"):
        network = Small()
        assert load_weights(network, path, SPEC).kind == "file"
        assert_has(network, state)
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


def test_the_record_beside_a_file_is_its_record_if_it_is_of_these_bytes(
    bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "own.safetensors"
    shutil.copy(bundle, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    said = {"accuracy": {"test_top1": 0.5}, "data": {"test": {"description": "ten images"}}}
    for record, expected in (
        (said | {"weights_sha256": digest}, said | {"weights_sha256": digest}),
        (said | {"weights_sha256": "0"}, {}),
        ({"weights_sha256": digest}, {}),
        ([], {}),
    ):
        path.with_suffix(".json").write_text(json.dumps(record))
        assert load_checkpoint(Small(), path).record == expected
    good = json.dumps(said | {"weights_sha256": digest})
    for odd in ('"deep": ' + "[" * 5000 + "]" * 5000, '"x": 1e999', '"x": NaN', '"x": "\\ud800"'):
        path.with_suffix(".json").write_text(good[:-1] + f", {odd}}}")
        assert load_checkpoint(Small(), path).record == {}


@pytest.mark.parametrize(
    ("beside", "top1"),
    [
        ({"best_prec1": 91.73}, 0.9173),
        ({"best_acc1": torch.tensor(0.5)}, 0.5),
        ({"acc": "high"}, None),
        ({"best_acc": torch.zeros(2), "acc": 101.0}, None),
    ],
)
def test_the_accuracy_that_a_training_script_left_in_the_file(
    beside: dict[str, Any], top1: float | None, state: State, tmp_path: Path
) -> None:
    torch.save({"net": state, **beside}, tmp_path / "w.pth")
    record = load_checkpoint(Small(), tmp_path / "w.pth").record
    assert record.get("accuracy", {}).get("test_top1") == (top1 and pytest.approx(top1))


def test_a_head_of_another_usual_name_fits_and_two_do_not(state: State, tmp_path: Path) -> None:
    renamed = {key.replace("fc.", "linear."): value for key, value in state.items()}
    torch.save(renamed, tmp_path / "w.pth")
    network = Small()
    load_checkpoint(network, tmp_path / "w.pth")
    assert_has(network, state)
    torch.save({**renamed, "head.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"unexpected: linear\.weight, linear\.bias, head"):
        load_checkpoint(network, tmp_path / "w.pth")
