"""Inception-ResNet: Inception modules as residual branches, for ImageNet and for CIFAR-10.

Source
------
Szegedy, Ioffe, Vanhoucke, Alemi, "Inception-v4, Inception-ResNet and the Impact of
Residual Connections on Learning", AAAI 2017 (arXiv:1602.07261): §3.2 and Figs. 15 to 19
for the modules of Inception-ResNet-v2. Each branch ends in a linear 1x1 convolution, with a
bias and without BatchNorm, whose output is scaled down (§3.3: by 0.1 to 0.3) and added to
the input; the rectifier stands behind the addition.

The ImageNet network has the stem, the widths and the scales of the authors' published
model, which is smaller than the paper's figures, and its modules and parameters are named
as timm names those of ``inception_resnet_v2``, so that the checkpoint loads with
``strict=True``.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repr_models.networks.inception_blocks import (
    ConvBnRelu,
    Parallel,
    average_pooled,
    chain,
    inception_preprocessing,
)
from repr_models.networks.initialisation import init_msra
from repr_models.spec import CIFAR10, IMAGENET, FoldContract, Published, register


class ScaledResidual(nn.Module):
    """``relu(x + scale * conv1x1(branches of x))``: (N, width, H, W) to the same (Fig. 20).

    There are two or three ``branches``, of ``joined`` channels together. The convolution is linear;
    ``rectified=False`` leaves out the rectifier behind the addition too.
    """

    def __init__(
        self,
        width: int,
        branches: list[nn.Module],
        joined: int,
        scale: float,
        rectified: bool = True,
    ) -> None:
        super().__init__()
        self.branch0, self.branch1, *more = branches
        self.branch2 = more[0] if more else None
        self.conv2d = nn.Conv2d(joined, width, kernel_size=1)
        self.scale = scale
        self.act = nn.ReLU() if rectified else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.branch0(x), self.branch1(x)]
        if self.branch2 is not None:
            parts.append(self.branch2(x))
        branch = self.conv2d(torch.cat(parts, 1))
        if self.scale != 1.0:  # no multiplication by one in the exported graph
            branch = branch * self.scale
        return self.act(branch + x)


@dataclass(frozen=True)
class Widths:
    """Widths, depths and scales of everything behind the stem.

    ``width`` is the stem's output. Of each kind of module, A to C, there are ``counts``;
    ``a``, ``b`` and ``c`` are the widths of their branches' convolutions in order, and
    ``scales`` their scales. ``reduce_a`` and ``reduce_b`` are the widths in the
    reductions, whose third or fourth branch is max pooling; with ``padded`` they halve an
    even side exactly. ``final`` is the width of the last convolution and ``dropout`` the
    rate before the linear layer.
    """

    width: int
    counts: tuple[int, int, int]
    a: tuple[tuple[int], tuple[int, int], tuple[int, int, int]]
    b: tuple[tuple[int], tuple[int, int, int]]
    c: tuple[tuple[int], tuple[int, int, int]]
    scales: tuple[float, float, float]
    reduce_a: tuple[tuple[int], tuple[int, int, int]]
    reduce_b: tuple[tuple[int, int], tuple[int, int], tuple[int, int, int]]
    padded: bool
    final: int
    dropout: float


def block_a(width: int, widths: Widths) -> nn.Module:
    """Inception-ResNet-A: one, two and three convolutions side by side (Fig. 16)."""
    (one,), (two, two_b), (three, three_b, three_c) = widths.a
    branches = [
        chain(width, (one, 1)),
        chain(width, (two, 1), (two_b, 3)),
        chain(width, (three, 1), (three_b, 3), (three_c, 3)),
    ]
    return ScaledResidual(width, branches, one + two_b + three_c, widths.scales[0])


def block_bc(
    width: int, widths: tuple[tuple[int], tuple[int, int, int]], length: int, scale: float
) -> nn.Module:
    """Inception-ResNet-B and -C: 1x1 beside 1x1, 1x``length``, ``length``x1 (Figs. 17 and 19).

    With a scale of 1, the last one of the network, it has no rectifier, as in the authors' code.
    """
    (one,), (first, second, third) = widths
    branches = [
        chain(width, (one, 1)),
        chain(width, (first, 1), (second, (1, length)), (third, (length, 1))),
    ]
    return ScaledResidual(width, branches, one + third, scale, rectified=scale != 1.0)


def reduction_a(width: int, widths: Widths) -> nn.Module:
    """Half the side: a 3x3, three convolutions, and max pooling, concatenated (Fig. 7)."""
    (one,), (first, second, third) = widths.reduce_a
    return Parallel(
        branch0=chain(width, (one, 3), stride=2, padded=widths.padded),
        branch1=chain(width, (first, 1), (second, 3), (third, 3), stride=2, padded=widths.padded),
        branch2=nn.MaxPool2d(3, stride=2, padding=int(widths.padded)),
    )


def reduction_b(width: int, widths: Widths) -> nn.Module:
    """Half the side: three branches that end in a strided 3x3, and max pooling (Fig. 18)."""
    (one, one_b), (two, two_b), (first, second, third) = widths.reduce_b
    return Parallel(
        branch0=chain(width, (one, 1), (one_b, 3), stride=2, padded=widths.padded),
        branch1=chain(width, (two, 1), (two_b, 3), stride=2, padded=widths.padded),
        branch2=chain(width, (first, 1), (second, 3), (third, 3), stride=2, padded=widths.padded),
        branch3=nn.MaxPool2d(3, stride=2, padding=int(widths.padded)),
    )


class InceptionResNet(nn.Sequential):
    """A stem, modules A, B and C with a reduction between, and one linear layer (Fig. 15).

    Input (N, 3, H, W) float32, output logits (N, classes) float32. MSRA initialisation.
    """

    def __init__(self, stem: dict[str, nn.Module], widths: Widths, classes: int) -> None:
        at_a = widths.width
        at_b = at_a + widths.reduce_a[0][-1] + widths.reduce_a[1][-1]
        at_c = at_b + sum(branch[-1] for branch in widths.reduce_b)
        count_a, count_b, count_c = widths.counts
        _, scale_b, scale_c = widths.scales
        super().__init__(
            OrderedDict(
                **stem,
                repeat=nn.Sequential(*(block_a(at_a, widths) for _ in range(count_a))),
                mixed_6a=reduction_a(at_a, widths),
                repeat_1=nn.Sequential(
                    *(block_bc(at_b, widths.b, 7, scale_b) for _ in range(count_b))
                ),
                mixed_7a=reduction_b(at_b, widths),
                repeat_2=nn.Sequential(
                    *(block_bc(at_c, widths.c, 3, scale_c) for _ in range(count_c - 1))
                ),
                block8=block_bc(at_c, widths.c, 3, scale=1.0),
                conv2d_7b=ConvBnRelu(at_c, widths.final),
                global_pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                head_drop=nn.Dropout(widths.dropout),
                classif=nn.Linear(widths.final, classes),
            )
        )
        init_msra(self)


def imagenet_stem() -> dict[str, nn.Module]:
    """The stem of the authors' model: (N, 3, 299, 299) to (N, 320, 35, 35)."""
    return {
        "conv2d_1a": ConvBnRelu(3, 32, 3, stride=2, padded=False),
        "conv2d_2a": ConvBnRelu(32, 32, 3, padded=False),
        "conv2d_2b": ConvBnRelu(32, 64, 3),
        "maxpool_3a": nn.MaxPool2d(3, stride=2),
        "conv2d_3b": ConvBnRelu(64, 80),
        "conv2d_4a": ConvBnRelu(80, 192, 3, padded=False),
        "maxpool_5a": nn.MaxPool2d(3, stride=2),
        "mixed_5b": Parallel(
            branch0=chain(192, (96, 1)),
            branch1=chain(192, (48, 1), (64, 5)),
            branch2=chain(192, (64, 1), (96, 3), (96, 3)),
            branch3=average_pooled(192, 64),
        ),
    }


