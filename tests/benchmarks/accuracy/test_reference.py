"""The torch network to compare with is that of the artifact, or none."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repr_bench.accuracy.reference import torch_network
from repr_models.registry import resolve
from repr_models.weights.bundled import bundled_record
from repr_models.weights.loading import load_weights
from repr_runtime import Manifest, read_manifest


@pytest.fixture
def manifest(make_artifact: Callable[..., Path]) -> Manifest:
    sha256 = bundled_record(resolve("lenet5"))["weights_sha256"]
    found = read_manifest(make_artifact(network="lenet5.cifar10", sha256=sha256))
    return replace(found, network=replace(found.network, source="registry"))


def test_is_the_network_with_its_bundled_weights(manifest: Manifest) -> None:
    run = torch_network(manifest)
    assert run is not None
    inputs = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    network = resolve("lenet5").build()
    load_weights(network, None, resolve("lenet5"))
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(inputs)).numpy()
    np.testing.assert_array_equal(run(inputs), expected)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("weights", {"kind": "file"}),
        ("weights", {"sha256": "00" * 32}),
        ("weights", {"sha256": None}),
        ("network", {"source": "onnx"}),
        ("network", {"name": "somebodys.own"}),
        ("network", {"name": "resnet50.imagenet"}),
    ],
)
def test_is_none_where_it_could_be_another(
    manifest: Manifest, part: str, changes: dict[str, Any]
) -> None:
    changed: Any = {part: replace(getattr(manifest, part), **changes)}
    assert torch_network(replace(manifest, **changed)) is None


def test_is_none_without_torch(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert torch_network(manifest) is None
