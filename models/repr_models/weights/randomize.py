"""Parameters drawn from a seed: weights that keep the signal's size, for latency and for tests."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def randomize(
    network: nn.Module,
    name: str,
    input_shape: Sequence[int],
    inputs: Sequence[Tensor] | None = None,
) -> int:
    """Draw every parameter from a seed made of ``name``, in place; returns the seed.

    The same name gives the same network, whatever its own initialisation was. Weights of
    convolutions and linear layers keep the signal's size: variance 2 / fan_in (He et al.
    2015, §2.2). Scales and shifts of normalisations are drawn away from the identity,
    since folding an identity would prove nothing; BatchNorm statistics are those of four
    noise images of ``input_shape``, or of ``inputs``, sent through the network, without which the signal of
    a deep network dies out or explodes. They are the same up to the rounding of the
    machine's convolutions.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    seed = zlib.crc32(name.encode())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if parameter.ndim > 1:
                draw = torch.randn(parameter.shape, generator=generator)
                draw *= (2.0 / parameter[0].numel()) ** 0.5
            else:
                low, high = (0.5, 1.5) if key.endswith("weight") else (-0.1, 0.1)
                draw = torch.rand(parameter.shape, generator=generator) * (high - low) + low
            parameter.copy_(draw)

        norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
        settings = [(module, module.momentum) for module in norms if module.track_running_stats]
        if not settings:
            return seed
        training = network.training
        network.eval()
        for module, _ in settings:
            module.reset_running_stats()
            module.momentum = None  # the plain average: here, of one batch
            module.train()
        network(*([_noise(input_shape, generator)] if inputs is None else inputs))
        for module, momentum in settings:
            module.momentum = momentum
        network.train(training)
    return seed


def _noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Four samples of noise at every octave, whose spectrum falls off as that of photographs.

    White noise looks alike everywhere to deep layers: their statistics would not fit images.
    """
    import torch
    from torch.nn import functional as F

    noise = torch.randn(4, *shape, generator=generator)
    if len(shape) == 3:
        side = min(shape[1:])
        while side := side // 2:
            coarse = torch.randn(4, shape[0], side, side, generator=generator)
            noise += F.interpolate(coarse, size=tuple(shape[1:]), mode="bilinear")
        noise /= noise.std()
    return noise
