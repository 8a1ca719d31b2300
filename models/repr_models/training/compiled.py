"""Training steps through torch.compile, block by block: on a GPU, whose memory BatchNorms keep busy.

A block is compiled once for each of its shapes, whichever layers have it, so that a network of 110
layers takes no longer than one of 20.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

Backend = Callable[..., Any]

_PLACE = "repr_models.networks"
_MOST = 25
"""Different convolutions that are worth the minute or two that compiling them takes."""
_VERSIONS = 400
"""Shapes that one block's code may be compiled for; torch stops at 8 and says it in a warning."""


def compile_blocks(network: nn.Module, backend: str | Backend = "inductor") -> None:
    """Let torch.compile run the blocks of ``network`` in training; names and values are as before.

    The first run compiles them, by torch's ``backend``. What is not to be compiled, such as a test,
    runs under ``torch.compiler.set_stance("force_eager")``.
    """
    torch._dynamo.config.recompile_limit = _VERSIONS
    torch._dynamo.config.accumulated_recompile_limit = 10 * _VERSIONS
    for block in _blocks(network) or [network]:
        block.compile(dynamic=False, backend=backend)


def pays(network: nn.Module) -> bool:
    """Whether it does: blocks repeat, and the time goes to what can be fused.

    Convolutions in groups are slow themselves, and compiling depthwise ones took more than 90
    seconds; so did ResNet-50, and DenseNet, none of whose layers has another's shape.
    """
    blocks = _blocks(network) or [network]
    different = {_shapes(block): len(_convolutions(block)) for block in blocks}
    grouped = any(convolution.groups > 1 for convolution in _convolutions(network))
    return not grouped and sum(different.values()) <= _MOST


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [found for found in module.modules() if isinstance(found, nn.Conv2d)]


def _shapes(block: nn.Module) -> tuple[object, ...]:
    return type(block), *(tuple(parameter.shape) for parameter in block.parameters())


def _blocks(network: nn.Module) -> list[nn.Module]:
    """The outermost modules below ``network`` that its family defines, of convolutions."""
    return [*_below(network)]


def _below(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if type(child).__module__.startswith(_PLACE) and _convolutions(child):
            yield child
        else:
            yield from _below(child)
