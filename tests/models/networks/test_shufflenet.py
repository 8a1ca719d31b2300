"""ShuffleNet v1 and v2: the permutation, who hears from whom, the papers' tables."""

from __future__ import annotations

import pytest
import torch
from layer_costs import multiply_adds, of_kind, on_meta, output_shapes
from torch import nn
from torch.nn import functional as F

from repr_models import resolve
from repr_models.networks import shufflenet
from repr_models.networks.shufflenet import ShuffleUnitV1, ShuffleUnitV2, channel_shuffle

V1_STAGE_ENDS = ["features.3", "features.11", "features.15"]
V2_STAGES = ["stage2", "stage3", "stage4"]


def test_the_shuffle_takes_one_channel_of_each_group_in_turn() -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1).expand(2, 6, 3, 4)
    assert channel_shuffle(x, 2)[1, :, 2, 3].tolist() == [0, 3, 1, 4, 2, 5]
    assert channel_shuffle(x, 3)[0, :, 0, 0].tolist() == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_shuffle_moves_whole_maps_and_can_be_undone(memory_format: torch.memory_format) -> None:
    x = torch.randn(5, 12, 3, 4).to(memory_format=memory_format)
    shuffled = channel_shuffle(x, 3)
    for i in range(3):
        for j in range(4):
            assert torch.equal(shuffled[:, j * 3 + i], x[:, i * 4 + j])
    assert torch.equal(channel_shuffle(shuffled, 4), x)


def test_v1_has_the_maps_and_the_cost_of_table_1() -> None:
    """3 groups, scale factor 1: 137 MFLOPs (Table 1 counts multiply-adds)."""
    network = on_meta("shufflenet_v1.imagenet")
    assert output_shapes(network, ["first_conv", "maxpool", *V1_STAGE_ENDS], 224) == [
        (24, 112, 112),
        (24, 56, 56),
        (240, 28, 28),
        (480, 14, 14),
        (960, 7, 7),
    ]
    assert multiply_adds(network, 224) == pytest.approx(137e6, rel=5e-3)


@pytest.mark.parametrize("name", ["shufflenet_v1.imagenet", "shufflenet_v1.cifar10"])
def test_v1_groups_every_1x1_but_the_first(name: str) -> None:
    network = on_meta(name)
    groups = [m.groups for m in of_kind(network, nn.Conv2d) if m.kernel_size == (1, 1)]
    assert groups == [1] + [3] * 31
    for unit in of_kind(network, ShuffleUnitV1):
        depthwise = unit.branch_main_1[3]
        assert isinstance(depthwise, nn.Conv2d)
        assert depthwise.groups == depthwise.out_channels
        # a quarter of the unit's output
        last = unit.branch_main_2[0]
        assert isinstance(last, nn.Conv2d)
        joined = 0 if unit.stride == 1 else unit.branch_main_1[0].in_channels
        assert depthwise.out_channels * 4 == last.out_channels + joined


def heard_from(unit: ShuffleUnitV1, group: int) -> set[int]:
    """The output groups of the unit's branch that change when one input group does."""
    with torch.no_grad():
        for module in unit.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.abs_()  # so that nothing is rectified away
    x = torch.rand(1, 72, 3, 3) + 1
    moved = x.clone()
    moved[:, group * 24 : group * 24 + 24] += 1
    outputs = []
    handle = unit.branch_main_2.register_forward_hook(lambda _m, _i, output: outputs.append(output))
    unit(x)
    unit(moved)
    handle.remove()
    changed = (outputs[0] != outputs[1]).flatten(2).any(2)[0].view(3, 24)
    return {int(i) for i in torch.nonzero(changed.any(1))}


