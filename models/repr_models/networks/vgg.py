"""VGG-16 and VGG-19, for ImageNet with and without BatchNorm, and for CIFAR-10.

Sources
-------
Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
ICLR 2015 (arXiv:1409.1556): Table 1, configurations D and E; §2.1: 3x3 convolutions alone,
2x2 max pooling of stride 2. It has no BatchNorm; the variants with one put it behind each
convolution (Ioffe, Szegedy, arXiv:1502.03167).

Modules and parameters of the ImageNet networks are named as torchvision names them, so that
its published checkpoints load with ``strict=True``; a convolution has its bias even where a
BatchNorm behind it cancels it.

The CIFAR-10 networks are D and E with half of the paper's maps in each layer, BatchNorm and,
as the fifth pooling leaves one pixel of a 32x32 image, one linear layer in place of the
paper's three: with two hidden layers of 4096 units they would have ten times the parameters.
VGG-16 with BatchNorm and a small classifier for 32x32 images is from Zagoruyko, "92.45% on
CIFAR-10 in Torch", torch.ch blog, 2015; half the width and one linear layer are ours.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from repr_models.networks.alexnet import AverageTo
from repr_models.networks.initialisation import init_msra
from repr_models.spec import CIFAR10, IMAGENET, FoldContract, register, torchvision

Layer = int | Literal["M"]

# Table 1: maps of each 3x3 convolution by weighted layers (three of them linear); "M" is max pooling
CONFIGURATIONS: dict[int, tuple[Layer, ...]] = {
    16: (
        *(64, 64, "M", 128, 128, "M", 256, 256, 256, "M"),
        *(512, 512, 512, "M", 512, 512, 512, "M"),
    ),
    19: (
        *(64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M"),
        *(512, 512, 512, 512, "M", 512, 512, 512, 512, "M"),
    ),
}


class VGG(nn.Module):
    """3x3 convolutions with rectifiers, max pooling, and the classifier.

    Input (N, 3, H, W) float32, output logits (N, classes) float32. The last feature map is
    averaged to ``side`` x ``side`` where it is of another size. ``hidden`` units in each of
    two linear layers with dropout come before the classifier's last one; 0 leaves both out.
    MSRA initialisation.
    """

    def __init__(
        self, layers: Sequence[Layer], side: int, hidden: int, classes: int, *, batchnorm: bool
    ) -> None:
        super().__init__()
        features: list[nn.Module] = []
        channels = 3
        for layer in layers:
            if layer == "M":
                features.append(nn.MaxPool2d(kernel_size=2, stride=2))
                continue
            features.append(nn.Conv2d(channels, layer, kernel_size=3, padding=1))
            if batchnorm:
                features.append(nn.BatchNorm2d(layer))
            features.append(nn.ReLU(inplace=True))
            channels = layer
        self.features = nn.Sequential(*features)
        self.avgpool = AverageTo(side)
        inputs = channels * side * side
        self.classifier: nn.Module = nn.Linear(inputs, classes)
        if hidden:
            self.classifier = nn.Sequential(
                nn.Linear(inputs, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(0.5),
                nn.Linear(hidden, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(0.5),
                nn.Linear(hidden, classes),
            )
        init_msra(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


def _imagenet(depth: int, *, batchnorm: bool) -> nn.Module:
    return VGG(CONFIGURATIONS[depth], 7, 4096, IMAGENET.class_count, batchnorm=batchnorm)


def _cifar(depth: int) -> nn.Module:
    layers = [layer if layer == "M" else layer // 2 for layer in CONFIGURATIONS[depth]]
    return VGG(layers, 1, 0, CIFAR10.class_count, batchnorm=True)


# name -> depth, parameters, BatchNorms, the published checkpoint's top-1 and SHA-256
IMAGENET_NETWORKS = {
    "vgg16": (
        *(16, 138_357_544, 0, 0.71592),
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    "vgg19": (
        *(19, 143_667_240, 0, 0.72376),
        "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
    ),
    "vgg16_bn": (
        *(16, 138_365_992, 13, 0.73360),
        "6c64b3138f2f4fcb3bcc4cafde11619c4f440eb1631787e93a682fd88305888a",
    ),
    "vgg19_bn": (
        *(19, 143_678_248, 16, 0.74218),
        "c79401a0cf3cb42714e4182f5868c7a6f4f4534f5df9e956e2bb2098de41cbb6",
    ),
}
CIFAR_VARIANTS = {
    16: (3_686_954, 0.926, "92.64 %, full width (kuangliu/pytorch-cifar)"),
    19: (5_015_978, 0.925, ""),
}


def _register_all() -> None:
    for depth, (parameters, bar, reported) in CIFAR_VARIANTS.items():
        register(
            f"vgg{depth}.cifar10",
            family="vgg",
            dataset=CIFAR10,
            parameters=parameters,
            fold=FoldContract(batchnorms=depth - 3),  # one behind each convolution
            bar=bar,
            reported=reported,
            # Half the default: without shortcuts the loss leaps at 0.05 already before it falls.
            recipe={"learning_rate": 0.05},
        )(partial(_cifar, depth))
    for name, (depth, parameters, batchnorms, top1, sha256) in IMAGENET_NETWORKS.items():
        register(
            f"{name}.imagenet",
            family="vgg",
            dataset=IMAGENET,
            parameters=parameters,
            fold=FoldContract(batchnorms=batchnorms),
            published=torchvision(name.upper(), name, sha256, top1),
        )(partial(_imagenet, depth, batchnorm=batchnorms > 0))


_register_all()
