"""Residual networks and their plain counterparts, for CIFAR-10 and for ImageNet.

Sources
-------
He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016
(arXiv:1512.03385): §3.3-3.4 and Table 1 for the ImageNet networks, §4.2 for the
CIFAR-10 networks and for the plain networks that they are compared with. The options
of the same network, grouped convolutions (ResNeXt), GroupNorm and pre-activation, have
their sources in :mod:`repr_models.networks.resnet_blocks`.

Modules and parameters of the ImageNet networks are named as torchvision names
them, and the bottleneck has its stride on the 3x3 convolution as torchvision has
(the paper has it on the first 1x1), so that its published checkpoints load with
``strict=True``. The one with GroupNorm is timm's ``resnet50_gn``, whose names are the same.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from repr_models.networks.initialisation import init_msra
from repr_models.networks.resnet_blocks import (
    BasicBlock,
    Block,
    BlockOptions,
    BlockShape,
    Bottleneck,
    PadShortcut,
    PreactBottleneck,
    conv1x1,
    conv3x3,
)
from repr_models.spec import CIFAR10, IMAGENET, FoldContract, Published, register, torchvision

STANDARD = BlockOptions()


class ResNet(nn.Module):
    """A stem, up to four stages of equal blocks, global average pooling and one linear layer.

    Input (N, 3, H, W) float32, output logits (N, classes) float32.

    ``stem`` is ``"cifar"`` (one 3x3 convolution), ``"halving"`` (one of stride 2) or
    ``"imagenet"`` (7x7 stride 2, then 3x3 max pooling stride 2), of as many channels as
    ``widths`` begins with.
    ``shortcut`` is ``"pad"`` (parameter-free, option A) or ``"projection"`` (1x1 convolution
    and normalisation where the shape changes, option B). ``options`` are those of all blocks;
    ``residual=False`` among them makes the plain network of the same layers. With blocks of
    pre-activation, normalisation and rectifier stand behind the last stage instead of behind
    the stem and projections are bare.

    Parameters are initialised by the MSRA rule (He et al. 2015); with ``zero_init_residual``
    every block begins as the identity, the last normalisation of its branch at zero (Goyal
    et al. 2017, §5.1).
    """

    def __init__(
        self,
        block: Block,
        depths: Sequence[int],
        widths: Sequence[int],
        classes: int,
        *,
        stem: Literal["cifar", "halving", "imagenet"],
        shortcut: Literal["pad", "projection"],
        options: BlockOptions = STANDARD,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.options = options
        self.channels = widths[0]
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(3, self.channels, kernel_size=7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        else:
            self.conv1 = conv3x3(3, self.channels, stride=2 if stem == "halving" else 1)
            self.maxpool = nn.Identity()
        preact = block.preactivation
        self.bn1 = nn.Identity() if preact else options.norm(self.channels)
        self.relu = nn.Identity() if preact else nn.ReLU(inplace=True)
        stages: list[nn.Module] = [
            self._stage(block, depth, width, stride=1 if index == 0 else 2)
            for index, (depth, width) in enumerate(zip(depths, widths, strict=True))
        ]
        stages += [nn.Identity() for _ in range(4 - len(stages))]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn2 = options.norm(self.channels) if preact else nn.Identity()
        self.relu2 = nn.ReLU(inplace=True) if preact else nn.Identity()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.channels, classes)
        init_msra(self)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, BasicBlock | Bottleneck):
                    last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                    assert isinstance(last, nn.BatchNorm2d | nn.GroupNorm)
                    nn.init.zeros_(last.weight)

    def _stage(self, block: Block, depth: int, width: int, stride: int) -> nn.Sequential:
        blocks: list[nn.Module] = []
        for index in range(depth):
            step = stride if index == 0 else 1
            outputs = width * block.expansion
            shape = BlockShape(self.channels, width, step)
            blocks.append(block(shape, self.options, self._downsample(block, outputs, step)))
            self.channels = outputs
        return nn.Sequential(*blocks)

    def _downsample(self, block: Block, outputs: int, stride: int) -> nn.Module | None:
        if not self.options.residual or (stride == 1 and self.channels == outputs):
            return None
        if self.shortcut == "pad":
            return PadShortcut(self.channels, outputs, stride)
        projection = conv1x1(self.channels, outputs, stride)
        if block.preactivation:
            return projection
        return nn.Sequential(projection, self.options.norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        x = self.layer4(self.layer3(x))
        x = self.relu2(self.bn2(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


_cifar_sized = partial(ResNet, classes=CIFAR10.class_count, stem="cifar")
_imagenet_sized = partial(ResNet, widths=[64, 128, 256, 512], shortcut="projection")


def _cifar(depth: int, options: BlockOptions = STANDARD, identity: bool = False) -> ResNet:
    """6n + 2 weighted layers in three stages of 16, 32 and 64 channels (§4.2)."""
    make = partial(_cifar_sized, shortcut="pad", options=options, zero_init_residual=identity)
    return make(BasicBlock, [(depth - 2) // 6] * 3, [16, 32, 64])


def _imagenet(block: Block, depths: Sequence[int], options: BlockOptions = STANDARD) -> ResNet:
    make = partial(_imagenet_sized, stem="imagenet", options=options)
    return make(block, depths, classes=IMAGENET.class_count)


# depth -> parameters (of the residual network and of the plain one alike: option A has
# none), bars of the residual and of the plain network. §4.1: a plain network gets *worse*
# with depth, so that plain56 must end below plain20; the deeper ones have no bar.
CIFAR_VARIANTS: dict[int, tuple[int, float, float | None, str]] = {
    20: (269_722, 0.912, 0.90, "91.25"),
    32: (464_154, 0.922, None, "92.49"),
    44: (658_586, 0.926, None, "92.83"),
    56: (853_018, 0.928, None, "93.03"),
    110: (1_727_962, 0.932, None, "93.57"),
}
PLAIN_DEPTHS = (20, 32, 44, 56)
"""Depths at which the plain network is compared: §4.1's degradation makes 56 worse than 20."""