def cifar_stem() -> dict[str, nn.Module]:
    """The beginning and the first fork of the paper's stem (Fig. 3): to (N, 128, 16, 16)."""
    return {
        "conv2d_1a": ConvBnRelu(3, 32, 3),
        "conv2d_2a": ConvBnRelu(32, 48, 3),
        "mixed_3a": Parallel(
            maxpool=nn.MaxPool2d(3, stride=2, padding=1), conv=ConvBnRelu(48, 80, 3, stride=2)
        ),
    }


IMAGENET_WIDTHS = Widths(
    width=320,
    counts=(10, 20, 10),
    a=((32,), (32, 32), (32, 48, 64)),
    b=((192,), (128, 160, 192)),
    c=((192,), (192, 224, 256)),
    scales=(0.17, 0.10, 0.20),
    reduce_a=((384,), (256, 256, 384)),
    reduce_b=((256, 384), (256, 288), (256, 288, 320)),
    padded=False,
    final=1536,
    dropout=0.2,
)

CIFAR_WIDTHS = Widths(
    width=128,
    counts=(2, 3, 3),
    a=((24,), (24, 24), (24, 32, 48)),
    b=((64,), (48, 56, 64)),
    c=((80,), (80, 96, 112)),
    scales=(0.3, 0.3, 0.3),
    reduce_a=((128,), (48, 48, 96)),
    reduce_b=((56, 96), (56, 72), (56, 72, 80)),
    padded=True,
    final=512,
    dropout=0.0,
)


@register(
    "inception_resnet_v2.imagenet",
    family="inception_resnet",
    dataset=IMAGENET,
    parameters=55_843_464,
    fold=FoldContract(batchnorms=204),
    published=Published(
        source="timm inception_resnet_v2.tf_in1k",
        url="https://huggingface.co/timm/inception_resnet_v2.tf_in1k/resolve/main/model.safetensors",
        sha256="dbea26b13a5fc8351919fed6a94222c0577ce324b2765fd081a798f837ca9d72",
        top1=0.80462,
    ),
    own_preprocessing=inception_preprocessing(resize=333),
    smallest_side=75,
)
def inception_resnet_v2() -> nn.Module:
    return InceptionResNet(imagenet_stem(), IMAGENET_WIDTHS, IMAGENET.class_count)


@register(
    "inception_resnet.cifar10",
    family="inception_resnet",
    dataset=CIFAR10,
    parameters=2_099_186,
    fold=FoldContract(batchnorms=51),
    bar=0.925,
)
def inception_resnet_cifar10() -> nn.Module:
    """Inception-ResNet cut down to 32x32 images; the configuration is this package's own.

    The stem strides once instead of three times, nothing is cropped at the borders, and
    there are 2, 3 and 3 modules A, B and C for 10, 20 and 10, at about a third of the
    widths: on 16x16, 8x8 and 4x4 maps. In stacks as short as these the residuals carry the
    largest scale that the paper names, 0.3.
    """
    return InceptionResNet(cifar_stem(), CIFAR_WIDTHS, CIFAR10.class_count)
