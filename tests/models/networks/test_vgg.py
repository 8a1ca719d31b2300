"""VGG: the columns of Table 1, where its BatchNorms stand, and its halves for CIFAR-10."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from repr_models import resolve

PLAIN = ("vgg16.imagenet", "vgg19.imagenet")
NORMALISED = ("vgg16_bn.imagenet", "vgg19_bn.imagenet", "vgg16.cifar10", "vgg19.cifar10")


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return resolve(name).build().eval()


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("name", [*PLAIN, *NORMALISED])
def test_the_name_counts_the_weighted_layers(name: str) -> None:
    network = on_meta(name)
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    # On CIFAR-10 one linear layer stands for the paper's three.
    replaced = 2 if name.endswith("cifar10") else 0
    depth = int(name[3:5])
    assert len(convolutions(network)) + len(linear) + replaced == depth
    assert len(linear) == 3 - replaced


@pytest.mark.parametrize("name", [*PLAIN, *NORMALISED])
def test_each_convolution_is_3x3_and_keeps_the_size(name: str) -> None:
    for conv in convolutions(on_meta(name)):
        assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))


@pytest.mark.parametrize(
    ("name", "maps", "sizes"),
    [
        ("vgg16.imagenet", [64, 128, 256, 512, 512], [112, 56, 28, 14, 7]),
        ("vgg19_bn.imagenet", [64, 128, 256, 512, 512], [112, 56, 28, 14, 7]),
        ("vgg19.cifar10", [32, 64, 128, 256, 256], [16, 8, 4, 2, 1]),
    ],
)
def test_the_pooled_maps_are_those_of_table_1(name: str, maps: list[int], sizes: list[int]) -> None:
    network = on_meta(name)
    shapes = []
    for module in network.modules():
        if isinstance(module, nn.MaxPool2d):
            module.register_forward_hook(lambda _m, _i, output: shapes.append(output.shape[1:]))
    network(torch.empty(1, *resolve(name).input_shape, device="meta"))
    assert shapes == [(width, size, size) for width, size in zip(maps, sizes, strict=True)]


def test_the_parameters_are_those_of_table_2() -> None:
    """Millions, for configurations D and E."""
    assert [round(resolve(name).parameters / 1e6) for name in PLAIN] == [138, 144]


@pytest.mark.parametrize("name", [*PLAIN, *NORMALISED])
def test_batchnorm_stands_between_convolution_and_rectifier_or_nowhere(name: str) -> None:
    features = on_meta(name).get_submodule("features")
    assert isinstance(features, nn.Sequential)
    layers = [type(module) for module in features]
    behind = {
        tuple(layers[index + 1 : index + 3])[: 2 if name in NORMALISED else 1]
        for index, layer in enumerate(layers)
        if layer is nn.Conv2d
    }
    assert behind == {(nn.BatchNorm2d, nn.ReLU) if name in NORMALISED else (nn.ReLU,)}


@pytest.mark.parametrize("depth", [16, 19])
def test_the_cifar_network_has_half_of_each_width(depth: int) -> None:
    whole = [conv.out_channels for conv in convolutions(on_meta(f"vgg{depth}.imagenet"))]
    half = [conv.out_channels for conv in convolutions(on_meta(f"vgg{depth}.cifar10"))]
    assert [2 * width for width in half] == whole
