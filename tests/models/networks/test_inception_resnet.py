"""Inception-ResNet: modules a network, scaled linear branches, and the CIFAR-10 cut."""

from __future__ import annotations

import pytest
import torch
from layer_costs import of_kind, on_meta
from torch import nn

from repr_models import resolve
from repr_models.networks.inception_blocks import ConvBnRelu
from repr_models.networks.inception_resnet import ScaledResidual

NAMES = ["inception_resnet_v2.imagenet", "inception_resnet.cifar10"]


def grids(network: nn.Module, side: int) -> dict[str, tuple[int, ...]]:
    """Shape (C, H, W) behind each part of the network, down to the last convolution."""
    x = torch.empty(1, 3, side, side, device="meta")
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in network.named_children():
        x = module(x)
        if x.ndim == 4:
            shapes[name] = tuple(x.shape[1:])
    return shapes


def test_the_grids_for_imagenet_are_35_17_and_8() -> None:
    shapes = grids(on_meta("inception_resnet_v2.imagenet"), 299)
    assert shapes["mixed_5b"] == shapes["repeat"] == (320, 35, 35)
    assert shapes["mixed_6a"] == shapes["repeat_1"] == (1088, 17, 17)
    assert shapes["mixed_7a"] == shapes["repeat_2"] == shapes["block8"] == (2080, 8, 8)
    assert shapes["conv2d_7b"] == (1536, 8, 8)


def test_the_grids_for_cifar_are_16_8_and_4() -> None:
    shapes = grids(on_meta("inception_resnet.cifar10"), 32)
    assert shapes["conv2d_1a"][1:] == shapes["conv2d_2a"][1:] == (32, 32)
    assert shapes["mixed_3a"] == shapes["repeat"] == (128, 16, 16)
    assert shapes["mixed_6a"] == shapes["repeat_1"] == (352, 8, 8)
    assert shapes["mixed_7a"] == shapes["block8"] == (600, 4, 4)


@pytest.mark.parametrize(("name", "counts"), [(NAMES[0], (10, 20, 10)), (NAMES[1], (2, 3, 3))])
def test_the_modules_are_as_many_as_the_paper_or_the_cut_has(
    name: str, counts: tuple[int, int, int]
) -> None:
    network = on_meta(name)
    stages = [list(network.get_submodule(part).children()) for part in ("repeat", "repeat_1")]
    stages.append([*network.get_submodule("repeat_2").children(), network.get_submodule("block8")])
    assert tuple(len(stage) for stage in stages) == counts
    assert all(isinstance(block, ScaledResidual) for stage in stages for block in stage)


@pytest.mark.parametrize("name", NAMES)
def test_scales_lie_where_the_paper_has_them_but_for_the_last_module(name: str) -> None:
    network = on_meta(name)
    blocks = of_kind(network, ScaledResidual)
    assert all(0.1 <= block.scale <= 0.3 for block in blocks[:-1])
    assert all(isinstance(block.act, nn.ReLU) for block in blocks[:-1])
    assert blocks[-1] is network.get_submodule("block8")
    assert blocks[-1].scale == 1.0
    assert isinstance(blocks[-1].act, nn.Identity)


def test_the_scales_of_imagenet_are_the_authors() -> None:
    network = on_meta("inception_resnet_v2.imagenet")
    for part, scale in (("repeat", 0.17), ("repeat_1", 0.10), ("repeat_2", 0.20)):
        blocks = list(network.get_submodule(part).children())
        assert {block.scale for block in blocks if isinstance(block, ScaledResidual)} == {scale}


def test_a_module_is_its_input_plus_a_share_of_its_linear_branch() -> None:
    torch.manual_seed(0)
    branches: list[nn.Module] = [ConvBnRelu(6, 3), nn.Sequential(ConvBnRelu(6, 2, 3))]
    block = ScaledResidual(6, branches, joined=5, scale=0.25).eval()
    x = torch.randn(2, 6, 5, 5)
    joined = torch.cat([branch(x) for branch in branches], 1)
    expected = torch.relu(x + 0.25 * block.conv2d(joined))
    torch.testing.assert_close(block(x), expected)
    nn.init.zeros_(block.conv2d.weight)
    assert block.conv2d.bias is not None
    nn.init.ones_(block.conv2d.bias)
    torch.testing.assert_close(block(x), torch.relu(x + 0.25))


@pytest.mark.parametrize("name", NAMES)
def test_the_linear_convolutions_alone_have_a_bias_and_no_batchnorm(name: str) -> None:
    network = on_meta(name)
    convs = {k: m for k, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    linear = {key for key in convs if key.endswith("conv2d")}
    assert {key for key, conv in convs.items() if conv.bias is not None} == linear
    assert {convs[key].kernel_size for key in linear} == {(1, 1)}
    assert len(convs) - len(linear) == resolve(name).fold.batchnorms
