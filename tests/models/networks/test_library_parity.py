"""The ImageNet networks against torchvision's and timm's own, by names, shapes and logits.

``reference_logits/`` was computed by ``make_reference_logits.py`` with the libraries' own
networks: each tensor follows from its name alone, so equal logits mean equal networks. No library
has the networks of ``own_logits.json``: theirs are what they were when it was written.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from named_tensors import fill, images, state_dict_sha256

from repr_models import IMAGENET, networks, resolve

LIBRARIES = {
    path.stem: json.loads(path.read_text("utf-8"))
    for path in sorted(Path(__file__).with_name("reference_logits").glob("*.json"))
}
OWN = json.loads(Path(__file__).with_name("own_logits.json").read_text("utf-8"))
LARGE = 50_000_000  # parameters from which filling them takes seconds


def cases() -> list[object]:
    return [
        pytest.param(name, marks=[pytest.mark.slow] if row["parameters"] > LARGE else [])
        for name, row in (LIBRARIES | OWN).items()
    ]


def test_every_network_has_a_reference_and_a_published_checkpoint_a_librarys() -> None:
    assert LIBRARIES.keys() | OWN.keys() == {spec.name for spec in networks()}
    published = [spec for spec in networks() if spec.published is not None]
    assert {spec.name for spec in published} <= LIBRARIES.keys()
    assert {spec.dataset for spec in published} == {IMAGENET}


@pytest.mark.parametrize("name", cases())
def test_names_shapes_and_logits_are_as_stored(name: str) -> None:
    expected = LIBRARIES[name] if name in LIBRARIES else OWN[name]
    with torch.device("meta"):
        network = resolve(name).build().double().eval()
    state = network.state_dict()
    assert len(state) == expected["tensors"]
    assert state_dict_sha256(state) == expected["state_dict_sha256"]
    assert sum(p.numel() for p in network.parameters()) == expected["parameters"]

    fill(network, expected.get("gain", 1.0))
    with torch.no_grad():
        logits = network(images(expected["side"])).numpy()
    # Rounding in float64 makes about 1e-13 of the logits' size.
    scale = max(1.0, float(np.abs(logits).max()))
    np.testing.assert_allclose(logits[:, :16], expected["logits"], rtol=0, atol=1e-9 * scale)
    np.testing.assert_allclose(np.linalg.norm(logits, axis=1), expected["norms"], rtol=1e-9)
