"""Inception-v3 and Inception-v4 for ImageNet.

Sources
-------
Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception Architecture for
Computer Vision", CVPR 2016 (arXiv:1512.00567): Table 1 and Figs. 5 to 7 for the modules
of v3, Fig. 10 for the reductions, Fig. 8 for the auxiliary head.
Szegedy, Ioffe, Vanhoucke, Alemi, "Inception-v4, Inception-ResNet and the Impact of
Residual Connections on Learning", AAAI 2017 (arXiv:1602.07261): Figs. 3 to 9 for v4.

Every convolution has no bias, a BatchNorm and a rectifier behind it. Modules and
parameters are named as torchvision names those of ``inception_v3`` and timm those of
``inception_v4``, so that their published checkpoints load with ``strict=True``. As there,
the average pooling in the modules of v3 counts the zeros of the padding, that of v4 does not.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repr_models.networks.inception_blocks import (
    ConvBnRelu,
    Parallel,
    average_pooled,
    chain,
    inception_preprocessing,
)
from repr_models.networks.initialisation import init_msra
from repr_models.spec import IMAGENET, FoldContract, Published, register, torchvision


class Numbered(nn.Module):
    """Branches side by side, concatenated by channels, whose modules are named as in torchvision.

    A branch of one module has its own name, those of a ``Sequential`` are ``NAME_1``, ``NAME_2``...
    """

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        self.branches: list[list[str]] = []
        for name, branch in branches.items():
            parts = {name: branch}
            if isinstance(branch, nn.Sequential):
                parts = {f"{name}_{place}": part for place, part in enumerate(branch, start=1)}
            for called, part in parts.items():
                self.add_module(called, part)
            self.branches.append([*parts])

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for names in self.branches:
            y = x
            for name in names:
                y = self.get_submodule(name)(y)
            outputs.append(y)
        return torch.cat(outputs, 1)


class PooledConv(ConvBnRelu):
    """The pooling branch of v3: 3x3 averages, the zeros of the padding among them, then 1x1."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.avg_pool2d(x, 3, stride=1, padding=1))


def _mixed35(inputs: int, pooled: int) -> nn.Module:
    """Module of v3 on the 35x35 grid (Fig. 5): (N, inputs, H, W) to (N, 224 + pooled, H, W)."""
    return Numbered(
        branch1x1=chain(inputs, (64, 1)),
        branch5x5=chain(inputs, (48, 1), (64, 5)),
        branch3x3dbl=chain(inputs, (64, 1), (96, 3), (96, 3)),
        branch_pool=PooledConv(inputs, pooled),
    )


def _reduce35(inputs: int) -> nn.Module:
    """From 35x35 to 17x17 (Fig. 10): (N, inputs, H, W) to (N, inputs + 480, (H-1)/2, (W-1)/2)."""
    return Numbered(
        branch3x3=chain(inputs, (384, 3), stride=2, padded=False),
        branch3x3dbl=chain(inputs, (64, 1), (96, 3), (96, 3), stride=2, padded=False),
        pool=nn.MaxPool2d(3, stride=2),
    )


def _mixed17(inputs: int, width: int) -> nn.Module:
    """Module of v3 on the 17x17 grid, 7x7 as 1x7 and 7x1 (Fig. 6): (N, 768, H, W) to the same."""
    first, row, column = (width, 1), (width, (1, 7)), (width, (7, 1))
    return Numbered(
        branch1x1=chain(inputs, (192, 1)),
        branch7x7=chain(inputs, first, row, (192, (7, 1))),
        branch7x7dbl=chain(inputs, first, column, row, column, (192, (1, 7))),
        branch_pool=PooledConv(inputs, 192),
    )


def _reduce17(inputs: int) -> nn.Module:
    """From 17x17 to 8x8: (N, inputs, H, W) to (N, inputs + 512, (H-1)/2, (W-1)/2)."""
    first, row, column = (192, 1), (192, (1, 7)), (192, (7, 1))
    return Numbered(
        branch3x3=chain(inputs, first, (320, 3), stride=2, padded=False),
        branch7x7x3=chain(inputs, first, row, column, (192, 3), stride=2, padded=False),
        pool=nn.MaxPool2d(3, stride=2),
    )