def test_the_shuffle_lets_every_group_hear_from_every_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fig. 1: without it, stacked grouped convolutions never look beyond their own group."""
    unit = ShuffleUnitV1(72, 72, 1, groups=3, first_groups=3).eval()
    assert [heard_from(unit, group) for group in range(3)] == [{0, 1, 2}] * 3
    monkeypatch.setattr(shufflenet, "channel_shuffle", lambda x, _groups: x)
    assert [heard_from(unit, group) for group in range(3)] == [{0}, {1}, {2}]


def test_a_unit_of_v1_adds_or_joins_its_shortcut() -> None:
    x = torch.randn(2, 24, 7, 10)
    stay = ShuffleUnitV1(24, 24, 1, groups=3, first_groups=3).eval()
    nn.init.zeros_(stay.branch_main_2[1].weight)
    assert torch.equal(stay(x), x.relu())
    halve = ShuffleUnitV1(24, 60, 2, groups=3, first_groups=1).eval()
    y = halve(x)
    assert y.shape == (2, 60, 4, 5)
    assert torch.equal(y[:, :24], F.avg_pool2d(x, 3, 2, 1))
    assert float(y[:, 24:].detach().min()) == 0


@torch.no_grad()
def test_units_of_v1_that_add_begin_as_the_identity() -> None:
    units = of_kind(resolve("shufflenet_v1.cifar10").build(), ShuffleUnitV1)
    for unit in (units[1], units[11]):
        x = torch.rand(1, unit.branch_main_1[0].in_channels, 2, 2)
        assert torch.equal(unit.eval()(x), x)
    assert float(units[0].eval()(torch.rand(1, 24, 4, 4))[:, 24:].max()) > 0  # not this one


def test_v2_has_the_maps_and_the_cost_of_table_5() -> None:
    network = on_meta("shufflenet_v2.imagenet")
    assert output_shapes(network, ["conv1", "maxpool", *V2_STAGES, "conv5"], 224) == [
        (24, 112, 112),
        (24, 56, 56),
        (116, 28, 28),
        (232, 14, 14),
        (464, 7, 7),
        (1024, 7, 7),
    ]
    assert multiply_adds(network, 224) == pytest.approx(146e6, rel=0.01)


@pytest.mark.parametrize("version", [1, 2])
def test_the_stages_have_4_8_and_4_units(version: int) -> None:
    kind = ShuffleUnitV1 if version == 1 else ShuffleUnitV2
    network = on_meta(f"shufflenet_v{version}.imagenet")
    strides = [m.stride for m in network.modules() if isinstance(m, kind)]
    assert strides == [2, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1]


def test_a_unit_of_v2_passes_one_half_on_unchanged() -> None:
    """Split, work on the second half, join, shuffle: the first half is at the even places."""
    unit = ShuffleUnitV2(8, 8, 1).eval()
    x = torch.randn(3, 8, 5, 6)
    y = unit(x)
    assert torch.equal(y[:, 0::2], x[:, :4])
    assert torch.equal(y[:, 1::2], unit.branch2(x[:, 4:]))


def test_a_halving_unit_of_v2_gives_all_channels_to_both_branches() -> None:
    unit = ShuffleUnitV2(6, 16, 2).eval()
    x = torch.randn(2, 6, 7, 10)
    y = unit(x)
    assert y.shape == (2, 16, 4, 5)
    assert torch.equal(y[:, 0::2], unit.branch1(x))
    assert torch.equal(y[:, 1::2], unit.branch2(x))


@pytest.mark.parametrize(
    ("name", "stages", "cost"),
    [
        ("shufflenet_v1", V1_STAGE_ENDS, 42_590_592),
        ("shufflenet_v2", V2_STAGES, 45_002_112),
    ],
)
def test_the_cifar_networks_differ_by_their_stem_alone(
    name: str, stages: list[str], cost: int
) -> None:
    sizes = [shape[1:] for shape in output_shapes(on_meta(f"{name}.cifar10"), stages, 32)]
    assert sizes == [(16, 16), (8, 8), (4, 4)]
    assert multiply_adds(on_meta(f"{name}.cifar10"), 32) == cost
    small, large = (on_meta(f"{name}.{data}").state_dict() for data in ("cifar10", "imagenet"))
    other = [key for key in large if key not in small or small[key].shape != large[key].shape]
    assert list(small) == list(large)
    assert all(key.startswith(("fc.", "classifier.")) for key in other)
