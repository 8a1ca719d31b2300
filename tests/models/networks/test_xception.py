"""Xception: flows, separable convolutions, and where the rectifiers stand."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from layer_costs import of_kind, on_meta, output_shapes
from torch import nn

from repr_models import resolve
from repr_models.networks.xception import Block, SeparableConv2d

NAMES = ["xception.imagenet", "xception.cifar10"]


def block_outputs(name: str) -> list[tuple[int, ...]]:
    """Shapes (C, H, W) behind each block."""
    network = on_meta(name)
    return output_shapes(network, of_kind(network, Block), resolve(name).input_shape[1])


def test_the_flows_for_imagenet_are_those_of_figure_5() -> None:
    assert block_outputs("xception.imagenet") == [
        (128, 74, 74),
        (256, 37, 37),
        (728, 19, 19),
        *[(728, 19, 19)] * 8,
        (1024, 10, 10),
    ]


def test_the_flows_for_cifar_end_at_4x4() -> None:
    assert block_outputs("xception.cifar10") == [
        (96, 16, 16),
        (192, 8, 8),
        *[(192, 8, 8)] * 6,
        (384, 4, 4),
    ]


def test_36_convolutions_are_the_feature_extraction_base() -> None:
    """§3: 36 convolutional layers in 14 modules; a separable convolution is one."""
    network = on_meta("xception.imagenet")
    separable = sum(isinstance(module, SeparableConv2d) for module in network.modules())
    blocks = sum(isinstance(module, Block) for module in network.modules())
    assert separable + 2 == 36
    assert blocks + 2 == 14  # the two full convolutions are one, and so are the last two


def test_a_separable_convolution_is_spatial_then_across_channels() -> None:
    """§4.7: nothing stands between the two; §3: the first leaves the channels apart."""
    module = SeparableConv2d(4, 6).double()
    assert [name for name, _ in module.named_children()] == ["conv1", "pointwise"]
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    weight = torch.einsum(
        "oi,ihw->oihw", module.pointwise.weight[:, :, 0, 0], module.conv1.weight[:, 0]
    )
    torch.testing.assert_close(module(x), nn.functional.conv2d(x, weight, padding=1))


@pytest.mark.parametrize("name", NAMES)
def test_every_batchnorm_stands_behind_a_convolution_across_channels(name: str) -> None:
    """So that all of them fold; none stands behind a depthwise convolution."""
    behind = []
    for block in on_meta(name).modules():
        if isinstance(block, Block):
            branch = list(block.rep.children())
            for before, module in pairwise(branch):
                if isinstance(module, nn.BatchNorm2d):
                    assert isinstance(before, SeparableConv2d)
                    assert before.pointwise.out_channels == module.num_features
                    behind.append(module)
            behind += [block.skipbn] if block.skip is not None else []
    assert len(behind) + 4 == resolve(name).fold.batchnorms


@pytest.mark.parametrize("name", NAMES)
def test_the_rectifier_stands_before_separable_convolutions(name: str) -> None:
    network = on_meta(name)
    blocks = of_kind(network, Block)
    kinds = [[type(module).__name__ for module in block.rep.children()] for block in blocks]
    unit = ["ReLU", "SeparableConv2d", "BatchNorm2d"]
    assert kinds[0] == [*unit[1:], *unit, "MaxPool2d"]
    assert kinds[1] == [*unit, *unit, "MaxPool2d"]
    middle = kinds[3 if name == "xception.imagenet" else 2 : -1]
    assert all(kind == unit * 3 for kind in middle)
    assert kinds[-1] == [*unit, *unit, "MaxPool2d"]


def test_the_exit_block_grows_with_its_second_convolution() -> None:
    network = on_meta("xception.imagenet")
    last = network.get_submodule("block12")
    convs = [m for m in last.modules() if isinstance(m, SeparableConv2d)]
    assert [conv.pointwise.out_channels for conv in convs] == [728, 1024]


def test_the_shortcut_of_a_middle_block_is_the_input_before_its_rectifier() -> None:
    block = Block(4, (4, 4, 4), stride=1).eval()
    last = list(block.rep.children())[-1]
    assert isinstance(last, nn.BatchNorm2d)
    nn.init.zeros_(last.weight)
    x = torch.randn(2, 4, 5, 5)
    assert (x < 0).any()
    assert torch.equal(block(x.clone()), x)


def test_a_strided_block_pools_its_branch_and_strides_its_shortcut() -> None:
    block = Block(3, (5, 6), stride=2).eval()
    assert block(torch.randn(2, 3, 7, 9)).shape == (2, 6, 4, 5)
    assert isinstance(block.skip, nn.Conv2d)
    assert block.skip.stride == (2, 2)
    strides = {conv.stride for conv in block.rep.modules() if isinstance(conv, nn.Conv2d)}
    assert strides == {(1, 1)}


@pytest.mark.parametrize("name", ["xception.cifar10", "inception_resnet.cifar10"])
def test_all_pixels_of_a_cifar_image_count(name: str) -> None:
    """A change of any pixel, at the border too, changes the logits."""
    torch.manual_seed(0)
    network = resolve(name).build().eval()
    x = torch.randn(1, 3, 32, 32, requires_grad=True)
    network(x)[0, 3].backward()
    assert x.grad is not None
    assert (x.grad.abs().amax(dim=(0, 1)) > 0).all()


@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_a_fresh_separable_convolution_keeps_the_size_of_a_rectified_signal(gain: float) -> None:
    torch.manual_seed(0)
    network = resolve("xception.cifar10").build()
    module = network.get_submodule("block3.rep.1")
    x = (gain * torch.randn(8, 192, 16, 16)).relu()
    inside = module(x)[:, :, 1:-1, 1:-1]
    assert inside.std().item() == pytest.approx(gain, rel=0.15)
