"""Residual, plain, ResNeXt, GroupNorm and pre-activation networks: what the papers state."""

from __future__ import annotations

import pytest
import torch
from layer_costs import on_meta, output_shapes
from torch import nn

from repr_models import networks, resolve
from repr_models.networks.resnet import ResNet
from repr_models.networks.resnet_blocks import (
    BasicBlock,
    BlockOptions,
    BlockShape,
    Bottleneck,
    Norms,
    PadShortcut,
    PreactBottleneck,
)

PLAIN = (20, 32, 44, 56)
STAGES = ("layer1", "layer2", "layer3")
NORMS = (nn.BatchNorm2d, nn.GroupNorm)


def weighted_layers(network: nn.Module) -> int:
    """Convolutions and linear layers, without the projections, which the paper does not count."""
    return sum(
        isinstance(module, nn.Conv2d | nn.Linear) and ".downsample" not in name
        for name, module in network.named_modules()
    )


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        *((f"plain{depth}.cifar10", depth) for depth in PLAIN),
        *((f"resnet{depth}.cifar10", depth) for depth in (*PLAIN, 110)),
        *((f"resnet{depth}.imagenet", depth) for depth in (18, 34, 50, 101, 152)),
        *((f"preact_resnet{depth}.cifar10", depth) for depth in (164, 1001)),
        ("resnet50.cifar10", 50),
        ("resnet56_gn.cifar10", 56),
        ("resnext29.cifar10", 29),
        ("resnet50_gn.imagenet", 50),
        ("resnext50_32x4d.imagenet", 50),
        ("resnext101_32x8d.imagenet", 101),
    ],
)
def test_the_name_counts_the_weighted_layers(name: str, depth: int) -> None:
    assert weighted_layers(on_meta(name)) == depth


@pytest.mark.parametrize("depth", PLAIN)
def test_a_plain_network_has_the_parameters_of_the_residual_one(depth: int) -> None:
    plain, residual = (
        {key: value.shape for key, value in on_meta(f"{f}{depth}.cifar10").state_dict().items()}
        for f in ("plain", "resnet")
    )
    assert plain == residual


def test_feature_maps_are_those_of_section_4_2() -> None:
    shapes = output_shapes(on_meta("resnet20.cifar10"), STAGES, 32)
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
        module = block(BlockShape(inputs, 4), BlockOptions(residual=residual)).eval()
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


def test_projections_carry_a_batchnorm_but_with_pre_activation() -> None:
    for name, kinds in (
        ("resnext29.cifar10", [nn.Conv2d, nn.BatchNorm2d]),
        ("resnet50_gn.imagenet", [nn.Conv2d, nn.GroupNorm]),
    ):
        downsample = on_meta(name).get_submodule("layer1.0.downsample")
        assert [type(module) for module in downsample.children()] == kinds
    network = on_meta("preact_resnet164.cifar10")
    projections = [n for n, m in network.named_modules() if n.endswith("downsample")]
    assert projections == [f"layer{stage}.0.downsample" for stage in (1, 2, 3)]
    assert all(isinstance(network.get_submodule(name), nn.Conv2d) for name in projections)


@pytest.mark.parametrize(
    ("name", "cardinality", "group_width", "outputs"),
    [
        ("resnext50_32x4d.imagenet", 32, 4, (256, 512, 1024, 2048)),
        ("resnext101_32x8d.imagenet", 32, 8, (256, 512, 1024, 2048)),
        ("resnext29.cifar10", 12, 8, (128, 256, 512)),
    ],
)
def test_resnext_doubles_the_groups_width_from_stage_to_stage(
    name: str, cardinality: int, group_width: int, outputs: tuple[int, ...]
) -> None:
    network = on_meta(name)
    for index, channels in enumerate(outputs):
        block = network.get_submodule(f"layer{index + 1}.1")
        conv2, conv3 = block.get_submodule("conv2"), block.get_submodule("conv3")
        assert isinstance(conv2, nn.Conv2d)
        assert isinstance(conv3, nn.Conv2d)
        assert conv2.groups == cardinality
        assert conv2.in_channels // conv2.groups == group_width * 2**index
        assert conv3.out_channels == channels


