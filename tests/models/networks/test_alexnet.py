"""AlexNet: the layers of its papers, and a CIFAR-10 network that can be trained."""

from __future__ import annotations

import pytest
import torch
from layer_costs import of_kind, on_meta, output_shapes
from torch import Tensor, nn

from repr_models import resolve

NAMES = ("alexnet.imagenet", "alexnet.cifar10")


@pytest.mark.parametrize("name", NAMES)
def test_five_convolutions_and_three_linear_layers(name: str) -> None:
    network = on_meta(name)
    weighted = [*of_kind(network, nn.Conv2d), *of_kind(network, nn.Linear)]
    assert [type(module) for module in weighted] == [nn.Conv2d] * 5 + [nn.Linear] * 3
    assert all(module.bias is not None for module in weighted)
    assert not of_kind(network, nn.modules.batchnorm._BatchNorm)
    # A rectifier behind every layer but the last (§3.1); torchvision's order of the dropout
    assert len(of_kind(network, nn.ReLU)) == 7
    classifier = network.get_submodule("classifier")
    kinds = [type(module) for module in classifier.children()]
    assert kinds == [*[nn.Dropout, nn.Linear, nn.ReLU] * 2, nn.Linear]


@pytest.mark.parametrize("name", NAMES)
def test_pooling_overlaps_behind_the_first_second_and_fifth(name: str) -> None:
    """§3.4 and 3.5: windows of 3 pixels, 2 apart."""
    features = list(on_meta(name).get_submodule("features").children())
    pooled = []
    for index, module in enumerate(features):
        if isinstance(module, nn.MaxPool2d):
            assert (module.kernel_size, module.stride) == (3, 2)
            pooled.append(sum(isinstance(m, nn.Conv2d) for m in features[:index]))
    assert pooled == [1, 2, 5]


@pytest.mark.parametrize(
    ("name", "widths", "sizes"),
    [
        # Sizes of 2012, §3.5; widths of 2014, but for the fourth, in which torchvision has 256
        ("alexnet.imagenet", [64, 192, 384, 256, 256], [55, 27, 13, 13, 13, 6]),
        ("alexnet.cifar10", [48, 112, 160, 128, 112], [32, 15, 7, 7, 7, 3]),
    ],
)
def test_the_maps_of_the_convolutions_and_of_the_last_pooling(
    name: str, widths: list[int], sizes: list[int]
) -> None:
    side = resolve(name).input_shape[1]
    network = on_meta(name)
    last_pooling = of_kind(network, nn.MaxPool2d)[-1]
    found = output_shapes(network, [*of_kind(network, nn.Conv2d), last_pooling], side)
    expected = zip([*widths, widths[-1]], sizes, strict=True)
    assert found == [(width, size, size) for width, size in expected]


@pytest.mark.parametrize(
    ("name", "other_side", "shape"),
    [("alexnet.imagenet", 96, (256, 6, 6)), ("vgg16.imagenet", 64, (512, 7, 7))],
)
def test_the_last_map_is_averaged_only_where_it_is_of_another_size(
    name: str, other_side: int, shape: tuple[int, ...]
) -> None:
    network = on_meta(name)
    pooled: list[tuple[Tensor, Tensor]] = []
    hook = network.get_submodule("avgpool").register_forward_hook(
        lambda _m, inputs, output: pooled.append((inputs[0], output))
    )
    for side in (224, other_side):
        assert network(torch.empty(1, 3, side, side, device="meta")).shape == (1, 1000)
    hook.remove()
    assert pooled[0][1] is pooled[0][0]  # no node of the exported graph
    assert pooled[1][0].shape[1:] != pooled[1][1].shape[1:] == shape


def test_the_cifar_networks_signal_neither_dies_nor_explodes() -> None:
    """Without BatchNorm only the initialisation keeps activations and gradients in range."""
    torch.manual_seed(0)
    network = resolve("alexnet.cifar10").build().eval()
    deviations = []
    for module in (*of_kind(network, nn.Conv2d), *of_kind(network, nn.Linear)):
        module.register_forward_hook(
            lambda _m, _i, output: deviations.append(output.detach().std().item())
        )
    logits = network(torch.randn(32, 3, 32, 32))
    assert len(deviations) == 8
    assert all(0.1 < deviation < 4 for deviation in deviations), deviations
    nn.functional.cross_entropy(logits, torch.arange(32) % 10).backward()
    norms = [float(p.grad.norm()) for p in network.parameters() if p.grad is not None]
    assert len(norms) == 16
    assert all(0.003 < norm < 30 for norm in norms), norms
