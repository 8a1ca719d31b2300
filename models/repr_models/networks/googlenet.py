"""GoogLeNet (Inception v1), for ImageNet and for CIFAR-10.

Source
------
Szegedy et al., "Going Deeper with Convolutions", CVPR 2015 (arXiv:1409.4842): Fig. 2(b) the
Inception module, Table 1 its widths, §5 the auxiliary classifiers, which serve training alone.

``googlenet.imagenet`` is torchvision's, modules and parameters named as there, so that its
published checkpoint loads with ``strict=True``. It differs from the paper as follows.
A BatchNorm stands behind each convolution (Ioffe, Szegedy, arXiv:1502.03167) and there is no
local response normalisation. The branch of 5x5 convolutions has 3x3 ones, a known mistake
(pytorch/vision issue 906) that the checkpoint was trained with. The fourth pooling is 2x2. The
auxiliary classifiers average to 4x4 whatever the size of the map. Dropout is 0.2, not 0.4.

``googlenet.cifar10`` is Table 1 with half of each width, BatchNorm, and true 5x5 convolutions.
As the images are 32x32 and not 224x224, the first convolution is 3x3 of stride 1 without pooling
behind it, so the modules see 16x16, 8x8 and 4x4 pixels in place of 28x28, 14x14 and 7x7.
The configuration is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repr_models.networks.inception_blocks import ConvBnRelu, Parallel, chain
from repr_models.networks.initialisation import init_msra
from repr_models.spec import CIFAR10, IMAGENET, FoldContract, Preprocessing, register, torchvision


class Widths(NamedTuple):
    """One row of Table 1: the outputs of a module's six convolutions."""

    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pool: int

    @property
    def outputs(self) -> int:
        """Channels of the four branches together."""
        return self.one + self.three + self.five + self.pool

    def divided(self, divisor: int) -> Widths:
        """The same module with fewer channels."""
        return Widths(*(width // divisor for width in self))


# Table 1, a row for each module
MODULES = {
    "3a": Widths(64, 96, 128, 16, 32, 32),
    "3b": Widths(128, 128, 192, 32, 96, 64),
    "4a": Widths(192, 96, 208, 16, 48, 64),
    "4b": Widths(160, 112, 224, 24, 64, 64),
    "4c": Widths(128, 128, 256, 24, 64, 64),
    "4d": Widths(112, 144, 288, 32, 64, 64),
    "4e": Widths(256, 160, 320, 32, 128, 128),
    "5a": Widths(256, 160, 320, 32, 128, 128),
    "5b": Widths(384, 192, 384, 48, 128, 128),
}


def inception(inputs: int, widths: Widths, large: int) -> nn.Module:
    """Fig. 2(b): 1x1, 3x3, ``large`` x ``large`` and pooling side by side.

    Input (N, inputs, H, W), output (N, widths.outputs, H, W): the branches in this order.
    """
    return Parallel(
        branch1=ConvBnRelu(inputs, widths.one),
        branch2=chain(inputs, (widths.three_reduce, 1), (widths.three, 3)),
        branch3=chain(inputs, (widths.five_reduce, 1), (widths.five, large)),
        branch4=nn.Sequential(nn.MaxPool2d(3, 1, padding=1), ConvBnRelu(inputs, widths.pool)),
    )


class InceptionAux(nn.Module):
    """An auxiliary classifier (§5): averages over a 4x4 grid, a 1x1 convolution, two linear layers.

    Input (N, inputs, H, W), output logits (N, classes). ``width`` maps and ``hidden`` units.
    """

    def __init__(self, inputs: int, width: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.conv = ConvBnRelu(inputs, width)
        self.fc1 = nn.Linear(width * 4 * 4, hidden)
        self.fc2 = nn.Linear(hidden, classes)
        self.dropout = nn.Dropout(0.7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(self.conv(F.adaptive_avg_pool2d(x, (4, 4))), 1)
        return self.fc2(self.dropout(F.relu(self.fc1(x), inplace=True)))


class GoogLeNet(nn.Module):
    """Three convolutions, nine Inception modules, global average pooling and one linear layer.

    Input (N, 3, H, W) float32. In eval mode the output is the logits (N, classes) float32, in
    training mode a tuple: the logits, those of ``aux2`` (behind module 4d) and those of
    ``aux1`` (behind 4a).

    Widths are those of the paper divided by ``divisor``. ``stem`` is ``"imagenet"`` (7x7
    stride 2, pooling) or ``"cifar"`` (3x3 stride 1). ``large`` is the kernel of the modules'
    third branch. MSRA initialisation.
    """

    def __init__(self, classes: int, *, stem: str, divisor: int, large: int) -> None:
        super().__init__()
        first, third = 64 // divisor, 192 // divisor
        self.maxpool1: nn.Module
        if stem == "imagenet":
            self.conv1 = ConvBnRelu(3, first, 7, stride=2)
            self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        else:
            self.conv1 = ConvBnRelu(3, first, 3)
            self.maxpool1 = nn.Identity()
        self.conv2 = ConvBnRelu(first, first)
        self.conv3 = ConvBnRelu(first, third, 3)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)

        at = {name: widths.divided(divisor) for name, widths in MODULES.items()}
        self.inception3a = inception(third, at["3a"], large)
        self.inception3b = inception(at["3a"].outputs, at["3b"], large)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = inception(at["3b"].outputs, at["4a"], large)
        self.inception4b = inception(at["4a"].outputs, at["4b"], large)
        self.inception4c = inception(at["4b"].outputs, at["4c"], large)
        self.inception4d = inception(at["4c"].outputs, at["4d"], large)
        self.inception4e = inception(at["4d"].outputs, at["4e"], large)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = inception(at["4e"].outputs, at["5a"], large)
        self.inception5b = inception(at["5a"].outputs, at["5b"], large)
        width, hidden = 128 // divisor, 1024 // divisor
        self.aux1 = InceptionAux(at["4a"].outputs, width, hidden, classes)
        self.aux2 = InceptionAux(at["4d"].outputs, width, hidden, classes)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(at["5b"].outputs, classes)
        init_msra(self)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        x = self.maxpool1(self.conv1(x))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        at_4a = self.inception4a(x)
        at_4d = self.inception4d(self.inception4c(self.inception4b(at_4a)))
        x = self.maxpool4(self.inception4e(at_4d))
        x = self.inception5b(self.inception5a(x))
        logits = self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))
        if self.training:
            return logits, self.aux2(at_4d), self.aux1(at_4a)
        return logits


# torchvision normalises with ImageNet's mean m and deviation s, and then, inside its network
# (transform_input=True), computes x * (s / 0.5) + (m - 0.5) / 0.5 of each channel. Of a pixel
# v in 0..1 that makes
#     (v - m) / s * (s / 0.5) + (m - 0.5) / 0.5 = (v - m + m - 0.5) / 0.5 = (v - 0.5) / 0.5,
# which is normalisation with mean 0.5 and deviation 0.5: no part of the graph.
TRANSFORMED = Preprocessing(resize=256, crop=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@register(
    "googlenet.cifar10",
    family="googlenet",
    dataset=CIFAR10,
    parameters=1_502_490,
    fold=FoldContract(batchnorms=57),
    bar=0.928,
    training_only=("aux1", "aux2"),
)
def googlenet_cifar10() -> nn.Module:
    return GoogLeNet(CIFAR10.class_count, stem="cifar", divisor=2, large=5)


@register(
    "googlenet.imagenet",
    family="googlenet",
    dataset=IMAGENET,
    parameters=6_624_904,
    fold=FoldContract(batchnorms=57),
    published=torchvision(
        "GoogLeNet",
        "googlenet",
        "1378be20a8e875cf1568b8a71654e704449655e34711a959a38b04fb34905cef",
        0.69778,
    ),
    own_preprocessing=TRANSFORMED,
    training_only=("aux1", "aux2"),
)
def googlenet_imagenet() -> nn.Module:
    return GoogLeNet(IMAGENET.class_count, stem="imagenet", divisor=1, large=3)
