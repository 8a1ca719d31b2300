"""ShuffleNet v1, which no library has: who hears from whom, what a unit adds or joins."""

import pytest
import torch
from layer_costs import of_kind
from torch import nn
from torch.nn import functional as F

from repr_models import resolve
from repr_models.networks import shufflenet
from repr_models.networks.shufflenet import ShuffleUnitV1


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


def test_the_shuffle_keeps_the_layout_that_images_lie_in() -> None:
    x = torch.arange(2 * 6 * 3 * 5.0).view(2, 6, 3, 5)
    assert [int(c) for c in shufflenet.channel_shuffle(x, 2)[0, :, 0, 0] / 15] == [0, 3, 1, 4, 2, 5]
    last = x.contiguous(memory_format=torch.channels_last)
    shuffled = shufflenet.channel_shuffle(last, 2)
    assert torch.equal(shuffled, shufflenet.channel_shuffle(x, 2))
    assert shuffled.is_contiguous(memory_format=torch.channels_last)
    assert shufflenet.channel_shuffle(x, 2).is_contiguous()
