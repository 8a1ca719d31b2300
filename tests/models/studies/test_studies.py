"""The studies' networks, their training and the command `python -m repr_models.studies`."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from repr_models import ImageSet, TrainingError, load_cifar10, resolve
from repr_models.studies import __main__ as command
from repr_models.studies import catalogue, runs
from repr_models.studies.catalogue import STUDIES, Run, find_runs
from repr_models.studies.networks import (
    ChannelBias,
    GhostBatchNorm2d,
    build,
    exchange_batchnorms,
    network_spec,
)
from repr_models.studies.runs import CPU, initial_signal, reduced, train_run
from repr_models.training.augment import ResidentImages
from repr_models.training.loop import start
from repr_models.training.recipe import Recipe

Colours = Callable[[int, int], ImageSet]
RUNS = find_runs([study.name for study in STUDIES])
SHORT = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05}


def count(network: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(type(module) in kinds for module in network.modules())


# --- networks -------------------------------------------------------------------------------


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_run_has_the_network_that_it_says(run: Run) -> None:
    network = build(run)
    assert count(network, nn.Conv2d, nn.Linear) == run.depth
    norms = {
        nn.BatchNorm2d: run.norm == "batch" and run.norm_batch is None,
        GhostBatchNorm2d: run.norm == "batch" and run.norm_batch is not None,
        nn.GroupNorm: run.norm == "group",
        ChannelBias: run.norm == "none",
    }
    for kind, expected in norms.items():
        assert count(network, kind) == (run.depth - 1) * expected, kind
    for module in network.modules():
        assert getattr(module, "images", run.norm_batch) == run.norm_batch
        assert getattr(module, "num_groups", 8) == 8
    assert network(torch.zeros(32, 3, 16, 16)).shape == (32, 10)
    assert {module.residual for module in network.modules() if hasattr(module, "residual")} == {
        run.residual
    }


@pytest.mark.parametrize("name", ["plain20", "resnet56"])
def test_the_study_of_depth_trains_the_registered_networks(name: str) -> None:
    (run,) = find_runs([name])
    registered = start(resolve(f"{name}.cifar10"), Recipe(), 3, CPU).network.state_dict()
    own = start(network_spec(run), Recipe(), 3, CPU).network.state_dict()
    assert own.keys() == registered.keys()
    assert all(torch.equal(own[key], registered[key]) for key in own)


def test_thirty_layers_are_spread_over_three_stages() -> None:
    network = build(Run("deep", 30, False, SHORT))
    assert [len(network.get_submodule(f"layer{i}")) for i in (1, 2, 3)] == [5, 5, 4]  # type: ignore[arg-type]


def test_ghost_batchnorm_is_batchnorm_of_every_worker_and_remembers_all_of_them() -> None:
    torch.manual_seed(0)
    ghost, worker = GhostBatchNorm2d(3, 2), nn.BatchNorm2d(3, momentum=0.1 / 3)
    nn.init.uniform_(ghost.weight)
    nn.init.uniform_(ghost.bias)
    worker.load_state_dict(ghost.state_dict())
    for _ in range(3):
        x = torch.randn(6, 3, 5, 4) * 3 + torch.arange(6.0).view(-1, 1, 1, 1)
        torch.testing.assert_close(ghost(x), torch.cat([worker(part) for part in x.split(2)]))
    ghost.eval()
    worker.eval()
    torch.testing.assert_close(ghost(x[:1]), worker(x[:1]))  # in the test any number goes


def test_images_that_workers_cannot_share_out_are_refused() -> None:
    with pytest.raises(ValueError, match="5 images are no multiple of the 2 of a worker"):
        GhostBatchNorm2d(3, 2)(torch.zeros(5, 3, 2, 2))


def test_a_bias_stands_where_batchnorm_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(2)))
    exchange_batchnorms(network, ChannelBias)
    assert count(network, nn.BatchNorm2d) == 0
    bias = network.get_submodule("2.0")
    x = torch.randn(5, 2, 3, 3)
    assert torch.equal(bias(x), x)
    nn.init.constant_(bias.get_parameter("bias")[1:], 7)
    assert torch.equal(bias(x)[:, 0], x[:, 0])
    assert torch.equal(bias(x)[:, 1], x[:, 1] + 7)


@pytest.mark.parametrize(
    ("init", "variance"),
    [("xavier", 2 / (9 * 64 + 9 * 64)), ("msra-forward", 2 / (9 * 64)), ("msra", 2 / (9 * 64))],
)
def test_weights_have_the_variance_of_their_rule(init: Any, variance: float) -> None:
    torch.manual_seed(0)
    network = build(Run("deep", 30, False, SHORT, norm="none", init=init))
    weight = network.get_parameter("layer3.2.conv2.weight")
    assert weight.var().item() == pytest.approx(variance, rel=0.05)
    widening = network.get_parameter("layer3.0.conv1.weight").var().item()  # 32 to 64 channels
    expected = {"xavier": 2 / (9 * 96), "msra-forward": 2 / (9 * 32), "msra": 2 / (9 * 64)}
    assert widening == pytest.approx(expected[init], rel=0.05)


# --- signals and training -------------------------------------------------------------------


def test_pixels_are_averaged_two_by_two(colours: Colours) -> None:
    data = colours(3, 0)
    spec = network_spec(RUNS[0])
    images = reduced(data, spec).images
    pre = spec.preprocessing
    for channel in range(3):
        plane = (data.images[..., channel] / 255 - pre.mean[channel]) / pre.std[channel]
        means = plane.reshape(3, 16, 2, 16, 2).mean((2, 4))
        np.testing.assert_allclose(images[:, channel].numpy(), means, atol=1e-5)


def test_the_signal_dies_out_with_xavier_and_not_with_msra(colours: Colours) -> None:
    signals = {}
    for run in find_runs(["init"]):
        spec = network_spec(run)
        data = reduced(colours(32, 0), spec)
        network = start(spec, Recipe(), 0, CPU).network
        signals[run.init] = initial_signal(network, data)
        assert [len(values) for values in signals[run.init].values()] == [30, 30]
        first = network.get_submodule("conv1")(data.images).std().item()
        assert signals[run.init]["output_std"][0] == pytest.approx(first, rel=1e-3)
        loss = nn.functional.cross_entropy(network(data.images), data.labels)
        (gradient,) = torch.autograd.grad(loss, network.get_parameter("fc.weight"))
        measured = signals[run.init]["gradient_std"][-1]
        assert measured == pytest.approx(gradient.std().item(), rel=1e-3)
    xavier, msra = signals["xavier"]["output_std"], signals["msra-forward"]["output_std"]
    assert xavier[-1] < 1e-4 * xavier[0]
    assert msra[-1] > 0.01 * msra[0]
    assert signals["xavier"]["gradient_std"][0] < 1e-3 * signals["msra-forward"]["gradient_std"][0]


def make(data: ImageSet) -> ResidentImages:
    return reduced(data, network_spec(RUNS[0]))


def test_a_run_learns_and_its_record_says_how(colours: Colours) -> None:
    run = Run("small", 8, True, {**SHORT, "epochs": 4}, norm_batch=4, seed=2)
    train_data, test_data = make(colours(160, 0)), make(colours(40, 5))
    ticks: list[float] = []
    record = train_run(run, train_data, test_data, ticks.append)
    assert ticks == pytest.approx([i / 10 for i in range(1, 41)])
    assert [row["epoch"] for row in record["history"]] == [1, 2, 3, 4]
    assert record["history"][-1]["train_loss"] < record["history"][0]["train_loss"]
    assert record["history"][-1]["test_top1"] == record["accuracy"]["test_top1"] > 0.5
    assert all(row["cpu_seconds"] > 0 for row in record["history"])
    assert (record["diverged"], record["network"]) == (None, "small")
    assert record["parameters"] == sum(p.numel() for p in build(run).parameters())
    assert "weights_sha256" not in record
    assert record["settings"] == runs.settings(run, train_data.source, test_data.source)
    assert json.loads(json.dumps(record)) == record
    again = train_run(run, train_data, test_data)
    assert again["accuracy"] == record["accuracy"]
    assert again["history"][-1]["train_loss"] == record["history"][-1]["train_loss"]


def test_a_run_that_diverges_is_a_result(colours: Colours) -> None:
    run = Run("wild", 8, False, {**SHORT, "learning_rate": 1e18, "warmup_epochs": 0}, norm="none")
    record = train_run(run, make(colours(160, 0)), make(colours(40, 5)))
    assert record["diverged"] == "training diverged in epoch 1 (loss nan)"
    assert record["history"] == []
    assert record["accuracy"] == {}


def test_too_few_images_are_no_result(colours: Colours) -> None:
    few = make(colours(15, 0))
    with pytest.raises(TrainingError, match="15 images do not fill one batch of 16"):
        train_run(Run("small", 8, False, SHORT), few, few)


# --- the command ----------------------------------------------------------------------------


@pytest.fixture
def two_runs(monkeypatch: pytest.MonkeyPatch) -> tuple[Run, Run]:
    """A study of two short runs in the place of the real ones."""
    pair = (Run("one", 8, False, SHORT), Run("two", 8, True, SHORT))
    monkeypatch.setattr(catalogue, "STUDIES", (replace(STUDIES[0], name="short", runs=pair),))
    return pair


def arguments(folder: Path, records: Path, *names: str) -> list[str]:
    return ["--records", str(records), "run", *names, "--data", str(folder)]


def test_runs_are_recorded_and_not_run_again(
    cifar_folder: Path,
    tmp_path: Path,
    two_runs: tuple[Run, Run],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    records = tmp_path / "deep" / "records"
    assert command.main(arguments(cifar_folder, records, "two")) == 0
    assert sorted(path.name for path in records.iterdir()) == ["two.json"]
    assert "two: training error " in capsys.readouterr().err
    assert command.main(arguments(cifar_folder, records, "short", "two")) == 0
    err = capsys.readouterr().err
    assert "recorded already: two\n" in err
    assert "one: training error " in err
    assert sorted(path.name for path in records.iterdir()) == ["one.json", "two.json"]
    record = json.loads((records / "one.json").read_text("utf-8"))
    sets = load_cifar10(cifar_folder, "train"), load_cifar10(cifar_folder, "test")
    assert record["settings"] == runs.settings(two_runs[0], *sets)

    # another recipe is another run; the other one stays
    other = replace(two_runs[0], recipe={**SHORT, "learning_rate": 0.01})
    study = replace(catalogue.STUDIES[0], runs=(other, two_runs[1]))
    monkeypatch.setattr(catalogue, "STUDIES", (study,))
    before = (records / "two.json").read_bytes()
    assert command.main(["--quiet", *arguments(cifar_folder, records, "short")]) == 0
    assert capsys.readouterr() == ("", "")
    record = json.loads((records / "one.json").read_text("utf-8"))
    assert record["recipe"]["learning_rate"] == 0.01
    assert (records / "two.json").read_bytes() == before


def test_an_interrupted_run_leaves_no_record(
    cifar_folder: Path,
    tmp_path: Path,
    two_runs: tuple[Run, Run],  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = runs.train_run

    def cut_short(run: Run, *rest: Any) -> Any:
        if run.name == "two":
            raise KeyboardInterrupt
        return whole(run, *rest)

    monkeypatch.setattr(runs, "train_run", cut_short)
    assert command.main(arguments(cifar_folder, tmp_path, "short")) == 130
    assert "interrupted; the same command goes on at this run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("*.json")] == ["one.json"]


def test_mistakes_are_answered_in_a_sentence(
    cifar_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments(cifar_folder, tmp_path, "depht")) == 1
    assert "there is no study or run called 'depht'; there are plain20, " in capsys.readouterr().err
    assert command.main(arguments(tmp_path, tmp_path, "depth")) == 1
    assert "no CIFAR-10 train set here" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_status:
        command.main(["run", "depth"])
    assert exit_status.value.code == 2