class Mixed8(nn.Module):
    """Module of v3 on the 8x8 grid, with forks (Fig. 7): (N, inputs, H, W) to (N, 2048, H, W)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBnRelu(inputs, 320)
        self.branch3x3_1 = ConvBnRelu(inputs, 384)
        self.branch3x3_2a = ConvBnRelu(384, 384, (1, 3))
        self.branch3x3_2b = ConvBnRelu(384, 384, (3, 1))
        self.branch3x3dbl_1 = ConvBnRelu(inputs, 448)
        self.branch3x3dbl_2 = ConvBnRelu(448, 384, 3)
        self.branch3x3dbl_3a = ConvBnRelu(384, 384, (1, 3))
        self.branch3x3dbl_3b = ConvBnRelu(384, 384, (3, 1))
        self.branch_pool = PooledConv(inputs, 192)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = (
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(x),
        )
        return torch.cat(branches, 1)


class AuxiliaryHead(nn.Module):
    """Classifier on the 17x17 grid (Fig. 8): (N, inputs, 17, 17) to logits (N, classes)."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(5, stride=3)
        self.conv0 = ConvBnRelu(inputs, 128)
        self.conv1 = ConvBnRelu(128, 768, 5, padded=False)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.conv1(self.conv0(self.pool(x))))
        return self.fc(torch.flatten(x, 1))


class InceptionV3(nn.Module):
    """Inception-v3: input (N, 3, H, W) float32, output logits (N, classes) float32.

    In training mode the output is a tuple, these logits and those of the auxiliary head
    ``AuxLogits``, and the images must be of about 299x299 (a 17x17 grid); in eval mode 75x75
    suffices. MSRA initialisation.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvBnRelu(3, 32, 3, stride=2, padded=False)
        self.Conv2d_2a_3x3 = ConvBnRelu(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = ConvBnRelu(32, 64, 3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2)
        self.Conv2d_3b_1x1 = ConvBnRelu(64, 80)
        self.Conv2d_4a_3x3 = ConvBnRelu(80, 192, 3, padded=False)
        self.maxpool2 = nn.MaxPool2d(3, stride=2)
        self.Mixed_5b = _mixed35(192, pooled=32)
        self.Mixed_5c = _mixed35(256, pooled=64)
        self.Mixed_5d = _mixed35(288, pooled=64)
        self.Mixed_6a = _reduce35(288)
        self.Mixed_6b = _mixed17(768, width=128)
        self.Mixed_6c = _mixed17(768, width=160)
        self.Mixed_6d = _mixed17(768, width=160)
        self.Mixed_6e = _mixed17(768, width=192)
        self.AuxLogits = AuxiliaryHead(768, classes)
        self.Mixed_7a = _reduce17(768)
        self.Mixed_7b = Mixed8(1280)
        self.Mixed_7c = Mixed8(2048)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(2048, classes)
        init_msra(self)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(self.maxpool2(x))))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        grid = self.Mixed_6e(self.Mixed_6d(x))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(grid)))
        logits = self.fc(torch.flatten(self.dropout(self.avgpool(x)), 1))
        if self.training:
            return logits, self.AuxLogits(grid)
        return logits


class InceptionC(nn.Module):
    """Module of v4 on the 8x8 grid, with forks (Fig. 6): (N, 1536, H, W) to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = ConvBnRelu(1536, 256)
        self.branch1_0 = ConvBnRelu(1536, 384)
        self.branch1_1a = ConvBnRelu(384, 256, (1, 3))
        self.branch1_1b = ConvBnRelu(384, 256, (3, 1))
        self.branch2_0 = ConvBnRelu(1536, 384)
        self.branch2_1 = ConvBnRelu(384, 448, (3, 1))
        self.branch2_2 = ConvBnRelu(448, 512, (1, 3))
        self.branch2_3a = ConvBnRelu(512, 256, (1, 3))
        self.branch2_3b = ConvBnRelu(512, 256, (3, 1))
        self.branch3 = average_pooled(1536, 256)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch1_0(x)
        double = self.branch2_2(self.branch2_1(self.branch2_0(x)))
        branches = (
            self.branch0(x),
            self.branch1_1a(single),
            self.branch1_1b(single),
            self.branch2_3a(double),
            self.branch2_3b(double),
            self.branch3(x),
        )
        return torch.cat(branches, 1)