# Table 1 of each paper: architecture -> block, blocks a stage, options, parameters, BatchNorms
RESNEXT_32X4D = BlockOptions(groups=32, base_width=4)
RESNEXT_32X8D = BlockOptions(groups=32, base_width=8)
IMAGENET_VARIANTS: dict[str, tuple[Block, list[int], BlockOptions, int, int]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2], STANDARD, 11_689_512, 20),
    "resnet34": (BasicBlock, [3, 4, 6, 3], STANDARD, 21_797_672, 36),
    "resnet50": (Bottleneck, [3, 4, 6, 3], STANDARD, 25_557_032, 53),
    "resnet101": (Bottleneck, [3, 4, 23, 3], STANDARD, 44_549_160, 104),
    "resnet152": (Bottleneck, [3, 8, 36, 3], STANDARD, 60_192_808, 155),
    "resnext50_32x4d": (Bottleneck, [3, 4, 6, 3], RESNEXT_32X4D, 25_028_904, 53),
    "resnext101_32x8d": (Bottleneck, [3, 4, 23, 3], RESNEXT_32X8D, 88_791_336, 104),
}
# the same -> torchvision's IMAGENET1K_V1 weights: their digest (or as much as is stated), top-1
TORCHVISION_WEIGHTS = {
    "resnet18": ("f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec", 0.69758),
    "resnet34": ("b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f", 0.73314),
    "resnet50": ("0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a", 0.76130),
    "resnet101": ("63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a", 0.77374),
    "resnet152": ("394f9c45966e3651a89bbb78a48410a6755854ce4a5ab64927cf1c7247f85e58", 0.78312),
    "resnext50_32x4d": ("7cdf4587", 0.77618),
    "resnext101_32x8d": ("8ba56ff5", 0.79312),
}

# depth -> parameters of the networks of 9n + 2 layers (arXiv:1603.05027, Table 4), and their bars
PREACT_DEPTHS: dict[int, tuple[int, float | None, str]] = {
    164: (1_703_258, 0.935, "94.54"),
    1001: (10_327_706, None, "95.38"),
}


@register(
    "resnet50.cifar10",
    family="resnet",
    dataset=CIFAR10,
    parameters=23_520_842,
    fold=FoldContract(batchnorms=53),
    bar=0.93,
    reported="93.62 %, a stem of stride 1 (kuangliu/pytorch-cifar)",
)
def resnet50_cifar10() -> nn.Module:
    """ResNet-50 as for ImageNet but for its stem: 32x32 images reach the stages as 16x16.

    The stem for ImageNet leaves them 8x8, and with them 8 points of accuracy.
    """
    make = partial(_imagenet_sized, stem="halving", zero_init_residual=True)
    return make(Bottleneck, [3, 4, 6, 3], classes=CIFAR10.class_count)


@register(
    "resnet56_gn.cifar10",
    family="groupnorm",
    dataset=CIFAR10,
    parameters=853_018,
    fold=FoldContract(batchnorms=0),
    bar=0.913,
)
def resnet56_gn_cifar10() -> nn.Module:
    """ResNet-56 with GroupNorm of 8 groups: 2, 4 and 8 channels each in the three stages.

    The paper's 32 groups would exceed the 16 channels of the first stage, and its other
    choice, 16 channels a group, would make that stage a LayerNorm. Blocks begin as the identity,
    as in the paper (§4.1): without that, the first steps overshoot.
    """
    return _cifar(56, BlockOptions(norm_groups=8), identity=True)


