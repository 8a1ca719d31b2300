"""What a network's layers give, seen by hooks, for comparison with papers' tables."""

from collections.abc import Iterable
from functools import cache
from typing import TypeVar
from unittest import mock

import torch
from torch import nn

from repr_models import resolve

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


def output_shapes(
    network: nn.Module, modules: Iterable[str | nn.Module], side: int
) -> list[tuple[int, ...]]:
    """The shapes (C, H, W) that submodules of one :func:`on_meta` give for an image, as they run."""
    shapes: list[tuple[int, ...]] = []
    hooks = [
        (network.get_submodule(m) if isinstance(m, str) else m).register_forward_hook(
            lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:]))
        )
        for m in modules
    ]
    network(torch.empty(1, 3, side, side, device="meta"))
    for hook in hooks:
        hook.remove()
    return shapes
