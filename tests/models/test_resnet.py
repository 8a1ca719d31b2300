"""Residual and plain networks: depth, shortcuts and what the additions change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from repr_models import resolve
from repr_models.resnet import BasicBlock, Bottleneck, PadShortcut, ResNet

PLAIN = (20, 32, 44, 56)


def weighted_layers(network: nn.Module) -> int:
    """Convolutions and linear layers, without the projections, which the paper does not count."""
    return sum(
        isinstance(module, nn.Conv2d | nn.Linear) and ".downsample." not in name
        for name, module in network.named_modules()
    )


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return resolve(name).build()


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        *((f"plain{depth}.cifar10", depth) for depth in PLAIN),
        *((f"resnet{depth}.cifar10", depth) for depth in (*PLAIN, 110)),
        *((f"resnet{depth}.imagenet", depth) for depth in (18, 34, 50, 101, 152)),
    ],
)
def test_the_name_counts_the_weighted_layers(name: str, depth: int) -> None:
    assert weighted_layers(on_meta(name)) == depth


@pytest.mark.parametrize("depth", PLAIN)
def test_a_plain_network_has_the_parameters_of_the_residual_one(depth: int) -> None:
    shapes = [
        {
            key: value.shape
            for key, value in on_meta(f"{family}{depth}.cifar10").state_dict().items()
        }
        for family in ("plain", "resnet")
    ]
    assert shapes[0] == shapes[1]


def test_feature_maps_are_those_of_section_4_2() -> None:
    network = on_meta("resnet20.cifar10")
    shapes = []
    for stage in ("layer1", "layer2", "layer3"):
        network.get_submodule(stage).register_forward_hook(
            lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:]))
        )
    network(torch.empty(1, 3, 32, 32, device="meta"))
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5)])
def test_the_pad_shortcut_subsamples_and_adds_zeros_behind(height: int, width: int) -> None:
    x = torch.randn(2, 4, height, width)
    y = PadShortcut(4, 10, stride=2)(x)
    assert y.shape == (2, 10, (height + 1) // 2, (width + 1) // 2)
    for row in range(y.shape[2]):
        for column in range(y.shape[3]):
            assert torch.equal(y[:, :4, row, column], x[:, :, 2 * row, 2 * column])
    assert not y[:, 4:].any()


def test_the_shortcut_of_cifar_networks_has_no_parameters_and_fits_the_branch() -> None:
    network = on_meta("resnet32.cifar10")
    shortcuts = {n: m for n, m in network.named_modules() if n.endswith("downsample")}
    assert list(shortcuts) == ["layer2.0.downsample", "layer3.0.downsample"]
    assert all(isinstance(module, PadShortcut) for module in shortcuts.values())
    assert not any(p.numel() for module in shortcuts.values() for p in module.parameters())


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_block_is_its_branch_plus_its_shortcut(
    block: type[BasicBlock] | type[Bottleneck],
) -> None:
    """With the last BatchNorm's scale at zero, a residual block is the rectified identity."""
    inputs = 4 * block.expansion
    x = torch.randn(2, inputs, 6, 6)
    for residual in (True, False):
        module = block(inputs, 4, 1, None, residual).eval()
        last = module.get_submodule("bn2" if block is BasicBlock else "bn3")
        assert isinstance(last, nn.BatchNorm2d)
        nn.init.zeros_(last.weight)
        expected = x.relu() if residual else torch.zeros_like(x)
        assert torch.equal(module(x), expected)


def test_the_additions_are_all_that_the_plain_network_lacks() -> None:
    """Same parameters, same images: other logits; without the shortcuts, the same ones."""
    residual = resolve("resnet20.cifar10").build().eval()
    plain = resolve("plain20.cifar10").build().eval()
    plain.load_state_dict(residual.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(residual(x), plain(x))
    for module in residual.modules():
        if isinstance(module, BasicBlock):
            module.residual = False
    assert torch.equal(residual(x), plain(x))


def test_the_stride_of_a_bottleneck_is_on_the_3x3() -> None:
    network = on_meta("resnet50.imagenet")
    block = network.get_submodule("layer2.0")
    strides = [block.get_submodule(f"conv{i}").stride for i in (1, 2, 3)]
    assert strides == [(1, 1), (2, 2), (1, 1)]


def test_any_image_size_that_survives_the_stages_is_taken() -> None:
    network = ResNet(BasicBlock, [1, 1], [8, 16], 5, stem="imagenet", shortcut="projection").eval()
    assert network(torch.randn(1, 3, 45, 70)).shape == (1, 5)
