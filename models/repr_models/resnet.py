"""Residual networks and their plain counterparts, for CIFAR-10 and for ImageNet.

Sources
-------
He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016
(arXiv:1512.03385): §3.3-3.4 and Table 1 for the ImageNet networks, §4.2 for the
CIFAR-10 networks and for the plain networks that they are compared with.

Modules and parameters of the ImageNet networks are named as torchvision names
them, and the bottleneck has its stride on the 3x3 convolution as torchvision has
(the paper has it on the first 1x1), so that its published checkpoints load with
``strict=True``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repr_models.init import init_msra
from repr_models.registry import CIFAR10, IMAGENET, FoldContract, register


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)


class PadShortcut(nn.Module):
    """Parameter-free shortcut of §4.2 (option A): subsample, then pad channels with zeros.

    Input (N, inputs, H, W), output (N, outputs, ceil(H / stride), ceil(W / stride)), of
    which channels ``inputs`` and up are zero.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.extra = outputs - inputs
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        # The zeros go behind the channels, as in the authors' code.
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (Fig. 5, left); without the addition if ``residual`` is false."""

    expansion = 1

    def __init__(
        self, inputs: int, width: int, stride: int, downsample: nn.Module | None, residual: bool
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.residual:
            out = out + (x if self.downsample is None else self.downsample(x))
        result: Tensor = self.relu(out)
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions (Fig. 5, right), the stride on the 3x3."""

    expansion = 4

    def __init__(
        self, inputs: int, width: int, stride: int, downsample: nn.Module | None, residual: bool
    ) -> None:
        super().__init__()
        self.conv1 = conv1x1(inputs, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, width * self.expansion)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.residual:
            out = out + (x if self.downsample is None else self.downsample(x))
        result: Tensor = self.relu(out)
        return result


class ResNet(nn.Module):
    """A stem, stages of equal blocks, global average pooling and one linear layer.

    Input (N, 3, H, W) float32, output logits (N, classes) float32.

    ``stem`` is ``"cifar"`` (one 3x3 convolution) or ``"imagenet"`` (7x7 stride 2, then
    3x3 max pooling stride 2). ``shortcut`` is ``"pad"`` (parameter-free, option A) or
    ``"projection"`` (1x1 convolution and BatchNorm where the shape changes, option B).
    ``residual=False`` makes the plain network of the same layers. Parameters are
    initialised by the MSRA rule (He et al. 2015); with ``zero_init_residual`` every block
    begins as the identity, the last BatchNorm of its branch at zero (Goyal et al. 2017, §5.1).
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        classes: int,
        *,
        stem: Literal["cifar", "imagenet"],
        shortcut: Literal["pad", "projection"],
        residual: bool = True,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.residual = residual
        self.channels = widths[0]
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(3, widths[0], kernel_size=7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        else:
            self.conv1 = conv3x3(3, widths[0])
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.stages = len(depths)
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            stage = self._stage(block, depth, width, stride=1 if index == 0 else 2)
            self.add_module(f"layer{index + 1}", stage)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.channels, classes)
        init_msra(self)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, Bottleneck):
                    nn.init.zeros_(module.bn3.weight)
                elif isinstance(module, BasicBlock):
                    nn.init.zeros_(module.bn2.weight)

    def _stage(
        self, block: type[BasicBlock] | type[Bottleneck], depth: int, width: int, stride: int
    ) -> nn.Sequential:
        blocks: list[nn.Module] = []
        for index in range(depth):
            step = stride if index == 0 else 1
            outputs = width * block.expansion
            downsample = self._downsample(outputs, step)
            blocks.append(block(self.channels, width, step, downsample, self.residual))
            self.channels = outputs
        return nn.Sequential(*blocks)

    def _downsample(self, outputs: int, stride: int) -> nn.Module | None:
        if not self.residual or (stride == 1 and self.channels == outputs):
            return None
        if self.shortcut == "pad":
            return PadShortcut(self.channels, outputs, stride)
        return nn.Sequential(conv1x1(self.channels, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for index in range(self.stages):
            x = self.get_submodule(f"layer{index + 1}")(x)
        result: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return result


def _cifar(depth: int, residual: bool) -> Callable[[], nn.Module]:
    """6n + 2 weighted layers in three stages of 16, 32 and 64 channels (§4.2)."""
    blocks = (depth - 2) // 6

    def build() -> nn.Module:
        return ResNet(
            BasicBlock,
            [blocks] * 3,
            [16, 32, 64],
            CIFAR10.class_count,
            stem="cifar",
            shortcut="pad",
            residual=residual,
        )

    return build


def _imagenet(
    block: type[BasicBlock] | type[Bottleneck], depths: Sequence[int]
) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return ResNet(
            block,
            depths,
            [64, 128, 256, 512],
            IMAGENET.class_count,
            stem="imagenet",
            shortcut="projection",
        )

    return build


# depth -> parameters, of the residual network and of the plain one alike: option A has none
CIFAR_DEPTHS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}
PLAIN_DEPTHS = (20, 32, 44, 56)

# Table 1: depth -> block, blocks a stage, parameters, BatchNorms
IMAGENET_DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], list[int], int, int]] = {
    18: (BasicBlock, [2, 2, 2, 2], 11_689_512, 20),
    34: (BasicBlock, [3, 4, 6, 3], 21_797_672, 36),
    50: (Bottleneck, [3, 4, 6, 3], 25_557_032, 53),
    101: (Bottleneck, [3, 4, 23, 3], 44_549_160, 104),
    152: (Bottleneck, [3, 8, 36, 3], 60_192_808, 155),
}


@register(
    "resnet50.cifar10",
    family="resnet",
    dataset=CIFAR10,
    parameters=23_528_522,
    fold=FoldContract(batchnorms=53),
)
def resnet50_cifar10() -> nn.Module:
    """ResNet-50 as for ImageNet, its stem too: 32x32 images reach the stages as 8x8."""
    return ResNet(
        Bottleneck,
        [3, 4, 6, 3],
        [64, 128, 256, 512],
        CIFAR10.class_count,
        stem="imagenet",
        shortcut="projection",
        zero_init_residual=True,
    )


def _register_all() -> None:
    for depth, parameters in CIFAR_DEPTHS.items():
        fold = FoldContract(batchnorms=depth - 1)  # one behind each convolution
        for family, residual in (("resnet", True), ("plain", False)):
            if not residual and depth not in PLAIN_DEPTHS:
                continue
            register(
                f"{family}{depth}.cifar10",
                family=family,
                dataset=CIFAR10,
                parameters=parameters,
                fold=fold,
            )(_cifar(depth, residual))
    for depth, (block, depths, parameters, batchnorms) in IMAGENET_DEPTHS.items():
        register(
            f"resnet{depth}.imagenet",
            family="resnet",
            dataset=IMAGENET,
            parameters=parameters,
            fold=FoldContract(batchnorms=batchnorms),
        )(_imagenet(block, depths))


_register_all()