def test_a_grouped_convolution_is_the_sum_of_the_papers_branches() -> None:
    """Fig. 3(c) is Fig. 3(a): paths of their own, added up behind the last 1x1."""
    options = BlockOptions(groups=4, base_width=64)
    block = Bottleneck(BlockShape(8, 2), options).eval().double()
    for norm in (block.bn1, block.bn2, block.bn3):
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    reduced = block.bn1(block.conv1(x)).relu()
    width = reduced.shape[1] // 4
    total = torch.zeros_like(x)
    for path in range(4):
        mine = slice(path * width, (path + 1) * width)
        branch = torch.zeros_like(reduced)
        branch[:, mine] = nn.functional.conv2d(
            reduced[:, mine], block.conv2.weight[mine], padding=1
        )
        kept = torch.zeros_like(reduced)
        kept[:, mine] = block.bn2(branch).relu()[:, mine]
        total += block.conv3(kept)
    torch.testing.assert_close(block(x), (block.bn3(total) + x).relu())


def test_a_basic_block_has_no_groups_and_a_pre_activated_one_none_either() -> None:
    for options, block in (
        (BlockOptions(groups=2), BasicBlock),
        (BlockOptions(groups=2), PreactBottleneck),
        (BlockOptions(residual=False), PreactBottleneck),
    ):
        with pytest.raises(ValueError, match=r"BasicBlock has no 2x64d|no option but its norms"):
            block(BlockShape(16, 16), options)


@pytest.mark.parametrize(
    ("name", "groups", "reference"),
    [
        ("resnet56_gn.cifar10", 8, "resnet56.cifar10"),
        ("resnet50_gn.imagenet", 32, "resnet50.imagenet"),
    ],
)
def test_groupnorm_stands_wherever_batchnorm_did(name: str, groups: int, reference: str) -> None:
    network, plain = on_meta(name), on_meta(reference)
    norms = {n: m.num_channels for n, m in network.named_modules() if isinstance(m, nn.GroupNorm)}
    batchnorms = {
        n: m.num_features for n, m in plain.named_modules() if isinstance(m, nn.BatchNorm2d)
    }
    assert norms == batchnorms
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert {m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)} == {groups}
    weights = dict(network.named_parameters())
    assert {n: p.shape for n, p in plain.named_parameters()} == {
        n: p.shape for n, p in weights.items()
    }


def test_groupnorm_gives_an_image_the_same_logits_alone_and_in_a_batch_in_training() -> None:
    options = BlockOptions(norms=Norms(groups=2))
    network = ResNet(
        BasicBlock, [1, 1], [4, 8], 5, stem="cifar", shortcut="pad", options=options
    ).train()
    images = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(network(images)[:1], network(images[:1]))


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


def test_pre_activation_moves_the_stems_batchnorm_behind_the_last_stage() -> None:
    network = on_meta("preact_resnet164.cifar10")
    assert isinstance(network.get_submodule("bn1"), nn.Identity)
    last = network.get_submodule("bn2")
    assert isinstance(last, nn.BatchNorm2d)
    assert last.num_features == 256
    shapes = output_shapes(network, STAGES, 32)
    assert shapes == [(64, 32, 32), (128, 16, 16), (256, 8, 8)]


def test_the_rectifier_of_the_stem_is_not_applied_with_pre_activation() -> None:
    network = ResNet(PreactBottleneck, [1], [4], 5, stem="cifar", shortcut="projection").eval()
    seen: list[torch.Tensor] = []
    network.get_submodule("layer1").register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0])
    )
    x = torch.randn(2, 3, 8, 8)
    network(x)
    assert torch.equal(seen[0], network.conv1(x))
    assert (seen[0] < 0).any()


def test_the_bars_rise_with_the_depth_of_residual_networks_and_deep_plain_ones_have_none() -> None:
    bars = [resolve(f"resnet{depth}.cifar10").bar for depth in (20, 32, 44, 56, 110)]
    assert bars == sorted(bar for bar in bars if bar is not None)
    assert [resolve(f"plain{depth}.cifar10").bar for depth in PLAIN] == [0.90, None, None, None]


def test_published_checkpoints_are_named_by_the_digest_that_they_must_have() -> None:
    published = [s.published for s in networks() if s.family == "resnet" and s.published]
    assert len(published) == 8
    for checkpoint in published:
        digits = checkpoint.url.removesuffix(".pth").rsplit("-", 1)[1]
        assert checkpoint.sha256.startswith(digits)


def test_any_image_size_that_survives_the_stages_is_taken() -> None:
    network = ResNet(BasicBlock, [1, 1], [8, 16], 5, stem="imagenet", shortcut="projection").eval()
    assert network(torch.randn(1, 3, 45, 70)).shape == (1, 5)
