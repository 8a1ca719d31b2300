"""Strided depthwise convolutions: the gradient that takes a CPU less time is the same one."""

import copy

import pytest
import torch
from torch import Tensor, nn

from repr_models.registry import resolve
from repr_models.training.cpu import quicken
from repr_models.training.loop import start
from repr_models.training.recipe import Recipe


def gradients(network: nn.Module, x: Tensor, *, low: bool = False) -> list[Tensor]:
    """The output, and the gradients of a weighted sum of it: by the input, then by parameters."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        output = network(x)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    (output * weights).sum().backward()
    return [output, *(t.grad for t in (x, *network.parameters()) if t.grad is not None)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((8, 8), 3, 2, 1),
        ((9, 7), 3, 2, 1),
        ((10, 9), 3, 2, 0),
        ((11, 11), 5, 3, 2),
        ((4, 9), (1, 3), (1, 2), (0, 1)),
    ],
)
def test_the_gradients_are_those_of_a_plain_convolution(
    size: tuple[int, int], kernel: int, stride: int, padding: int, bias: bool
) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(5, 5, kernel, stride, padding, groups=5, bias=bias).double()
    quick = copy.deepcopy(plain)
    quicken(quick)
    assert type(quick) is not nn.Conv2d
    x = torch.randn(2, 5, *size, dtype=torch.double)
    pairs = [*zip(gradients(plain, x), gradients(quick, x), strict=True)]
    assert len(pairs) == 3 + bias
    for expected, found in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_in_bfloat16_they_differ_by_its_rounding() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 16, 3, 2, 1, groups=16)
    quick = copy.deepcopy(plain)
    quicken(quick)
    x = torch.randn(4, 16, 8, 8)
    for expected, found in zip(
        gradients(plain, x, low=True), gradients(quick, x, low=True), strict=True
    ):
        assert found.dtype == expected.dtype
        assert (found - expected).abs().max() <= 0.02 * expected.abs().max()


@pytest.mark.parametrize("frozen", ["input", "weight"])
def test_what_needs_no_gradient_gets_none(frozen: str) -> None:
    quick = nn.Conv2d(2, 2, 3, 2, 1, groups=2, bias=False)
    quicken(quick)
    quick.requires_grad_(frozen != "weight")
    x = torch.randn(1, 2, 6, 6, requires_grad=frozen != "input")
    quick(x).sum().backward()
    assert (quick.weight.grad is None, x.grad is None) == (frozen == "weight", frozen == "input")


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 4, 3, 1, 1, groups=4),  # without a stride
        nn.Conv2d(4, 4, 3, 2, 1, groups=2),
        nn.Conv2d(4, 8, 3, 2, 1, groups=4),
        nn.Conv2d(4, 4, 3, 2, 2, dilation=2, groups=4),
        nn.Conv2d(4, 4, 3, 2, 1, groups=4, padding_mode="reflect"),
        nn.Conv2d(1, 1, 3, 2, 1),
        nn.Conv2d(4, 4, 1, 2, 1, groups=4),  # pixels of its padding alone
    ],
    ids=str,
)
def test_others_are_left_as_they_are(convolution: nn.Module) -> None:
    quicken(convolution)
    assert type(convolution) is nn.Conv2d


@pytest.mark.parametrize(("precision", "quick"), [("bf16", 3), ("fp32", 0)])
def test_networks_in_bfloat16_train_with_it(precision: str, quick: int) -> None:
    spec = resolve("mobilenet_v2.cifar10")
    state = start(spec, Recipe(precision=precision), 0, torch.device("cpu"))
    other = [
        m for m in state.network.modules() if isinstance(m, nn.Conv2d) and type(m) is not nn.Conv2d
    ]
    assert len(other) == quick
    assert [*state.network.state_dict()] == [*spec.build().state_dict()]
