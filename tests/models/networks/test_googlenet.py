"""GoogLeNet: Table 1, the modules' branches, and auxiliary classifiers that only train."""

from __future__ import annotations

import pytest
import torch
from layer_costs import of_kind, on_meta, output_shapes
from torch import Tensor, nn

from repr_models import IMAGENET, resolve
from repr_models.networks.googlenet import MODULES, BasicConv2d, GoogLeNet, Inception, Widths

NAMES = ("googlenet.imagenet", "googlenet.cifar10")
# Table 1, column "output size": channels of each module
CHANNELS = {
    "3a": 256,
    "3b": 480,
    "4a": 512,
    "4b": 512,
    "4c": 512,
    "4d": 528,
    "4e": 832,
    "5a": 832,
    "5b": 1024,
}


@pytest.mark.parametrize(
    ("name", "side", "divisor", "sizes"),
    [
        ("googlenet.imagenet", 224, 1, {"3": 28, "4": 14, "5": 7}),
        ("googlenet.cifar10", 32, 2, {"3": 16, "4": 8, "5": 4}),
        # Where a size is odd or the window hangs over, pooling rounds up as torchvision's does.
        ("googlenet.imagenet", 80, 1, {"3": 10, "4": 5, "5": 3}),
    ],
)
def test_the_maps_are_those_of_table_1(
    name: str, side: int, divisor: int, sizes: dict[str, int]
) -> None:
    modules = [f"inception{module}" for module in CHANNELS]
    assert output_shapes(on_meta(name), modules, side) == [
        (channels // divisor, sizes[module[0]], sizes[module[0]])
        for module, channels in CHANNELS.items()
    ]


@pytest.mark.parametrize("name", NAMES)
def test_22_weighted_layers_deep(name: str) -> None:
    """§5: 22 layers with parameters on the longest way, two in each module."""
    network = on_meta(name)
    stem = [n for n, m in network.named_children() if isinstance(m, BasicConv2d)]
    modules = [m for _, m in network.named_children() if isinstance(m, Inception)]
    deepest = max(sum(isinstance(m, nn.Conv2d) for m in b.modules()) for b in modules[0].children())
    assert len(stem) + deepest * len(modules) + 1 == 22


@pytest.mark.parametrize(("large", "name"), [(3, NAMES[0]), (5, NAMES[1])])
def test_the_third_branch_is_5x5_but_for_torchvisions_mistake(large: int, name: str) -> None:
    network = on_meta(name)
    for module in MODULES:
        conv = network.get_submodule(f"inception{module}.branch3.1.conv")
        assert isinstance(conv, nn.Conv2d)
        assert conv.kernel_size == (large, large)


def test_a_module_joins_its_branches_in_order() -> None:
    torch.manual_seed(0)
    module = Inception(5, Widths(2, 3, 4, 2, 3, 1), large=5).eval()
    x = torch.randn(2, 5, 7, 6)
    y = module(x)
    assert y.shape == (2, 10, 7, 6)
    assert torch.equal(y[:, :2], module.branch1(x))
    assert torch.equal(y[:, 2:6], module.branch2(x))
    assert torch.equal(y[:, 6:9], module.branch3(x))
    pooled = nn.functional.max_pool2d(x, 3, stride=1, padding=1)
    assert torch.equal(y[:, 9:], module.branch4[1](pooled))


def test_batchnorm_has_the_epsilon_of_the_checkpoint() -> None:
    norms = of_kind(on_meta("googlenet.imagenet"), nn.BatchNorm2d)
    assert {norm.eps for norm in norms} == {0.001}


@pytest.fixture(scope="module")
def small() -> GoogLeNet:
    torch.manual_seed(0)
    network = resolve("googlenet.cifar10").build()
    assert isinstance(network, GoogLeNet)
    return network


def test_training_gives_the_logits_then_those_of_aux2_then_of_aux1(small: GoogLeNet) -> None:
    small.train()
    for head, value in ((small.aux1, 1.0), (small.aux2, 2.0)):
        nn.init.zeros_(head.fc2.weight)
        nn.init.constant_(head.fc2.bias, value)
    outputs = small(torch.randn(3, 3, 32, 32))
    assert isinstance(outputs, tuple)
    assert [output.shape for output in outputs] == [(3, 10)] * 3
    assert torch.equal(outputs[1], torch.full((3, 10), 2.0))
    assert torch.equal(outputs[2], torch.full((3, 10), 1.0))


def test_the_auxiliary_classifiers_see_modules_4a_and_4d(small: GoogLeNet) -> None:
    small.train()
    seen: dict[str, Tensor] = {}
    handles = [
        small.get_submodule(name).register_forward_hook(
            lambda _m, inputs, output, name=name: seen.update(
                {name: inputs[0] if name.startswith("aux") else output}
            )
        )
        for name in ("aux1", "aux2", "inception4a", "inception4d")
    ]
    small(torch.randn(2, 3, 32, 32))
    for handle in handles:
        handle.remove()
    assert seen["aux1"] is seen["inception4a"]
    assert seen["aux2"] is seen["inception4d"]


def test_in_eval_mode_the_auxiliary_classifiers_do_not_matter(small: GoogLeNet) -> None:
    small.eval()
    x = torch.randn(2, 3, 32, 32)
    before = small(x)
    for head in (small.aux1, small.aux2):
        nn.init.constant_(head.fc1.weight, float("nan"))
    after = small(x)
    assert isinstance(after, Tensor)
    assert torch.equal(before, after)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_auxiliary_classifiers_are_for_training_alone(name: str) -> None:
    spec = resolve(name)
    left_out = {n.split(".")[0] for n in on_meta(name).state_dict() if spec.is_training_only(n)}
    assert left_out == {"aux1", "aux2"}


def test_the_preprocessing_is_imagenets_followed_by_torchvisions_transform() -> None:
    """The transform is ``_transform_input`` of torchvision, as a function of a pixel in 0..1."""
    spec = resolve("googlenet.imagenet")
    own, usual = spec.preprocessing, IMAGENET.preprocessing
    assert (own.resize, own.crop) == (usual.resize, usual.crop)
    pixel = torch.linspace(0, 1, 256, dtype=torch.float64)
    for channel in range(3):
        mean, std = usual.mean[channel], usual.std[channel]
        transformed = (pixel - mean) / std * (std / 0.5) + (mean - 0.5) / 0.5
        ours = (pixel - own.mean[channel]) / own.std[channel]
        torch.testing.assert_close(ours, transformed, rtol=0, atol=1e-15)
