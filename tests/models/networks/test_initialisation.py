"""Xavier and MSRA initialisation, measured: variances, means and biases."""

import math

import pytest
import torch
from torch import Tensor, nn

from repr_models import resolve
from repr_models.networks.initialisation import init_msra, init_xavier


def measured_over(expected: float, weight: Tensor) -> float:
    """Sample variance over the expected one; its standard error is at most sqrt(2 / n)."""
    weight = weight.detach()
    assert abs(float(weight.mean())) < 5 * math.sqrt(expected / weight.numel())
    return float(weight.var()) / expected


# Fans so unequal that Xavier, MSRA by fan-in and MSRA by fan-out differ by factors of 1.6
# and more, and so many weights that five standard errors are at most 3 %.
LAYERS = [
    pytest.param(lambda: nn.Conv2d(32, 128, 3), 32 * 9, 128 * 9, id="wide"),
    pytest.param(lambda: nn.Conv2d(128, 32, 3), 128 * 9, 32 * 9, id="narrow"),
    pytest.param(lambda: nn.Linear(400, 120), 400, 120, id="linear"),
]


@pytest.mark.parametrize(("build", "fan_in", "fan_out"), LAYERS)
def test_xavier_variance(build: type[nn.Module], fan_in: int, fan_out: int) -> None:
    torch.manual_seed(0)
    layer = build()
    init_xavier(layer)
    weight = layer.get_parameter("weight").detach()
    assert measured_over(2 / (fan_in + fan_out), weight) == pytest.approx(1, abs=0.04)
    bound = math.sqrt(6 / (fan_in + fan_out))  # uniform: no weight beyond sqrt(3) deviations
    assert 0.99 * bound < float(weight.abs().max()) <= bound
    assert not layer.get_parameter("bias").any()


@pytest.mark.parametrize(("build", "fan_in", "fan_out"), LAYERS)
def test_msra_variance(build: type[nn.Module], fan_in: int, fan_out: int) -> None:
    torch.manual_seed(0)
    layer = build()
    init_msra(layer)
    expected = 1 / fan_in if isinstance(layer, nn.Linear) else 2 / fan_out
    weight = layer.get_parameter("weight").detach()
    assert measured_over(expected, weight) == pytest.approx(1, abs=0.04)
    # normal, not uniform: the kurtosis of a normal draw is 3, of a uniform one 1.8
    kurtosis = float((weight**4).mean() / (weight**2).mean() ** 2)
    assert kurtosis == pytest.approx(3, abs=0.2)
    assert not layer.get_parameter("bias").any()


def test_msra_takes_layers_without_bias_and_resets_batchnorm() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 2, False)
    )
    norm = network[1]
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    init_msra(network)
    assert torch.equal(norm.weight, torch.ones(4))
    assert torch.equal(norm.bias, torch.zeros(4))


def test_each_network_follows_its_rule() -> None:
    """LeNet by Xavier, the ResNets by MSRA: told apart on one large layer of each."""
    torch.manual_seed(0)
    lenet, resnet = resolve("lenet5.cifar10").build(), resolve("resnet20.cifar10").build()
    assert measured_over(2 / 520, lenet.get_parameter("fc1.weight")) == pytest.approx(1, abs=0.04)
    # Stage 3 widens from 32 to 64 maps: Xavier would give 2/3 of this, fan-in twice as much.
    widening = resnet.get_parameter("layer3.0.conv1.weight")
    assert measured_over(2 / (64 * 9), widening) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_a_fresh_separable_convolution_keeps_the_size_of_a_rectified_signal(gain: float) -> None:
    torch.manual_seed(0)
    network = resolve("xception.cifar10").build()
    module = network.get_submodule("block3.rep.1")
    x = (gain * torch.randn(8, 192, 16, 16)).relu()
    inside = module(x)[:, :, 1:-1, 1:-1]
    assert inside.std().item() == pytest.approx(gain, rel=0.15)
