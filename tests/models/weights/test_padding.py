"""Parameter-free shortcuts: as the published checkpoints have them, and as earlier versions had."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from repr_models import bundled_subset, load_checkpoint, load_weights, randomize, resolve
from repr_models.networks.resnet_blocks import PadShortcut
from repr_models.weights.codec import METADATA_KEY
from repr_models.weights.padding import _moved

IMAGES = torch.from_numpy(bundled_subset().images[:16]).permute(0, 3, 1, 2) / 128 - 1


class PublishedBlock(nn.Module):
    """github.com/akamaster/pytorch_resnet_cifar10, resnet.py: ``BasicBlock`` of option A."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.changed, self.pad = stride != 1 or inputs != planes, planes // 4

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.changed:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad), "constant", 0)
        return F.relu(out + x)


class PublishedResNet20(nn.Module):
    """The same file's ``ResNet``, whose last layer is called ``linear``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        stages = ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        for number, (inputs, planes, stride) in enumerate(stages, 1):
            blocks = [PublishedBlock(inputs, planes, stride)]
            blocks += [PublishedBlock(planes, planes, 1) for _ in range(2)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        for number in (1, 2, 3):
            out = getattr(self, f"layer{number}")(out)
        return self.linear(out.mean((2, 3)))  # type: ignore[no-any-return]


def with_zeros_behind(network: Any) -> Any:
    """The network as earlier versions of this package built it."""
    for module in network.modules():
        if isinstance(module, PadShortcut):
            module.before, module.behind = 0, module.before + module.behind
    return network


def logits(network: nn.Module) -> Tensor:
    with torch.no_grad():
        result: Tensor = network.eval()(IMAGES)
    return result


@pytest.mark.parametrize("head", ["linear", "fc"])
def test_a_published_checkpoint_computes_what_its_network_does(head: str, tmp_path: Path) -> None:
    published = PublishedResNet20()
    randomize(published, "published", (3, 32, 32))
    state = {f"module.{k.replace('linear', head)}": v for k, v in published.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.73}, tmp_path / "resnet20.th")
    network, spec = resolve("resnet20").build(), resolve("resnet20")
    source = load_checkpoint(network, tmp_path / "resnet20.th", spec)
    torch.testing.assert_close(logits(network), logits(published))
    assert source.record["accuracy"]["test_top1"] == pytest.approx(0.9173)
    renamed = ("its last layer, linear, was taken for fc",) if head == "linear" else ()
    assert source.rewritten == renamed
    assert "as the file states" in source.record["data"]["test"]["description"]


@pytest.mark.parametrize("name", ["resnet20.cifar10", "resnet32.cifar10", "resnet56_gn.cifar10"])
def test_a_checkpoint_of_the_codecs_first_version_is_moved(name: str, tmp_path: Path) -> None:
    """GroupNorm's channels stay in their groups."""
    spec = resolve(name)
    earlier, network = with_zeros_behind(spec.build()), spec.build()
    randomize(earlier, name, spec.input_shape)
    metadata = {METADATA_KEY: json.dumps({"version": 1, "encoding": {}})}
    save_file(earlier.state_dict(), tmp_path / "w.safetensors", metadata)
    source = load_checkpoint(network, tmp_path / "w.safetensors", spec)
    assert source.rewritten == ("the zero channels of its shortcuts were moved to both sides",)
    expected = logits(earlier)
    assert float((logits(network) - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    network.load_state_dict(earlier.state_dict())
    assert float((logits(network) - expected).abs().max()) > 1e-2 * float(expected.abs().max())


@pytest.mark.parametrize("earlier", [False, True])
def test_a_file_that_does_not_say_is_tried_both_ways(earlier: bool, tmp_path: Path) -> None:
    """The bundled network, its channels as they were when earlier versions trained it."""
    spec = resolve("resnet20")
    bundled, network = spec.build(), spec.build()
    load_weights(bundled, None, spec)
    state = bundled.state_dict()
    if earlier:
        places = {k: torch.arange(v.numel()).reshape(v.shape) for k, v in state.items()}
        came_from: Any = _moved(bundled, places)  # type: ignore[arg-type]
        state = {
            k: torch.empty_like(v.flatten())
            .scatter(0, came_from[k].flatten(), v.flatten())
            .reshape(v.shape)
            for k, v in state.items()
        }
        assert not torch.equal(state["fc.weight"], bundled.state_dict()["fc.weight"])
    torch.save(dict(state), tmp_path / "w.pth")
    source = load_checkpoint(network, tmp_path / "w.pth", spec)
    assert bool(source.rewritten) is earlier
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in bundled.state_dict().items())
