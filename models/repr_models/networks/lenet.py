"""LeNet-5 for 32x32 colour images.

Source
------
LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document
Recognition", Proc. IEEE 1998, §II.B: two 5x5 convolutions of 6 and 16 maps, each
followed by subsampling, then layers of 120 and 84 units. As in the tutorial and in
today's use: three input channels, rectifiers for the squashing functions, max pooling
for the trained subsampling, full connections from 6 to 16 maps and a linear output
instead of the Gaussian one. It has no BatchNorm.
"""

import torch
from torch import Tensor, nn

from repr_models.networks.initialisation import init_xavier
from repr_models.spec import CIFAR10, FoldContract, register


class LeNet5(nn.Module):
    """Input (N, 3, 32, 32) float32, output logits (N, classes) float32; Xavier initialisation."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, kernel_size=5)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)
        init_xavier(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        x = self.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc3(self.relu(self.fc2(x)))


@register(
    "lenet5.cifar10",
    family="lenet",
    dataset=CIFAR10,
    parameters=62_006,
    fold=FoldContract(batchnorms=0),
    bar=0.70,
)
def lenet5() -> nn.Module:
    return LeNet5(CIFAR10.class_count)
