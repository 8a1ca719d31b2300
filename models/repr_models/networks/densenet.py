"""Densely connected networks: every layer reads the feature maps of all layers before it.

Source
------
Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks", CVPR
2017 (arXiv:1608.06993): §3 and Table 1 for the ImageNet networks, §4.1-4.2 for CIFAR-10.
All are of the form BC: a bottleneck of 4k channels in front of each 3x3 convolution, and
transitions that halve the channels.

Modules and parameters of the ImageNet networks are named as torchvision names them. Its
published files use the names of an older release: :data:`LEGACY_NAMES` makes them today's.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from repr_models.networks.initialisation import init_msra
from repr_models.spec import CIFAR10, IMAGENET, FoldContract, register, torchvision

BOTTLENECK = 4
"""The 1x1 convolution of a layer gives this many times the growth rate of channels (§3)."""

LEGACY_NAMES = ((r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$", r"\1\2"),)
"""Today's names for those of torchvision's published files, as its own loader has them.

A layer's modules were once called ``norm.1``, now ``norm1``:
``features.denseblock1.denselayer1.norm.1.weight`` becomes
``features.denseblock1.denselayer1.norm1.weight``.
"""


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 1x1 convolution, BatchNorm, ReLU, 3x3 convolution (§3, DenseNet-B).

    Input (N, inputs, H, W), output the ``growth`` new feature maps (N, growth, H, W).
    """

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        inner = BOTTLENECK * growth
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, inner, kernel_size=1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(inner, growth, kernel_size=3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.relu1(self.norm1(x)))
        return self.conv2(self.relu2(self.norm2(out)))


class DenseBlock(nn.Module):
    """``layers`` dense layers: input (N, inputs, H, W), output ``layers * growth`` maps more."""

    def __init__(self, layers: int, inputs: int, growth: int) -> None:
        super().__init__()
        for index in range(layers):
            self.add_module(f"denselayer{index + 1}", DenseLayer(inputs + index * growth, growth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = torch.cat((x, layer(x)), dim=1)
        return x


class Transition(nn.Sequential):
    """BatchNorm, ReLU, 1x1 convolution and 2x2 average pooling between two blocks (§3).

    Input (N, inputs, H, W), output (N, outputs, H // 2, W // 2).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(inputs, outputs, kernel_size=1, bias=False)
        self.pool = nn.AvgPool2d(kernel_size=2, stride=2)


class DenseNet(nn.Module):
    """A stem of 2k channels, dense blocks with transitions between them, pooling, a linear layer.

    Input (N, 3, H, W) float32, output logits (N, classes) float32. ``growth`` is the paper's
    k and ``layers`` counts the layers of each block, of two convolutions each. ``stem`` is
    ``"imagenet"`` (7x7 stride 2, BatchNorm, ReLU, 3x3 max pooling stride 2) or ``"cifar"``
    (one bare 3x3 convolution). Initialised by the MSRA rule (He et al. 2015).
    """

    def __init__(
        self,
        growth: int,
        layers: Sequence[int],
        classes: int,
        *,
        stem: Literal["cifar", "imagenet"],
    ) -> None:
        super().__init__()
        channels = 2 * growth
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        conv0 = nn.Conv2d(3, channels, kernel, stride, padding=kernel // 2, bias=False)
        self.features = nn.Sequential(OrderedDict(conv0=conv0))
        if stem == "imagenet":
            self.features.add_module("norm0", nn.BatchNorm2d(channels))
            self.features.add_module("relu0", nn.ReLU(inplace=True))
            self.features.add_module("pool0", nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
        for index, count in enumerate(layers, start=1):
            self.features.add_module(f"denseblock{index}", DenseBlock(count, channels, growth))
            channels += count * growth
            if index < len(layers):
                self.features.add_module(f"transition{index}", Transition(channels, channels // 2))
                channels //= 2
        # Called norm5 in torchvision, after the paper's stages; blocks of CIFAR-10 are three.
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)
        init_msra(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.relu(self.features(x)))
        return self.classifier(torch.flatten(x, 1))


def _fold_contract(layers: Sequence[int], stem: Literal["cifar", "imagenet"]) -> FoldContract:
    """One BatchNorm of each layer folds, and the stem's; one of each layer stays, and the rest."""
    stays = sum(layers) + len(layers)  # each norm1, the transitions' and the last
    folds = sum(layers) + (stem == "imagenet")  # each norm2 and norm0
    reason = "behind a concatenation (or a value that one reads too), in front of a rectifier"
    return FoldContract(batchnorms=stays + folds, kept=stays, reason=reason)


SHA256_121 = "a639ec97d7c33b07ae66f0b5fb7d0192f95a3b11b7576c66c0126c2a727c4395"
# Table 1: depth -> layers of each block, parameters; torchvision's top-1 and as much of its digest
# as is known
IMAGENET_DEPTHS: dict[int, tuple[list[int], int, float, str]] = {
    121: ([6, 12, 24, 16], 7_978_856, 0.74434, SHA256_121),
    169: ([6, 12, 32, 32], 14_149_480, 0.75600, "b2777c0a"),
    201: ([6, 12, 48, 32], 20_013_928, 0.76896, "c1103571"),
}


@register(
    "densenet_bc100.cifar10",
    family="densenet",
    dataset=CIFAR10,
    parameters=769_162,
    fold=_fold_contract([16, 16, 16], "cifar"),
    bar=0.938,
    reported="95.49 % (Huang et al. 2017, Table 2)",
)
def densenet_bc100() -> nn.Module:
    """DenseNet-BC of 100 layers with k = 12, the smallest of Table 2: three blocks of 16 layers.

    Unlike the ImageNet networks it has a stem of one 3x3 convolution without BatchNorm, so
    that the blocks work at 32x32, 16x16 and 8x8 (§4.2).
    """
    return DenseNet(12, [16, 16, 16], CIFAR10.class_count, stem="cifar")


def _register_all() -> None:
    for depth, (layers, parameters, top1, sha256) in IMAGENET_DEPTHS.items():
        register(
            f"densenet{depth}.imagenet",
            family="densenet",
            dataset=IMAGENET,
            parameters=parameters,
            fold=_fold_contract(layers, "imagenet"),
            published=torchvision(
                f"DenseNet{depth}", f"densenet{depth}", sha256, top1, LEGACY_NAMES
            ),
        )(partial(DenseNet, 32, layers, IMAGENET.class_count, stem="imagenet"))


_register_all()
