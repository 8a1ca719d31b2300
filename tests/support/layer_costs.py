"""What a network's layers cost and give, seen by hooks, for comparison with papers' tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import TypeVar
from unittest import mock

import torch
from torch import Tensor, nn

from repr_models import resolve

Weighted = nn.Conv2d | nn.Linear
Kind = TypeVar("Kind", bound=nn.Module)


@cache
def on_meta(name: str) -> nn.Module:
    """The network without storage, in eval mode; shared, so a test leaves it as it was.

    What would draw its values does nothing: without storage that would take most of the time.
    """
    names = [name for name in nn.init.__all__ if name.endswith("_")]
    draws = {name: lambda tensor, *_, **__: tensor for name in names}
    with torch.device("meta"), mock.patch.multiple(nn.init, **draws):
        return resolve(name).build().eval()


def of_kind(network: nn.Module, kind: type[Kind]) -> list[Kind]:
    return [module for module in network.modules() if isinstance(module, kind)]


def multiply_adds(
    network: nn.Module, side: int, counts: Callable[[Weighted], bool] = lambda _: True
) -> int:
    """Of one image (3, side, side), in those convolutions and linear layers that ``counts``."""
    layers = [m for m in network.modules() if isinstance(m, Weighted) and counts(m)]
    seen: list[int] = []

    def note(module: nn.Module, output: Tensor) -> None:
        assert isinstance(module, Weighted)
        seen.append(output[0].numel() * module.weight[0].numel())

    _watch(network, side, layers, note)
    return sum(seen)


def output_shapes(
    network: nn.Module, modules: Iterable[str | nn.Module], side: int
) -> list[tuple[int, ...]]:
    """The shapes (C, H, W) that the submodules give for one image (3, side, side), as they run."""
    shapes: list[tuple[int, ...]] = []
    chosen = [network.get_submodule(m) if isinstance(m, str) else m for m in modules]
    _watch(network, side, chosen, lambda _module, output: shapes.append(tuple(output.shape[1:])))
    return shapes


def _watch(
    network: nn.Module,
    side: int,
    modules: Iterable[nn.Module],
    note: Callable[[nn.Module, Tensor], None],
) -> None:
    """Send one image through, on the device of the parameters (``meta`` costs nothing)."""
    hooks = [m.register_forward_hook(lambda m, _inputs, output: note(m, output)) for m in modules]
    device = next(network.parameters()).device
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, side, side, device=device))
    for hook in hooks:
        hook.remove()
