"""MobileNet v1 and v2, for ImageNet and for CIFAR-10: convolutions split by depth.

Sources
-------
v1: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", 2017 (arXiv:1704.04861): §3.1 and Fig. 3 for the block, Table 1 for the network.
v2: Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear
Bottlenecks", CVPR 2018 (arXiv:1801.04381): Table 1 for the block, Table 2 for the network.

Modules and parameters are named as timm (v1) and torchvision (v2) name them, so that their
published checkpoints load with ``strict=True``. v1's rectifiers stop at 6, as in timm and in
the authors' code; the paper's text leaves the limit out.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from repr_models.networks.initialisation import init_msra
from repr_models.spec import CIFAR10, IMAGENET, FoldContract, Preprocessing, register, torchvision


def depthwise3x3(channels: int, stride: int) -> nn.Conv2d:
    """A 3x3 convolution of each channel by itself."""
    return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)


def pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution: each place by itself."""
    return nn.Conv2d(inputs, outputs, 1, bias=False)


class DepthwiseSeparable(nn.Module):
    """A 3x3 convolution factored into depthwise 3x3 and pointwise 1x1 (v1, Fig. 3 right).

    Input (N, inputs, H, W), output (N, outputs, ceil(H / stride), ceil(W / stride)). It costs
    1 / outputs + 1 / 9 of the multiply-adds of the whole convolution (§3.1).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = depthwise3x3(inputs, stride)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv_pw = pointwise(inputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv_dw(x)))
        return self.relu(self.bn2(self.conv_pw(x)))


class MobileNetV1(nn.Module):
    """A stem, stages of depthwise separable blocks, global average pooling, one linear layer.

    Input (N, 3, H, W) float32, output logits (N, classes) float32. ``stem`` is (channels,
    stride) of the first convolution, a 3x3; each of ``stages`` is (blocks, channels, stride of
    the first block). Parameters are initialised by the MSRA rule (He et al. 2015).
    """

    def __init__(
        self, stem: tuple[int, int], stages: Sequence[tuple[int, int, int]], classes: int
    ) -> None:
        super().__init__()
        channels, stride = stem
        self.conv_stem = nn.Conv2d(3, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU6(inplace=True)
        groups: list[nn.Module] = []
        for depth, width, stride in stages:
            blocks = []
            for index in range(depth):
                blocks.append(DepthwiseSeparable(channels, width, stride if index == 0 else 1))
                channels = width
            groups.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*groups)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)
        init_msra(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.relu(self.bn1(self.conv_stem(x))))
        return self.classifier(torch.flatten(self.avgpool(x), 1))


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter by depthwise 3x3, project by 1x1 without a rectifier (v2, Table 1).

    Input (N, inputs, H, W), output (N, outputs, ceil(H / stride), ceil(W / stride)). The wide
    tensor is the inner one, of ``inputs * expansion`` channels; without expansion there is no
    first 1x1. The input is added where it has the output's shape.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_normalised(pointwise(inputs, hidden)))
        layers.append(_normalised(depthwise3x3(hidden, stride)))
        # A rectifier here would lose what the few channels hold (§3.2).
        layers += [pointwise(hidden, outputs), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


V2_STAGES = ((1, 1), (6, 2), (6, 3), (6, 4), (6, 3), (6, 3), (6, 1))
"""Expansion and number of blocks, v2's Table 2."""


