"""Random weights: the same for the same name, alive, and no identity in them."""

import pytest
import torch
from small_network import Small, assert_has
from torch import nn

from repr_models import (
    load_weights,
    randomize,
    resolve,
)


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