@register(
    "resnext29.cifar10",
    family="resnext",
    dataset=CIFAR10,
    parameters=2_040_874,
    fold=FoldContract(batchnorms=31),
    bar=0.938,
    reported="96.35 %, 34.4 M parameters (Xie et al. 2017, Table 7)",
)
def resnext29_cifar10() -> nn.Module:
    """ResNeXt-29, 12x8d (arXiv:1611.05431, §5.3), at half of the paper's stage widths.

    As in the paper three stages of three blocks behind a 3x3 convolution, width and group
    width doubling from stage to stage. The paper's smallest, 8x64d with outputs of 256, 512
    and 1,024 channels, has 34.4 M parameters; here the outputs are 128, 256 and 512 and the
    3x3 convolutions have 12 groups of 8, 16 and 32 channels: 2.04 M parameters and 328 M
    multiply-adds, a size to be trained without a GPU.
    """
    options = BlockOptions(groups=12, base_width=16)  # 16 where a stage is 64 wide: 8 at 32
    widths = [32, 64, 128]
    return _cifar_sized(Bottleneck, [3, 3, 3], widths, shortcut="projection", options=options)


@register(
    "resnet50_gn.imagenet",
    family="groupnorm",
    dataset=IMAGENET,
    parameters=25_557_032,
    fold=FoldContract(batchnorms=0),
    published=Published(
        source="timm resnet50_gn.a1h_in1k",
        url=(
            "https://github.com/rwightman/pytorch-image-models/releases/download/"
            "v0.1-rsb-weights/resnet50_gn_a1h2-8fe6c4d0.pth"
        ),
        sha256="8fe6c4d08094e791f17c7835e1bdd3a64fccc0b849bfc1ea339b3bbf372fac85",
        top1=0.8006,
    ),
    # timm crops 0.94 of the resized side (and resizes by bicubic, not bilinear interpolation)
    own_preprocessing=replace(IMAGENET.preprocessing, resize=238),
)
def resnet50_gn_imagenet() -> nn.Module:
    """ResNet-50 with GroupNorm of 32 groups wherever it has BatchNorm (Wu, He 2018)."""
    return _imagenet(Bottleneck, [3, 4, 6, 3], BlockOptions(norm_groups=32))


def _preact(depth: int) -> ResNet:
    """9n + 2 weighted layers in three stages of 64, 128 and 256 channels (arXiv:1603.05027)."""
    depths = [(depth - 2) // 9] * 3
    return _cifar_sized(PreactBottleneck, depths, [16, 32, 64], shortcut="projection")


def _register_all() -> None:
    for depth, (parameters, bar, plain_bar, reported) in CIFAR_VARIANTS.items():
        add = partial(
            register,
            family="resnet",
            dataset=CIFAR10,
            parameters=parameters,
            fold=FoldContract(batchnorms=depth - 1),  # one behind each convolution
        )
        add(f"resnet{depth}.cifar10", bar=bar, reported=f"{reported} % (He et al. 2016, Table 6)")(
            partial(_cifar, depth)
        )
        if depth in PLAIN_DEPTHS:
            plain = BlockOptions(residual=False)
            add(f"plain{depth}.cifar10", family="plain", bar=plain_bar)(
                partial(_cifar, depth, plain)
            )
    for depth, (parameters, preact_bar, reported) in PREACT_DEPTHS.items():
        blocks = (depth - 2) // 3
        register(
            f"preact_resnet{depth}.cifar10",
            family="resnet",
            dataset=CIFAR10,
            parameters=parameters,
            fold=FoldContract(
                batchnorms=3 * blocks + 1,
                kept=blocks,  # one a block and the last, but for that behind the stem's convolution
                reason="behind an addition, and in front of a rectifier",
            ),
            bar=preact_bar,
            reported=f"{reported} % (He et al. 2016, arXiv:1603.05027, Table 4)",
        )(partial(_preact, depth))
    for name, (block, depths, options, parameters, norms) in IMAGENET_VARIANTS.items():
        digest, top1 = TORCHVISION_WEIGHTS[name]
        called = name.upper().replace("RESNET", "ResNet").replace("RESNEXT", "ResNeXt")
        register(
            f"{name}.imagenet",
            family="resnext" if name.startswith("resnext") else "resnet",
            dataset=IMAGENET,
            parameters=parameters,
            fold=FoldContract(batchnorms=norms),
            published=torchvision(called, name, digest, top1),
        )(partial(_imagenet, block, depths, options))


_register_all()
