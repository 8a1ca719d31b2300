"""A network of three layers, and states of it, for the tests of weights."""

import torch
from torch import Tensor, nn

from repr_models import CIFAR10, FoldContract, NetworkSpec

State = dict[str, Tensor]


class Small(nn.Module):
    """A convolution, a BatchNorm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(self.bn(self.conv(x)).relu().mean((2, 3)))
        return result


SPEC = NetworkSpec(
    name="small.cifar10",
    family="small",
    dataset=CIFAR10,
    builder=Small,
    parameters=166,
    fold=FoldContract(1),
)


def copied(network: nn.Module) -> State:
    return {key: value.clone() for key, value in network.state_dict().items()}


def assert_has(network: nn.Module, state: State) -> None:
    own = network.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], state[key]) for key in own)
