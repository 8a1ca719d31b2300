"""MobileNet v1 and v2: the papers' tables, the cheap convolutions, where rectifiers are."""

from __future__ import annotations

import pytest
import torch
from layer_costs import multiply_adds, of_kind, on_meta, output_shapes
from torch import nn

from repr_models.networks.mobilenet import DepthwiseSeparable, InvertedResidual

V1_STAGES = [f"blocks.{stage}" for stage in range(5)]
V2_STAGE_ENDS = [f"features.{index}" for index in (1, 3, 6, 10, 13, 16, 17)]


def test_v1_has_the_maps_and_the_28_layers_of_table_1() -> None:
    network = on_meta("mobilenet_v1.imagenet")
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules()) == 28
    assert output_shapes(network, V1_STAGES, 224) == [
        (64, 112, 112),
        (128, 56, 56),
        (256, 28, 28),
        (512, 14, 14),
        (1024, 7, 7),
    ]


def test_v1_costs_what_tables_2_and_4_say() -> None:
    """569 M multiply-adds, 94.86 % of them in 1x1 convolutions, with 74.59 % of the weights."""
    network = on_meta("mobilenet_v1.imagenet")
    total = multiply_adds(network, 224)
    assert total == pytest.approx(569e6, rel=1e-3)
    inner = multiply_adds(network, 224, lambda m: getattr(m, "kernel_size", None) == (1, 1))
    assert inner / total == pytest.approx(0.9486, abs=1e-3)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    weights = {m: sum(p.numel() for p in m.parameters()) for m in layers}
    pointwise = [m for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert sum(weights[m] for m in pointwise) / sum(weights.values()) == pytest.approx(
        0.7459, abs=2e-3
    )


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(16, 32, 1), (8, 8, 2)])
def test_a_separable_block_costs_its_fraction_of_a_convolution(
    inputs: int, outputs: int, stride: int
) -> None:
    """1 / outputs + 1 / 9 (v1, §3.1), per place of the output."""
    block = DepthwiseSeparable(inputs, outputs, stride)
    separable = sum(m.weight.numel() for m in (block.conv_dw, block.conv_pw))
    whole = nn.Conv2d(inputs, outputs, 3).weight.numel()
    assert separable / whole == pytest.approx(1 / outputs + 1 / 9)
    assert block(torch.randn(2, inputs, 7, 10)).shape == (2, outputs, -(-7 // stride), 10 // stride)


def test_a_depthwise_convolution_looks_at_its_own_channel() -> None:
    block = DepthwiseSeparable(4, 6, 1).eval()
    x = torch.randn(1, 4, 5, 5)
    moved = x.clone()
    moved[:, 2] += 1
    changed = (block.conv_dw(moved) != block.conv_dw(x)).flatten(2).any(2)[0]
    assert changed.tolist() == [False, False, True, False]


@torch.no_grad()
def test_both_rectifiers_of_v1_stop_at_6() -> None:
    block = DepthwiseSeparable(4, 6, 1).eval()
    block.conv_pw.weight.fill_(10.0)
    inner = []
    block.conv_pw.register_forward_hook(lambda _module, inputs, _output: inner.append(inputs[0]))
    y = block(torch.randn(1, 4, 9, 9) * 1e4)
    assert (float(inner[0].min()), float(inner[0].max())) == (0, 6)
    assert float(y.max()) == 6


def test_v2_has_the_maps_and_the_cost_of_table_2() -> None:
    network = on_meta("mobilenet_v2.imagenet")
    assert output_shapes(network, ["features.0", *V2_STAGE_ENDS, "features.18"], 224) == [
        (32, 112, 112),
        (16, 112, 112),
        (24, 56, 56),
        (32, 28, 28),
        (64, 14, 14),
        (96, 14, 14),
        (160, 7, 7),
        (320, 7, 7),
        (1280, 7, 7),
    ]
    assert multiply_adds(network, 224) == pytest.approx(300e6, rel=5e-3)


@pytest.mark.parametrize("name", ["mobilenet_v2.imagenet", "mobilenet_v2.cifar10"])
def test_v2_expands_six_times_but_in_its_first_block(name: str) -> None:
    blocks = of_kind(on_meta(name), InvertedResidual)
    ratios = []
    for block in blocks:
        convolutions = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
        depthwise = next(m for m in convolutions if m.kernel_size == (3, 3))
        assert depthwise.groups == depthwise.in_channels == depthwise.out_channels
        ratios.append(depthwise.in_channels / convolutions[0].in_channels)
    assert ratios == [1] + [6] * 16
    strided = [
        block
        for block in blocks
        if any(m.stride != (1, 1) for m in block.modules() if isinstance(m, nn.Conv2d))
    ]
    assert not any(block.residual for block in strided)


def test_v2_adds_the_input_where_the_shape_stays() -> None:
    network = on_meta("mobilenet_v2.imagenet")
    added = [
        name
        for name, module in network.named_modules()
        if isinstance(module, InvertedResidual) and module.residual
    ]
    # The second and later blocks of each row of Table 2: 1 + 2 + 3 + 2 + 2.
    assert added == [f"features.{i}" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)]


@pytest.mark.parametrize("expansion", [1, 6])
def test_an_inverted_residual_is_its_branch_plus_its_input(expansion: int) -> None:
    block = InvertedResidual(8, 8, 1, expansion).eval()
    x = torch.randn(2, 8, 6, 6)
    branch = block.conv(x)
    assert torch.equal(block(x), x + branch)
    narrower = InvertedResidual(8, 4, 1, expansion).eval()
    assert torch.equal(narrower(x), narrower.conv(x))


def test_a_bottleneck_is_linear() -> None:
    """Neither floor nor ceiling behind the projection, unlike behind the inner convolutions."""
    block = InvertedResidual(4, 16, 2, 6).eval()
    last = block.conv[-1]
    assert isinstance(last, nn.BatchNorm2d)
    with torch.no_grad():
        last.weight.fill_(100.0)
        y = block(torch.randn(4, 4, 8, 8) * 10)
    assert float(y.min()) < -6
    assert float(y.max()) > 6


def test_the_cifar_networks_keep_maps_large_enough() -> None:
    v1 = output_shapes(on_meta("mobilenet_v1.cifar10"), V1_STAGES, 32)
    assert [shape[1] for shape in v1] == [32, 16, 8, 8, 4]
    v2 = output_shapes(on_meta("mobilenet_v2.cifar10"), V2_STAGE_ENDS, 32)
    assert [shape[1] for shape in v2] == [32, 16, 8, 8, 8, 4, 4]


@pytest.mark.parametrize(
    ("name", "alpha", "columns"),
    [("mobilenet_v1", 0.5, V1_STAGES), ("mobilenet_v2", 0.75, V2_STAGE_ENDS)],
)
def test_the_cifar_networks_are_the_papers_at_a_width_multiplier(
    name: str, alpha: float, columns: list[str]
) -> None:
    full = output_shapes(on_meta(f"{name}.imagenet"), columns, 224)
    thin = output_shapes(on_meta(f"{name}.cifar10"), columns, 32)
    for (wide, *_), (narrow, *_) in zip(full, thin, strict=True):
        assert abs(narrow - alpha * wide) <= 8 * 0.9  # to a multiple of 8, at least 90 % of it
        assert narrow >= 0.9 * alpha * wide
        assert narrow % 8 == 0


def test_the_cifar_networks_cost_what_their_docstrings_say() -> None:
    assert multiply_adds(on_meta("mobilenet_v1.cifar10"), 32) == 34_878_464
    assert multiply_adds(on_meta("mobilenet_v2.cifar10"), 32) == 43_191_296
