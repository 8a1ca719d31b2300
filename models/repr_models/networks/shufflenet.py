"""ShuffleNet v1 and v2, for ImageNet and for CIFAR-10: groups of channels, shuffled.

Sources
-------
v1: Zhang, Zhou, Lin, Sun, "ShuffleNet: An Extremely Efficient Convolutional Neural Network for
Mobile Devices", CVPR 2018 (arXiv:1707.01083): §3.1 for the shuffle, Fig. 2 for the units,
Table 1 for the network.
v2: Ma, Zhang, Zheng, Sun, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture
Design", ECCV 2018 (arXiv:1807.11164): Fig. 3 (c), (d) for the units, Table 5 for the network.

v2's modules and parameters are named as torchvision names them, so that its published
checkpoints load with ``strict=True``. Neither torchvision nor timm has v1: its modules are named,
and its channels ordered, as in the authors' own code (megvii-model/ShuffleNet-Series).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repr_models.networks.initialisation import init_msra
from repr_models.spec import CIFAR10, IMAGENET, FoldContract, register, torchvision

REPEATS = (4, 8, 4)  # units of stages 2, 3 and 4, in both papers
STEM = 24  # channels, in both
LAST = 1024  # channels in front of v2's pooling


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Channels (N, groups * n, H, W), seen as groups x n, transposed: group after group (§3.1).

    Output channel ``j * groups + i`` is input channel ``i * n + j``.
    """
    channels, height, width = x.shape[1:]
    # Each target has constants and one -1, the batch: so the graph takes any batch size.
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        # Training's layout, which the other way would lose, to slow mixed kernels behind it.
        x = x.permute(0, 2, 3, 1).reshape(-1, height, width, groups, channels // groups)
        return x.transpose(3, 4).reshape(-1, height, width, channels).permute(0, 3, 1, 2)
    x = x.reshape(-1, groups, channels // groups, height, width).transpose(1, 2)
    return x.reshape(-1, channels, height, width)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Conv2d:
    return nn.Conv2d(
        inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False
    )


def _rectified(convolution: nn.Conv2d) -> nn.Sequential:
    norm = nn.BatchNorm2d(convolution.out_channels)
    return nn.Sequential(convolution, norm, nn.ReLU(inplace=True))


class ShuffleUnitV1(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1, and a shortcut (v1, Fig. 2 b, c).

    Input (N, inputs, H, W), output (N, outputs, ceil(H / stride), ceil(W / stride)). The
    bottleneck has outputs / 4 channels. With stride 1 the input is added; with stride 2 it is
    average-pooled and put in front of the branch, which then has outputs - inputs channels.
    ``first_groups`` are those of the first 1x1: 1 behind the stem, which has few channels.

    The authors' code shuffles behind the depthwise convolution, the figure in front of it:
    for a depthwise convolution that is only another order of its filters. Theirs is kept.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, groups: int, first_groups: int
    ) -> None:
        super().__init__()
        self.stride = stride
        self.groups = groups
        bottleneck = outputs // 4
        branch = outputs if stride == 1 else outputs - inputs
        self.branch_main_1 = nn.Sequential(
            *_rectified(_convolution(inputs, bottleneck, 1, 1, first_groups)),
            _convolution(bottleneck, bottleneck, 3, stride, bottleneck),
            nn.BatchNorm2d(bottleneck),
        )
        self.branch_main_2 = nn.Sequential(
            _convolution(bottleneck, branch, 1, 1, groups),
            nn.BatchNorm2d(branch),
        )
        if stride != 1:
            self.branch_proj = nn.AvgPool2d(kernel_size=3, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.branch_main_1(x)
        # The authors' code sees n x groups where §3.1 sees groups x n: the inverse permutation,
        # which mixes the groups just as well, and which their weights were trained with.
        branch = channel_shuffle(branch, branch.shape[1] // self.groups)
        branch = self.branch_main_2(branch)
        if self.stride == 1:
            return F.relu(x + branch)
        return torch.cat((self.branch_proj(x), F.relu(branch)), dim=1)


class ShuffleNetV1(nn.Module):
    """A stem, three stages of shuffle units, global average pooling, one linear layer.

    Input (N, 3, H, W) float32, output logits (N, classes) float32. ``widths`` are the stages'
    output channels. With ``small_images`` the stem keeps the image's size (stride 1, no max
    pooling); else it divides it by 4. Parameters are initialised by the MSRA rule (He et al.
    2015), and the units that add their input begin as the identity (Goyal et al. 2017, §5.1).
    """

    def __init__(
        self, widths: Sequence[int], classes: int, *, groups: int, small_images: bool = False
    ) -> None:
        super().__init__()
        channels = STEM
        self.first_conv, self.maxpool = _stem(small_images)
        units: list[ShuffleUnitV1] = []
        for stage, (repeats, width) in enumerate(zip(REPEATS, widths, strict=True)):
            for index in range(repeats):
                stride = 2 if index == 0 else 1
                first_groups = 1 if stage == index == 0 else groups
                units.append(ShuffleUnitV1(channels, width, stride, groups, first_groups))
                channels = width
        self.features = nn.Sequential(*units)
        self.globalpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(channels, classes, bias=False))
        init_msra(self)
        # Else 13 additions swell the features, and the first steps of training diverge.
        for unit in units:
            last = unit.branch_main_2[1]
            if isinstance(last, nn.BatchNorm2d) and unit.stride == 1:
                nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.globalpool(self.features(self.maxpool(self.first_conv(x))))
        return self.classifier(torch.flatten(x, 1))


class ShuffleUnitV2(nn.Module):
    """Half of the channels through 1x1, depthwise 3x3, 1x1; then a shuffle (v2, Fig. 3 c, d).

    Input (N, inputs, H, W), output (N, outputs, ceil(H / stride), ceil(W / stride)). With
    stride 1 (``inputs == outputs``) the channels are split and one half passes unchanged; with
    stride 2 both branches take all channels, and the first is a depthwise 3x3 and a 1x1.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        half = outputs // 2
        self.branch1 = nn.Sequential()
        if stride != 1:
            self.branch1 = nn.Sequential(
                _convolution(inputs, inputs, 3, stride, inputs),
                nn.BatchNorm2d(inputs),
                *_rectified(_convolution(inputs, half, 1, 1, 1)),
            )
        self.branch2 = nn.Sequential(
            *_rectified(_convolution(half if stride == 1 else inputs, half, 1, 1, 1)),
            _convolution(half, half, 3, stride, half),
            nn.BatchNorm2d(half),
            *_rectified(_convolution(half, half, 1, 1, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, worked_on = x.chunk(2, dim=1) if self.stride == 1 else (x, x)
        x = torch.cat((self.branch1(kept), self.branch2(worked_on)), dim=1)
        return channel_shuffle(x, 2)


def _stage_v2(inputs: int, width: int, repeats: int) -> nn.Sequential:
    rest = (ShuffleUnitV2(width, width, stride=1) for _ in range(repeats - 1))
    return nn.Sequential(ShuffleUnitV2(inputs, width, stride=2), *rest)


class ShuffleNetV2(nn.Module):
    """A stem, three stages of shuffle units, a last 1x1, global average pooling, a linear layer.

    Input (N, 3, H, W) float32, output logits (N, classes) float32. ``widths`` are the stages'
    output channels. With ``small_images`` the stem keeps the image's size (stride 1, no max
    pooling); else it divides it by 4. Parameters are initialised by the MSRA rule (He et al. 2015).
    """

    def __init__(self, widths: Sequence[int], classes: int, *, small_images: bool = False) -> None:
        super().__init__()
        self.conv1, self.maxpool = _stem(small_images)
        second, third, fourth = widths
        self.stage2 = _stage_v2(STEM, second, REPEATS[0])
        self.stage3 = _stage_v2(second, third, REPEATS[1])
        self.stage4 = _stage_v2(third, fourth, REPEATS[2])
        self.conv5 = _rectified(_convolution(fourth, LAST, 1, 1, 1))
        self.globalpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(LAST, classes)
        init_msra(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(x))
        x = self.stage4(self.stage3(self.stage2(x)))
        return self.fc(torch.flatten(self.globalpool(self.conv5(x)), 1))


def _stem(small_images: bool) -> tuple[nn.Sequential, nn.Module]:
    """The first convolution and the pooling behind it."""
    first = _rectified(_convolution(3, STEM, 3, 1 if small_images else 2, 1))
    return first, nn.Identity() if small_images else nn.MaxPool2d(3, stride=2, padding=1)


@register(
    "shufflenet_v1.imagenet",
    family="shufflenet",
    dataset=IMAGENET,
    parameters=1_864_728,
    fold=FoldContract(batchnorms=49),
    # No `published`: the authors' checkpoints lie on a file-sharing page without digests.
)
def shufflenet_v1_imagenet() -> nn.Module:
    """v1's Table 1, 3 groups, scale factor 1: 137 M multiply-adds."""
    return ShuffleNetV1((240, 480, 960), IMAGENET.class_count, groups=3)


@register(
    "shufflenet_v2.imagenet",
    family="shufflenet",
    dataset=IMAGENET,
    parameters=2_278_604,
    fold=FoldContract(batchnorms=56),
    published=torchvision("ShuffleNet_V2_X1_0", "shufflenetv2_x1", "5666bf0f80", 0.69362),
)
def shufflenet_v2_imagenet() -> nn.Module:
    """v2's Table 5, scale factor 1: 146 M multiply-adds."""
    return ShuffleNetV2((116, 232, 464), IMAGENET.class_count)


@register(
    "shufflenet_v1.cifar10",
    family="shufflenet",
    dataset=CIFAR10,
    parameters=914_328,
    fold=FoldContract(batchnorms=49),
    bar=0.90,
)
def shufflenet_v1_cifar10() -> nn.Module:
    """The ImageNet network for 32x32 images: its stem has stride 1 and no pooling behind it.

    The stages work on 16x16, 8x8 and 4x4 places, as against 28x28, 14x14 and 7x7 in Table 1;
    43 M multiply-adds.
    """
    return ShuffleNetV1((240, 480, 960), CIFAR10.class_count, groups=3, small_images=True)


@register(
    "shufflenet_v2.cifar10",
    family="shufflenet",
    dataset=CIFAR10,
    parameters=1_263_854,
    fold=FoldContract(batchnorms=56),
    bar=0.908,
)
def shufflenet_v2_cifar10() -> nn.Module:
    """The ImageNet network for 32x32 images: its stem has stride 1 and no pooling behind it.

    The stages work on 16x16, 8x8 and 4x4 places, as against 28x28, 14x14 and 7x7 in Table 5;
    45 M multiply-adds.
    """
    return ShuffleNetV2((116, 232, 464), CIFAR10.class_count, small_images=True)
