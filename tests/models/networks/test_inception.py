"""Inception-v3 and -v4: grids, factorised kernels, pooling, and the auxiliary head."""

from __future__ import annotations

import pytest
import torch
from layer_costs import on_meta, output_shapes
from torch import nn

from repr_models import resolve
from repr_models.networks.inception import AuxiliaryHead
from repr_models.networks.inception_blocks import ConvBnRelu, Parallel, average_pooled, chain


def kernels(module: nn.Module) -> list[tuple[int, ...]]:
    return [m.kernel_size for m in module.modules() if isinstance(m, nn.Conv2d)]


def test_the_grids_of_v3_are_those_of_table_1() -> None:
    grids = {
        "Conv2d_1a_3x3": (32, 149, 149),
        "Conv2d_2a_3x3": (32, 147, 147),
        "Conv2d_2b_3x3": (64, 147, 147),
        "maxpool1": (64, 73, 73),
        "maxpool2": (192, 35, 35),
        "Mixed_5b": (256, 35, 35),
        "Mixed_5d": (288, 35, 35),
        "Mixed_6a": (768, 17, 17),
        "Mixed_6e": (768, 17, 17),
        "Mixed_7a": (1280, 8, 8),
        "Mixed_7c": (2048, 8, 8),
    }
    assert output_shapes(on_meta("inception_v3.imagenet"), grids, 299) == list(grids.values())


def test_the_grids_of_v4_are_those_of_figures_3_and_9() -> None:
    modules = [f"features.{index}" for index in (2, 3, 4, 5, 9, 10, 17, 18, 21)]
    assert output_shapes(on_meta("inception_v4.imagenet"), modules, 299) == [
        (64, 147, 147),
        (160, 73, 73),
        (192, 71, 71),
        (384, 35, 35),
        (384, 35, 35),
        (1024, 17, 17),
        (1024, 17, 17),
        (1536, 8, 8),
        (1536, 8, 8),
    ]


@pytest.mark.parametrize("name", ["inception_v3.imagenet", "inception_v4.imagenet"])
def test_75_pixels_are_the_fewest(name: str) -> None:
    spec = resolve(name)
    network = on_meta(name)
    assert spec.smallest_side == 75
    assert network(torch.empty(1, 3, 75, 75, device="meta")).shape == (1, 1000)
    with pytest.raises(RuntimeError, match=r"too small|can't be greater"):
        network(torch.empty(1, 3, 74, 74, device="meta"))


def test_large_kernels_are_factorised() -> None:
    """On the 17x17 grid 7x7 is 1x7 and 7x1; on the 8x8 grid 3x3 forks into 1x3 and 3x1."""
    v3 = on_meta("inception_v3.imagenet")
    mixed = kernels(v3.get_submodule("Mixed_6b"))
    assert mixed.count((1, 7)) == mixed.count((7, 1)) == 3
    assert set(mixed) == {(1, 1), (1, 7), (7, 1)}
    assert kernels(v3.get_submodule("Mixed_7b")).count((1, 3)) == 2
    v4 = on_meta("inception_v4.imagenet")
    mixed = kernels(v4.get_submodule("features.11"))
    assert mixed.count((1, 7)) == mixed.count((7, 1)) == 3
    assert kernels(v4.get_submodule("features.19")).count((3, 1)) == 3


def test_every_convolution_has_a_batchnorm_of_the_papers_epsilon() -> None:
    for name, count in (("inception_v3.imagenet", 96), ("inception_v4.imagenet", 149)):
        modules = list(on_meta(name).modules())
        norms = [module for module in modules if isinstance(module, nn.BatchNorm2d)]
        assert len(norms) == sum(isinstance(module, nn.Conv2d) for module in modules) == count
        assert {norm.eps for norm in norms} == {0.001}


def test_the_auxiliary_head_speaks_in_training_alone_of_the_last_17x17_grid() -> None:
    spec = resolve("inception_v3.imagenet")
    with torch.device("meta"):
        network = spec.build()
    seen: list[tuple[int, ...]] = []
    for name in ("AuxLogits", "AuxLogits.conv1"):
        network.get_submodule(name).register_forward_pre_hook(
            lambda _module, inputs: seen.append(tuple(inputs[0].shape[1:]))
        )
    images = torch.empty(2, 3, 299, 299, device="meta")
    logits, auxiliary = network(images)
    assert logits.shape == auxiliary.shape == (2, 1000)
    assert seen == [(768, 17, 17), (128, 5, 5)]
    assert network.eval()(images).shape == (2, 1000)
    assert len(seen) == 2
    heads = {name.split(".")[0] for name in network.state_dict() if spec.is_training_only(name)}
    assert heads == {"AuxLogits"}


def test_gradients_reach_the_trunk_from_the_auxiliary_head() -> None:
    head = AuxiliaryHead(8, classes=3)
    grid = torch.randn(2, 8, 17, 17, requires_grad=True)
    head(grid).sum().backward()
    assert grid.grad is not None
    assert grid.grad.abs().sum() > 0


def test_parallel_branches_keep_their_order() -> None:
    module = Parallel(zebra=nn.Identity(), ape=nn.ReLU())
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(module(x), torch.cat((x, x.relu()), 1))


def test_a_chain_strides_at_its_end() -> None:
    module = chain(3, (4, 1), (5, (1, 7)), (6, 3), stride=2, padded=False)
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert [conv.stride for conv in convs] == [(1, 1), (1, 1), (2, 2)]
    assert [conv.padding for conv in convs] == [(0, 0), (0, 3), (0, 0)]
    assert module(torch.randn(2, 3, 9, 9)).shape == (2, 6, 4, 4)
    assert isinstance(chain(3, (4, 3)), ConvBnRelu)


def test_pooling_counts_the_padding_in_v3_and_not_in_v4() -> None:
    """A constant image: at a corner 4 of 9 places lie inside."""
    ones = torch.ones(1, 1, 4, 4)
    v3 = on_meta("inception_v3.imagenet").get_submodule("Mixed_5b.pool")(ones)
    v4 = average_pooled(1, 1).get_submodule("0")(ones)
    assert v3[0, 0, 0, 0].item() == pytest.approx(4 / 9)
    assert torch.equal(v4, ones)


def test_the_images_come_between_minus_one_and_one() -> None:
    resized = {
        "inception_v3": 342,
        "inception_v4": 341,
        "inception_resnet_v2": 333,
        "xception": 333,
    }
    for name, resize in resized.items():
        pre = resolve(f"{name}.imagenet").preprocessing
        assert (pre.resize, pre.crop) == (resize, 299)
        assert pre.mean == pre.std == (0.5, 0.5, 0.5)
