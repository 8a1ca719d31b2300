"""AlexNet, for ImageNet as torchvision has it, and for CIFAR-10.

Sources
-------
Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural
Networks", NIPS 2012, §3: five convolutions, overlapping max pooling (3x3, stride 2) behind
the first, second and fifth, three linear layers, rectifiers, dropout.
Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014
(arXiv:1404.5997): the same network in one column, 64, 192, 384, 384 and 256 maps wide.

``alexnet.imagenet`` follows the second paper as torchvision does, with modules named as there,
so that its published checkpoint loads with ``strict=True``. It has 256 maps and not 384 in the
fourth convolution, as in the author's own cuda-convnet2 (pytorch/vision pull request 704), no
local response normalisation, and dropout before the hidden layers instead of behind them
(pytorch/vision issue 549).

``alexnet.cifar10`` has the same eight layers for 32x32 images, where kernels of 11 pixels and
stride 4 would leave nothing to see: 5x5 then 3x3 kernels of stride 1, the same overlapping
pooling (32, 15, 7 and 3 pixels), fewer maps and units, and dropout of 0.2, as it is small and
trained for few epochs. The configuration is ours.

None has a BatchNorm, which came in 2015.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from repr_models.networks.initialisation import init_msra
from repr_models.spec import CIFAR10, IMAGENET, FoldContract, register, torchvision


class Convolution(NamedTuple):
    """A convolution, the rectifier behind it and, if ``pooled``, 3x3 max pooling of stride 2."""

    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 1
    pooled: bool = False


class AverageTo(nn.AdaptiveAvgPool2d):
    """Averages (N, C, H, W) to (N, C, side, side), in front of linear layers of a fixed size.

    A map of that size passes as it is: no node of the exported graph.
    """

    def forward(self, x: Tensor) -> Tensor:
        side = self.output_size
        return x if x.shape[2:] == (side, side) else super().forward(x)


class AlexNet(nn.Module):
    """Convolutions, then two hidden linear layers and the classifier, dropout before the hidden.

    Input (N, 3, H, W) float32, output logits (N, classes) float32. The last feature map is
    averaged to ``side`` x ``side`` where it is of another size. MSRA initialisation.
    """

    def __init__(
        self,
        convolutions: Sequence[Convolution],
        side: int,
        hidden: int,
        classes: int,
        *,
        dropout: float,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for outputs, kernel, stride, padding, pooled in convolutions:
            layers += [
                nn.Conv2d(channels, outputs, kernel, stride, padding),
                nn.ReLU(inplace=True),
            ]
            if pooled:
                layers.append(nn.MaxPool2d(kernel_size=3, stride=2))
            channels = outputs
        self.features = nn.Sequential(*layers)
        self.avgpool = AverageTo(side)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(channels * side * side, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, classes),
        )
        init_msra(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


# torchvision's widths: those of "one weird trick" but for the fourth
IMAGENET_CONVOLUTIONS = (
    Convolution(64, kernel=11, stride=4, padding=2, pooled=True),
    Convolution(192, kernel=5, padding=2, pooled=True),
    Convolution(384, kernel=3),
    Convolution(256, kernel=3),
    Convolution(256, kernel=3, pooled=True),
)

CIFAR_CONVOLUTIONS = (
    Convolution(48, kernel=5, padding=2, pooled=True),
    Convolution(112, kernel=3, pooled=True),
    Convolution(160, kernel=3),
    Convolution(128, kernel=3),
    Convolution(112, kernel=3, pooled=True),
)


@register(
    "alexnet.cifar10",
    family="alexnet",
    dataset=CIFAR10,
    parameters=1_311_562,
    fold=FoldContract(batchnorms=0),
    bar=0.86,
    # No BatchNorm: a lower rate than the default; smaller batches make up for it with more steps.
    recipe={"learning_rate": 0.03, "batch_size": 64},
)
def alexnet_cifar10() -> nn.Module:
    return AlexNet(CIFAR_CONVOLUTIONS, 3, 512, CIFAR10.class_count, dropout=0.2)


@register(
    "alexnet.imagenet",
    family="alexnet",
    dataset=IMAGENET,
    parameters=61_100_840,
    fold=FoldContract(batchnorms=0),
    published=torchvision(
        "AlexNet",
        "alexnet-owt",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        0.56522,
    ),
    smallest_side=64,
)
def alexnet_imagenet() -> nn.Module:
    return AlexNet(IMAGENET_CONVOLUTIONS, 6, 4096, IMAGENET.class_count, dropout=0.5)
