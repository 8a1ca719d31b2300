"""VGG: the columns of Table 1, where its BatchNorms stand, and its halves for CIFAR-10."""

from __future__ import annotations

import pytest
from layer_costs import of_kind, on_meta, output_shapes
from torch import nn

from repr_models import resolve

PLAIN = ("vgg16.imagenet", "vgg19.imagenet")
NORMALISED = ("vgg16_bn.imagenet", "vgg19_bn.imagenet", "vgg16.cifar10", "vgg19.cifar10")


@pytest.mark.parametrize("name", [*PLAIN, *NORMALISED])
def test_the_name_counts_the_weighted_layers(name: str) -> None:
    network = on_meta(name)
    linear = of_kind(network, nn.Linear)
    # On CIFAR-10 one linear layer stands for the paper's three.
    replaced = 2 if name.endswith("cifar10") else 0
    depth = int(name[3:5])
    assert len(of_kind(network, nn.Conv2d)) + len(linear) + replaced == depth
    assert len(linear) == 3 - replaced


@pytest.mark.parametrize("name", [*PLAIN, *NORMALISED])
def test_each_convolution_is_3x3_and_keeps_the_size(name: str) -> None:
    for conv in of_kind(on_meta(name), nn.Conv2d):
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
    side = resolve(name).input_shape[1]
    shapes = output_shapes(network, of_kind(network, nn.MaxPool2d), side)
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
    whole = [conv.out_channels for conv in of_kind(on_meta(f"vgg{depth}.imagenet"), nn.Conv2d)]
    half = [conv.out_channels for conv in of_kind(on_meta(f"vgg{depth}.cifar10"), nn.Conv2d)]
    assert [2 * width for width in half] == whole
