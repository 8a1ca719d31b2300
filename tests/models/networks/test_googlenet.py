"""GoogLeNet: auxiliary classifiers that only train, pooling that rounds up, preprocessing."""

import pytest
import torch
from layer_costs import on_meta, output_shapes
from torch import Tensor, nn

from repr_models import IMAGENET, resolve
from repr_models.networks.googlenet import GoogLeNet


@pytest.fixture(scope="module")
def small() -> GoogLeNet:
    torch.manual_seed(0)
    network = resolve("googlenet.cifar10").build()
    assert isinstance(network, GoogLeNet)
    return network


def test_training_gives_the_logits_then_those_of_aux2_then_of_aux1(small: GoogLeNet) -> None:
    small.train()
    for head, value in ((small.aux1, 1.0), (small.aux2, 2.0)):
        nn.init.zeros_(head.fc2.weight)
        nn.init.constant_(head.fc2.bias, value)
    outputs = small(torch.randn(3, 3, 32, 32))
    assert isinstance(outputs, tuple)
    assert [output.shape for output in outputs] == [(3, 10)] * 3
    assert torch.equal(outputs[1], torch.full((3, 10), 2.0))
    assert torch.equal(outputs[2], torch.full((3, 10), 1.0))


def test_the_auxiliary_classifiers_see_modules_4a_and_4d(small: GoogLeNet) -> None:
    small.train()
    seen: dict[str, Tensor] = {}
    handles = [
        small.get_submodule(name).register_forward_hook(
            lambda _m, inputs, output, name=name: seen.update(
                {name: inputs[0] if name.startswith("aux") else output}
            )
        )
        for name in ("aux1", "aux2", "inception4a", "inception4d")
    ]
    small(torch.randn(2, 3, 32, 32))
    for handle in handles:
        handle.remove()
    assert seen["aux1"] is seen["inception4a"]
    assert seen["aux2"] is seen["inception4d"]


def test_in_eval_mode_the_auxiliary_classifiers_do_not_matter(small: GoogLeNet) -> None:
    small.eval()
    x = torch.randn(2, 3, 32, 32)
    before = small(x)
    for head in (small.aux1, small.aux2):
        nn.init.constant_(head.fc1.weight, float("nan"))
    after = small(x)
    assert isinstance(after, Tensor)
    assert torch.equal(before, after)


def test_pooling_rounds_up_where_a_size_is_odd_or_a_window_hangs_over() -> None:
    shapes = output_shapes(on_meta("googlenet.imagenet"), ["inception4a", "inception5b"], 80)
    assert shapes == [(512, 5, 5), (1024, 3, 3)]


def test_the_preprocessing_is_imagenets_followed_by_torchvisions_transform() -> None:
    """The transform is ``_transform_input`` of torchvision, as a function of a pixel in 0..1."""
    spec = resolve("googlenet.imagenet")
    own, usual = spec.preprocessing, IMAGENET.preprocessing
    assert (own.resize, own.crop) == (usual.resize, usual.crop)
    pixel = torch.linspace(0, 1, 256, dtype=torch.float64)
    for channel in range(3):
        mean, std = usual.mean[channel], usual.std[channel]
        transformed = (pixel - mean) / std * (std / 0.5) + (mean - 0.5) / 0.5
        ours = (pixel - own.mean[channel]) / own.std[channel]
        torch.testing.assert_close(ours, transformed, rtol=0, atol=1e-15)
