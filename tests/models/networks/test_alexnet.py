"""AlexNet and VGG: the pooling in front of their linear layers, and a signal that lives."""

import pytest
import torch
from layer_costs import of_kind, on_meta
from torch import Tensor, nn

from repr_models import resolve


@pytest.mark.parametrize(
    ("name", "other_side", "shape"),
    [("alexnet.imagenet", 96, (256, 6, 6)), ("vgg16.imagenet", 64, (512, 7, 7))],
)
def test_the_last_map_is_averaged_only_where_it_is_of_another_size(
    name: str, other_side: int, shape: tuple[int, ...]
) -> None:
    network = on_meta(name)
    pooled: list[tuple[Tensor, Tensor]] = []
    hook = network.get_submodule("avgpool").register_forward_hook(
        lambda _m, inputs, output: pooled.append((inputs[0], output))
    )
    for side in (224, other_side):
        assert network(torch.empty(1, 3, side, side, device="meta")).shape == (1, 1000)
    hook.remove()
    assert pooled[0][1] is pooled[0][0]  # no node of the exported graph
    assert pooled[1][0].shape[1:] != pooled[1][1].shape[1:] == shape


def test_the_cifar_networks_signal_neither_dies_nor_explodes() -> None:
    """Without BatchNorm only the initialisation keeps activations and gradients in range."""
    torch.manual_seed(0)
    network = resolve("alexnet.cifar10").build().eval()
    deviations = []
    for module in (*of_kind(network, nn.Conv2d), *of_kind(network, nn.Linear)):
        module.register_forward_hook(
            lambda _m, _i, output: deviations.append(output.detach().std().item())
        )
    logits = network(torch.randn(32, 3, 32, 32))
    assert len(deviations) == 8
    assert all(0.1 < deviation < 4 for deviation in deviations), deviations
    nn.functional.cross_entropy(logits, torch.arange(32) % 10).backward()
    norms = [float(p.grad.norm()) for p in network.parameters() if p.grad is not None]
    assert len(norms) == 16
    assert all(0.003 < norm < 30 for norm in norms), norms
