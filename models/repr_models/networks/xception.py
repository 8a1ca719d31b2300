"""Xception, for ImageNet and for CIFAR-10.

Source
------
Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017
(arXiv:1610.02357): §3 and Fig. 5. A separable convolution is a 3x3 convolution of each
channel alone and a 1x1 convolution across them, with nothing between (§4.7). BatchNorm
stands behind the 1x1 convolution, into which it folds; the rectifier stands before the
3x3 one, except in the first block of the entry flow, whose input is rectified already, and
in the last two separable convolutions, which have it behind their BatchNorm.

Modules and parameters are named as timm names those of ``legacy_xception`` (the network of
the paper), so that its published checkpoint loads with ``strict=True``.
"""

from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn

from repr_models.networks.inception_blocks import inception_preprocessing
from repr_models.networks.initialisation import init_msra
from repr_models.spec import CIFAR10, IMAGENET, FoldContract, Published, register


class SeparableConv2d(nn.Module):
    """3x3 on each channel alone, then 1x1 across: (N, inputs, H, W) to (N, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.conv1(x))


class Block(nn.Module):
    """Separable convolutions of the given ``widths`` and a shortcut around them.

    Input (N, inputs, H, W), output (N, widths[-1], ceil(H / stride), ceil(W / stride)).
    Stride 2 is 3x3 max pooling at the branch's end and a strided 1x1 convolution on the
    shortcut; where the shape stays, the shortcut is the (unrectified) input itself.
    ``rectified``: the input has passed a rectifier, the first one is left out.
    """

    def __init__(
        self, inputs: int, widths: tuple[int, ...], stride: int, rectified: bool = False
    ) -> None:
        super().__init__()
        outputs = widths[-1]
        self.skip: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.skip = nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)
            self.skipbn = nn.BatchNorm2d(outputs)
        branch: list[nn.Module] = []
        for width in widths:
            # Not in place: the first one's input is the shortcut's as well.
            branch += [nn.ReLU(), SeparableConv2d(inputs, width), nn.BatchNorm2d(width)]
            inputs = width
        if rectified:
            del branch[0]
        if stride != 1:
            branch.append(nn.MaxPool2d(3, stride=stride, padding=1))
        self.rep = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.skip is None else self.skipbn(self.skip(x))
        return self.rep(x) + shortcut


class Xception(nn.Sequential):
    """Entry, middle and exit flow, global average pooling and one linear layer.

    Input (N, 3, H, W) float32, output logits (N, classes) float32. ``stride`` is that of the
    first of the stem's two convolutions, which keep the images' borders if it is 1. ``entry`` are
    the widths of the entry flow's blocks, each of stride 2; ``middle`` is how many blocks of three
    separable convolutions follow. ``leaving`` is the width of the last block, ``tail`` those of the
    two separable convolutions behind it. ``dropout`` is the rate before the linear layer.
    MSRA initialisation, in which the 3x3 half of a separable convolution counts as linear.
    """

    def __init__(
        self,
        classes: int,
        *,
        stride: int,
        entry: tuple[int, ...],
        middle: int,
        leaving: int,
        tail: tuple[int, int],
        dropout: float,
    ) -> None:
        first, second = 32, 64
        padding = 1 if stride == 1 else 0
        widths = (second, *entry)
        entering = [
            Block(inputs, (outputs, outputs), stride=2, rectified=index == 0)
            for index, (inputs, outputs) in enumerate(pairwise(widths))
        ]
        width = widths[-1]
        staying = [Block(width, (width,) * 3, stride=1) for _ in range(middle)]
        last = Block(width, (width, leaving), stride=2)
        blocks = enumerate((*entering, *staying, last), start=1)
        third, fourth = tail
        super().__init__(
            OrderedDict[str, nn.Module](
                conv1=nn.Conv2d(3, first, 3, stride, padding, bias=False),
                bn1=nn.BatchNorm2d(first),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(first, second, 3, 1, padding, bias=False),
                bn2=nn.BatchNorm2d(second),
                relu2=nn.ReLU(),
                **{f"block{index}": block for index, block in blocks},
                conv3=SeparableConv2d(leaving, third),
                bn3=nn.BatchNorm2d(third),
                relu3=nn.ReLU(),
                conv4=SeparableConv2d(third, fourth),
                bn4=nn.BatchNorm2d(fourth),
                relu4=nn.ReLU(),
                global_pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                dropout=nn.Dropout(dropout),
                fc=nn.Linear(fourth, classes),
            )
        )
        init_msra(self)
        for module in self.modules():
            if isinstance(module, SeparableConv2d):
                # A channel's 9 inputs, and no rectifier behind: the variance is 1 / 9.
                nn.init.normal_(module.conv1.weight, std=1 / 3)


@register(
    "xception.imagenet",
    family="xception",
    dataset=IMAGENET,
    parameters=22_855_952,
    fold=FoldContract(batchnorms=40),
    published=Published(
        source="timm legacy_xception.tf_in1k",
        url="https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-cadene/xception-43020ad28.pth",
        sha256="43020ad28",
        top1=0.79040,
    ),
    own_preprocessing=inception_preprocessing(resize=333),
)
def xception_imagenet() -> nn.Module:
    return Xception(
        IMAGENET.class_count,
        stride=2,
        entry=(128, 256, 728),
        middle=8,
        leaving=1024,
        tail=(1536, 2048),
        dropout=0.5,
    )


@register(
    "xception.cifar10",
    family="xception",
    dataset=CIFAR10,
    parameters=1_619_882,
    fold=FoldContract(batchnorms=31),
    bar=0.925,
)
def xception_cifar10() -> nn.Module:
    """Xception cut down to 32x32 images; the configuration is this package's own.

    The paper's shape with a stem that neither strides nor crops, two blocks in the entry
    flow for three, six in the middle flow for eight, and about a quarter of the widths. So
    the middle flow works at 8x8 and the last separable convolutions at 4x4, where the paper
    has 19x19 and 10x10.
    """
    return Xception(
        CIFAR10.class_count,
        stride=1,
        entry=(96, 192),
        middle=6,
        leaving=384,
        tail=(512, 768),
        dropout=0.0,
    )