def _v4_stem() -> list[nn.Module]:
    """Fig. 3: (N, 3, 299, 299) to (N, 384, 35, 35)."""
    return [
        ConvBnRelu(3, 32, 3, stride=2, padded=False),
        ConvBnRelu(32, 32, 3, padded=False),
        ConvBnRelu(32, 64, 3),
        Parallel(
            maxpool=nn.MaxPool2d(3, stride=2), conv=ConvBnRelu(64, 96, 3, stride=2, padded=False)
        ),
        Parallel(
            branch0=chain(160, (64, 1), (96, 3), padded=False),
            branch1=chain(160, (64, 1), (64, (1, 7)), (64, (7, 1)), (96, 3), padded=False),
        ),
        Parallel(
            conv=ConvBnRelu(192, 192, 3, stride=2, padded=False), maxpool=nn.MaxPool2d(3, stride=2)
        ),
    ]


def _inception_a() -> nn.Module:
    """Fig. 4."""
    return Parallel(
        branch0=chain(384, (96, 1)),
        branch1=chain(384, (64, 1), (96, 3)),
        branch2=chain(384, (64, 1), (96, 3), (96, 3)),
        branch3=average_pooled(384, 96),
    )


def _reduction_a() -> nn.Module:
    """Fig. 7 with k, l, m, n = 192, 224, 256, 384 (Table 1)."""
    return Parallel(
        branch0=chain(384, (384, 3), stride=2, padded=False),
        branch1=chain(384, (192, 1), (224, 3), (256, 3), stride=2, padded=False),
        branch2=nn.MaxPool2d(3, stride=2),
    )


def _inception_b() -> nn.Module:
    """Fig. 5."""
    rows, columns = (1, 7), (7, 1)
    return Parallel(
        branch0=chain(1024, (384, 1)),
        branch1=chain(1024, (192, 1), (224, rows), (256, columns)),
        branch2=chain(1024, (192, 1), (192, columns), (224, rows), (224, columns), (256, rows)),
        branch3=average_pooled(1024, 128),
    )


def _reduction_b() -> nn.Module:
    """Fig. 8."""
    last = (320, 3)
    return Parallel(
        branch0=chain(1024, (192, 1), (192, 3), stride=2, padded=False),
        branch1=chain(1024, (256, 1), (256, (1, 7)), (320, (7, 1)), last, stride=2, padded=False),
        branch2=nn.MaxPool2d(3, stride=2),
    )


class InceptionV4(nn.Sequential):
    """Inception-v4 (Fig. 9): input (N, 3, H, W) float32, output logits (N, classes) float32.

    The stem, 4 modules A, 7 B and 3 C, a reduction between; H and W are 75 or more.
    MSRA initialisation.
    """

    def __init__(self, classes: int) -> None:
        features = [
            *_v4_stem(),
            *(_inception_a() for _ in range(4)),
            _reduction_a(),
            *(_inception_b() for _ in range(7)),
            _reduction_b(),
            *(InceptionC() for _ in range(3)),
        ]
        super().__init__(
            OrderedDict(
                features=nn.Sequential(*features),
                global_pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                head_drop=nn.Dropout(0.2),
                last_linear=nn.Linear(1536, classes),
            )
        )
        init_msra(self)


@register(
    "inception_v3.imagenet",
    family="inception",
    dataset=IMAGENET,
    parameters=23_834_568,
    fold=FoldContract(batchnorms=94),
    published=torchvision(
        "Inception_V3",
        "inception_v3_google",
        "0cc3c7bd75056d25e46cba549dc184522069b81e9787eff6df84f397bd52a5ef",
        0.77294,
    ),
    # torchvision normalises by ImageNet's statistics and undoes it inside the network
    # (transform_input); the two together are this.
    own_preprocessing=inception_preprocessing(resize=342),
    smallest_side=75,
    training_only=("AuxLogits",),
)
def inception_v3() -> nn.Module:
    return InceptionV3(IMAGENET.class_count)


@register(
    "inception_v4.imagenet",
    family="inception",
    dataset=IMAGENET,
    parameters=42_679_816,
    fold=FoldContract(batchnorms=149),
    published=Published(
        source="timm inception_v4.tf_in1k",
        url="https://huggingface.co/timm/inception_v4.tf_in1k/resolve/main/model.safetensors",
        sha256="a756a086851c8d5a8de135ec15c76b90ea56cb5aef450e3299107e659e725bb1",
        top1=0.80156,
    ),
    own_preprocessing=inception_preprocessing(resize=341),
    smallest_side=75,
)
def inception_v4() -> nn.Module:
    return InceptionV4(IMAGENET.class_count)
