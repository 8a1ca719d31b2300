"""A state that no fresh network has, and a package that bundles it."""

import hashlib
import json
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_network import Small, State


@pytest.fixture
def state() -> State:
    """A state that no fresh network has."""
    source = Small()
    with torch.no_grad():
        for value in source.state_dict().values():
            value.copy_(torch.rand(value.shape) if value.is_floating_point() else value + 3)
    return source.state_dict()


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: State) -> Path:
    """A package with one bundled checkpoint, that of ``SPEC``; returns the checkpoint's path."""
    folder = tmp_path / "bundled"
    folder.mkdir()
    path = folder / "small.cifar10.safetensors"
    save_file(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps({"weights_sha256": digest, "seed": 5}))
    monkeypatch.setattr(resources, "files", lambda _: tmp_path)
    return path
