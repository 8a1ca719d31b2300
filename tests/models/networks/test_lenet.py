"""LeNet-5: the layer shapes of LeCun et al. 1998 on 32x32 colour images."""

from __future__ import annotations

import torch

from repr_models.networks.lenet import LeNet5


def test_the_maps_are_those_of_the_paper() -> None:
    network = LeNet5(10).eval()
    shapes = {}
    for name, module in network.named_children():
        if name.startswith(("conv", "fc")):
            module.register_forward_hook(
                lambda _module, _inputs, output, name=name: shapes.update({name: output.shape[1:]})
            )
    network(torch.randn(2, 3, 32, 32))
    assert shapes == {
        "conv1": (6, 28, 28),
        "conv2": (16, 10, 10),
        "fc1": (120,),
        "fc2": (84,),
        "fc3": (10,),
    }


def test_forward_is_the_stated_formula() -> None:
    torch.manual_seed(0)
    network = LeNet5(10).eval()
    x = torch.randn(2, 3, 32, 32)
    h = torch.max_pool2d(torch.conv2d(x, network.conv1.weight, network.conv1.bias).relu(), 2)
    h = torch.max_pool2d(torch.conv2d(h, network.conv2.weight, network.conv2.bias).relu(), 2)
    h = h.reshape(2, 400)
    h = (h @ network.fc1.weight.T + network.fc1.bias).relu()
    h = (h @ network.fc2.weight.T + network.fc2.bias).relu()
    expected = h @ network.fc3.weight.T + network.fc3.bias
    torch.testing.assert_close(network(x), expected)
