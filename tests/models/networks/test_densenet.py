"""DenseNet: the names of older checkpoints."""

from pathlib import Path

import torch

from repr_models import load_checkpoint, resolve
from repr_models.networks.densenet import DenseNet


def test_a_checkpoint_with_the_older_names_fits(tmp_path: Path) -> None:
    """As published: dots within a layer's names, and no counters of batches."""
    network = DenseNet(4, [10, 1], 3, stem="imagenet")
    state = network.state_dict()
    published = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        parts = key.split(".")
        if any(part.startswith("denselayer") for part in parts):
            parts[-2] = f"{parts[-2][:-1]}.{parts[-2][-1]}"
        published[".".join(parts)] = value + 1
    assert "features.denseblock1.denselayer10.norm.1.running_mean" in published
    assert not set(published) <= set(state)

    path = tmp_path / "densenet.pth"
    torch.save(published, path)
    load_checkpoint(network, path, resolve("densenet121.imagenet"))  # strictly
    weight = network.get_parameter("features.denseblock1.denselayer10.conv1.weight")
    key = "features.denseblock1.denselayer10.conv.1.weight"
    assert torch.equal(weight, published[key])
