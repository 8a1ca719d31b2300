"""The ImageNet ResNets against torchvision's own, by names, shapes and logits.

``torchvision_logits.json`` was computed with torchvision's source and the formulas of this
file: each tensor follows from its name alone, so equal logits mean equal networks.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from repr_models import resolve

REFERENCE: dict[str, Any] = json.loads(
    Path(__file__).with_name("torchvision_logits.json").read_text("utf-8")
)


def named_uniform(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Numbers in [0, 1) that follow from the name; numpy guarantees this stream."""
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53, np.float64).reshape(shape)


def named_values(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Weights of variance 1 / fan_in, normalisation parameters away from the identity."""
    draw = named_uniform(name, shape)
    if len(shape) > 1:
        return (draw - 0.5) * math.sqrt(12 / math.prod(shape[1:]))
    if name.endswith("running_var"):
        return draw + 0.5
    if name.endswith("weight"):
        return 0.5 + 0.5 * draw
    return (draw - 0.5) * 0.2


@pytest.mark.parametrize("architecture", REFERENCE["networks"])
def test_names_shapes_and_logits_are_torchvisions(architecture: str) -> None:
    expected = REFERENCE["networks"][architecture]
    spec = resolve(f"{architecture}.imagenet")
    with torch.device("meta"):
        network = spec.build().double().eval()
    state = network.state_dict()
    listing = "\n".join(f"{key} {list(value.shape)}" for key, value in state.items())
    assert len(state) == expected["tensors"]
    assert hashlib.sha256(listing.encode()).hexdigest() == expected["state_dict_sha256"]
    assert spec.parameters == expected["parameters"]

    filled = {
        key: torch.from_numpy(named_values(key, tuple(value.shape)))
        if value.is_floating_point()
        else torch.zeros(value.shape, dtype=value.dtype)
        for key, value in state.items()
    }
    network.load_state_dict(filled, strict=True, assign=True)
    images = torch.from_numpy(named_uniform("input", (2, 3, 64, 64)) * 4 - 2)
    with torch.no_grad():
        logits = network(images).numpy()
    # The two images' logits differ by about 0.1, rounding in float64 by about 1e-13.
    np.testing.assert_allclose(logits[:, :16], expected["logits"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(logits, axis=1), expected["norms"], rtol=1e-10)
