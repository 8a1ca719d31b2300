"""Residual networks: what of the papers no library's logits hold."""

import pytest
import torch
from torch import nn

from repr_models import resolve
from repr_models.networks.resnet_blocks import (
    BasicBlock,
    BlockOptions,
    BlockShape,
    PadShortcut,
    PreactBottleneck,
)

PLAIN = (20, 32, 44, 56)
NORMS = (nn.BatchNorm2d, nn.GroupNorm)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5)])
def test_the_pad_shortcut_subsamples_and_adds_zeros_on_both_sides(height: int, width: int) -> None:
    x = torch.randn(2, 4, height, width)
    y = PadShortcut(4, 11, stride=2)(x)
    assert y.shape == (2, 11, (height + 1) // 2, (width + 1) // 2)
    for row in range(y.shape[2]):
        for column in range(y.shape[3]):
            assert torch.equal(y[:, 3:7, row, column], x[:, :, 2 * row, 2 * column])
    assert not y[:, :3].any()
    assert not y[:, 7:].any()


def test_a_basic_block_has_no_groups_and_a_pre_activated_one_none_either() -> None:
    for options, block in (
        (BlockOptions(groups=2), BasicBlock),
        (BlockOptions(groups=2), PreactBottleneck),
        (BlockOptions(residual=False), PreactBottleneck),
    ):
        with pytest.raises(ValueError, match=r"BasicBlock has no 2x64d|no option but its norms"):
            block(BlockShape(16, 16), options)


@pytest.mark.parametrize("name", ["resnet50.cifar10", "resnet56_gn.cifar10"])
def test_blocks_that_begin_as_the_identity_have_their_last_scale_at_zero(name: str) -> None:
    network = resolve(name).build()
    norms = {n: m for n, m in network.named_modules() if isinstance(m, NORMS)}
    last = "bn3" if name.startswith("resnet50") else "bn2"
    zeros = {n for n, m in norms.items() if not m.weight.any()}
    assert zeros == {n for n in norms if n.endswith(f".{last}")}
    assert all((m.weight == 1).all() for n, m in norms.items() if n not in zeros)


def test_a_pre_activated_block_adds_nothing_but_its_branch() -> None:
    """Nothing stands behind the addition: with a branch of zero the block is the identity."""
    block = PreactBottleneck(BlockShape(16, 4), BlockOptions()).eval()
    nn.init.zeros_(block.conv3.weight)
    x = torch.randn(2, 16, 6, 6)  # of both signs, and left as it was
    assert torch.equal(block(x.clone()), x)


def test_a_pre_activated_projection_reads_behind_the_first_rectifier() -> None:
    """Authors' code: normalisation and rectifier are common to the branch and the projection."""
    projection = nn.Conv2d(8, 16, kernel_size=1, stride=2, bias=False)
    block = PreactBottleneck(BlockShape(8, 4, stride=2), BlockOptions(), projection).eval()
    nn.init.zeros_(block.conv3.weight)
    assert isinstance(block.bn1, nn.BatchNorm2d)
    nn.init.constant_(block.bn1.bias, 0.3)
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(block(x), projection(block.bn1(x).relu()))


def test_the_bars_rise_with_the_depth_of_residual_networks_and_deep_plain_ones_have_none() -> None:
    bars = [resolve(f"resnet{depth}.cifar10").bar for depth in (20, 32, 44, 56, 110)]
    assert bars == sorted(bar for bar in bars if bar is not None)
    assert [resolve(f"plain{depth}.cifar10").bar for depth in PLAIN] == [0.90, None, None, None]
