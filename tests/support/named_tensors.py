"""Tensors that follow from their names alone, so that two libraries can be given the same ones."""

import hashlib
import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def named_uniform(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Numbers in [0, 1) that follow from the name; numpy guarantees this stream."""
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53, np.float64).reshape(shape)


def named_values(name: str, shape: tuple[int, ...], gain: float = 1.0) -> NDArray[np.float64]:
    """Weights of variance gain² / fan_in, normalisation parameters away from the identity.

    A deep network without shortcuts needs a gain above 1, or nothing of the images is left
    in its logits.
    """
    draw = named_uniform(name, shape)
    if len(shape) > 1:
        return (draw - 0.5) * (gain * math.sqrt(12 / math.prod(shape[1:])))
    if name.endswith("running_var"):
        return draw + 0.5
    if name.endswith("weight"):
        return 0.5 + 0.5 * draw
    return (draw - 0.5) * 0.2


def fill(network: nn.Module, gain: float = 1.0) -> None:
    """Give every floating-point tensor of the state its named values, in place, strictly."""
    filled = {
        key: torch.from_numpy(named_values(key, tuple(value.shape), gain))
        if value.is_floating_point()
        else torch.zeros(value.shape, dtype=value.dtype)
        for key, value in network.state_dict().items()
    }
    network.load_state_dict(filled, strict=True, assign=True)


def images(side: int) -> Tensor:
    """Two float64 images (2, 3, side, side) with values in [-2, 2)."""
    return torch.from_numpy(named_uniform("input", (2, 3, side, side)) * 4 - 2)


def state_dict_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names and shapes, in the order of the state."""
    listing = "\n".join(f"{key} {list(value.shape)}" for key, value in state.items())
    return hashlib.sha256(listing.encode()).hexdigest()
