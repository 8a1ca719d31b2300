"""What a network's layers cost and give, seen by hooks, for comparison with papers' tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

Weighted = nn.Conv2d | nn.Linear


def multiply_adds(
    network: nn.Module, side: int, counts: Callable[[Weighted], bool] = lambda _: True
) -> int:
    """Of one image (3, side, side), in those convolutions and linear layers that ``counts``."""
    total = 0

    def add(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, Weighted)
        total += output[0].numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, Weighted) and counts(module):
            module.register_forward_hook(add)
    run(network, side)
    return total


def output_shapes(network: nn.Module, names: Iterable[str], side: int) -> list[tuple[int, ...]]:
    """The shapes (C, H, W) that the named submodules give for one image (3, side, side)."""
    shapes: list[tuple[int, ...]] = []
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:]))
        )
    run(network, side)
    return shapes


def run(network: nn.Module, side: int) -> None:
    """Send one image through, on the device of the parameters (``meta`` costs nothing)."""
    device = next(network.parameters()).device
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, side, side, device=device))
