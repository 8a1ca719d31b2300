"""Inception-v3 and -v4: the smallest image, the auxiliary head, the preprocessing."""

import pytest
import torch
from layer_costs import on_meta

from repr_models import resolve


@pytest.mark.parametrize("name", ["inception_v3.imagenet", "inception_v4.imagenet"])
def test_75_pixels_are_the_fewest(name: str) -> None:
    spec = resolve(name)
    network = on_meta(name)
    assert spec.smallest_side == 75
    assert network(torch.empty(1, 3, 75, 75, device="meta")).shape == (1, 1000)
    with pytest.raises(RuntimeError, match=r"too small|can't be greater"):
        network(torch.empty(1, 3, 74, 74, device="meta"))


def test_the_auxiliary_head_speaks_in_training_alone_of_the_last_17x17_grid() -> None:
    spec = resolve("inception_v3.imagenet")
    with torch.device("meta"):
        network = spec.build()
    seen: list[tuple[int, ...]] = []
    for name in ("AuxLogits", "AuxLogits.conv1"):
        network.get_submodule(name).register_forward_pre_hook(
            lambda _module, inputs: seen.append(tuple(inputs[0].shape[1:]))
        )
    images = torch.empty(2, 3, 299, 299, device="meta")
    logits, auxiliary = network(images)
    assert logits.shape == auxiliary.shape == (2, 1000)
    assert seen == [(768, 17, 17), (128, 5, 5)]
    assert network.eval()(images).shape == (2, 1000)
    assert len(seen) == 2
    heads = {name.split(".")[0] for name in network.state_dict() if spec.is_training_only(name)}
    assert heads == {"AuxLogits"}


def test_the_images_come_between_minus_one_and_one() -> None:
    resized = {
        "inception_v3": 342,
        "inception_v4": 341,
        "inception_resnet_v2": 333,
        "xception": 333,
    }
    for name, resize in resized.items():
        pre = resolve(f"{name}.imagenet").preprocessing
        assert (pre.resize, pre.crop) == (resize, 299)
        assert pre.mean == pre.std == (0.5, 0.5, 0.5)