class MobileNetV2(nn.Module):
    """A stem, stages of inverted residuals, a last 1x1, global average pooling, a linear layer.

    Input (N, 3, H, W) float32, output logits (N, classes) float32. ``stem`` is (channels,
    stride) of the first convolution, a 3x3; each of ``stages`` is (channels, stride of the first
    block), beside a row of :data:`V2_STAGES`; ``last`` counts the channels in front of the pooling.
    Parameters are initialised by the MSRA rule (He et al. 2015).
    """

    def __init__(
        self,
        stem: tuple[int, int],
        stages: Sequence[tuple[int, int]],
        last: int,
        classes: int,
        *,
        dropout: float,
    ) -> None:
        super().__init__()
        channels, stride = stem
        features: list[nn.Module] = [
            _normalised(nn.Conv2d(3, channels, 3, stride, padding=1, bias=False))
        ]
        for (expansion, depth), (width, stride) in zip(V2_STAGES, stages, strict=True):
            for index in range(depth):
                step = stride if index == 0 else 1
                features.append(InvertedResidual(channels, width, step, expansion))
                channels = width
        features.append(_normalised(pointwise(channels, last)))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, classes))
        init_msra(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


def _normalised(convolution: nn.Conv2d) -> nn.Sequential:
    norm = nn.BatchNorm2d(convolution.out_channels)
    return nn.Sequential(convolution, norm, nn.ReLU6(inplace=True))


@register(
    "mobilenet_v1.imagenet",
    family="mobilenet",
    dataset=IMAGENET,
    parameters=4_231_976,
    fold=FoldContract(batchnorms=27),
    # timm's weights mobilenetv1_100.ra4_e3600_r224_in1k (75.382 % top-1 at 224 pixels) fit, with
    # --weights FILE; their digest is stated nowhere public, so they are not downloaded. They
    # were trained on values in -1..1, and measured with bicubic resizing, which is not ours.
    own_preprocessing=Preprocessing(
        resize=256, crop=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    ),
)
def mobilenet_v1_imagenet() -> nn.Module:
    """v1's Table 1: 28 layers, 569 M multiply-adds; width multiplier 1."""
    stages = [(1, 64, 1), (2, 128, 2), (2, 256, 2), (6, 512, 2), (2, 1024, 2)]
    return MobileNetV1((32, 2), stages, IMAGENET.class_count)


@register(
    "mobilenet_v2.imagenet",
    family="mobilenet",
    dataset=IMAGENET,
    parameters=3_504_872,
    fold=FoldContract(batchnorms=52),
    published=torchvision(
        "MobileNet_V2",
        "mobilenet_v2",
        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        0.71878,
    ),
)
def mobilenet_v2_imagenet() -> nn.Module:
    """v2's Table 2: 300 M multiply-adds; width multiplier 1."""
    stages = [(16, 1), (24, 2), (32, 2), (64, 2), (96, 1), (160, 2), (320, 1)]
    return MobileNetV2((32, 2), stages, 1280, IMAGENET.class_count, dropout=0.2)


@register(
    "mobilenet_v1.cifar10",
    family="mobilenet",
    dataset=CIFAR10,
    parameters=823_722,
    fold=FoldContract(batchnorms=27),
    bar=0.905,
)
def mobilenet_v1_cifar10() -> nn.Module:
    """Table 1 at width multiplier 0.5, its strides fit for 32x32 images.

    The stem and the six blocks of 256 channels keep the size, so that the stages work on 32x32,
    16x16, 8x8, 8x8 and 4x4 places (Table 1 ends at a 32nd of the image); 35 M multiply-adds.
    """
    stages = [(1, 32, 1), (2, 64, 2), (2, 128, 2), (6, 256, 1), (2, 512, 2)]
    return MobileNetV1((16, 1), stages, CIFAR10.class_count)


@register(
    "mobilenet_v2.cifar10",
    family="mobilenet",
    dataset=CIFAR10,
    parameters=1_368_234,
    fold=FoldContract(batchnorms=52),
    bar=0.918,
    reported="94.43 %, full width (kuangliu/pytorch-cifar)",
)
def mobilenet_v2_cifar10() -> nn.Module:
    """Table 2 at width multiplier 0.75 (to multiples of 8), its strides fit for 32x32 images.

    The stem and the blocks of 48 channels keep the size, so that the stages work on 32x32,
    16x16, 8x8, 8x8, 8x8, 4x4 and 4x4 places; as in the paper (§6.1.1) the multiplier leaves the
    last 1x1 alone. No dropout; 43 M multiply-adds.
    """
    stages = [(16, 1), (24, 2), (24, 2), (48, 1), (72, 1), (120, 2), (240, 1)]
    return MobileNetV2((24, 1), stages, 1280, CIFAR10.class_count, dropout=0.0)
