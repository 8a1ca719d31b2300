"""The blocks that residual networks are stacked from, their shortcuts and normalisations.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016
(arXiv:1512.03385), Fig. 5: :class:`BasicBlock`, :class:`Bottleneck`.
He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016
(arXiv:1603.05027), Fig. 4(e): :class:`PreactBottleneck`.
Xie, Girshick, Dollár, Tu, He, "Aggregated Residual Transformations for Deep Neural
Networks", CVPR 2017 (arXiv:1611.05431), Fig. 3(c): :class:`Bottleneck` with groups.
Wu, He, "Group Normalization", ECCV 2018 (arXiv:1803.08494): ``norm_groups``.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


def conv3x3(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        inputs, outputs, kernel_size=3, stride=stride, padding=1, groups=groups, bias=False
    )


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks of one network have in common.

    ``norm_groups`` are those of GroupNorm, which must divide the channels (``ValueError``), 0
    means BatchNorm. ``residual`` false leaves the additions out. ``groups`` is the cardinality of
    the 3x3 convolution of a bottleneck and ``base_width`` the channels of one group where the
    stage is 64 wide, so that ``groups=32, base_width=4`` is ResNeXt's 32x4d and the defaults are
    the ResNet.
    """

    norm_groups: int = 0
    residual: bool = True
    groups: int = 1
    base_width: int = 64

    def norm(self, channels: int) -> nn.Module:
        """The normalisation of ``channels`` channels."""
        if self.norm_groups:
            return nn.GroupNorm(self.norm_groups, channels)
        return nn.BatchNorm2d(channels)


@dataclass(frozen=True)
class BlockShape:
    """Channels that a block gets, the width of its stage, and its stride."""

    inputs: int
    width: int
    stride: int = 1


class PadShortcut(nn.Module):
    """Parameter-free shortcut of §4.2 (option A): subsample, then pad channels with zeros.

    Input (N, inputs, H, W), output (N, outputs, ceil(H / stride), ceil(W / stride)), whose
    added channels are zero: half of them stand before the input's and the rest behind, as in the
    published checkpoints of CIFAR's ResNets (github.com/akamaster/pytorch_resnet_cifar10).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.before = (outputs - inputs) // 2
        self.behind = outputs - inputs - self.before
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        subsampled = x[:, :, :: self.stride, :: self.stride]
        return F.pad(subsampled, (0, 0, 0, 0, self.before, self.behind))


class ResidualBlock(nn.Module):
    """``relu(branch + shortcut)``; of a plain network the branch alone.

    The shortcut is the input, or ``downsample`` of it where the shape changes.
    """

    relu: nn.Module
    downsample: nn.Module | None
    residual: bool

    def joined(self, branch: Tensor, x: Tensor) -> Tensor:
        """The output, of the branch's and of the block's input."""
        if self.residual:
            branch = branch + (x if self.downsample is None else self.downsample(x))
        return self.relu(branch)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions (Fig. 5, left); takes neither groups nor a base width."""

    expansion = 1
    preactivation = False

    def __init__(
        self, shape: BlockShape, options: BlockOptions, downsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        width = shape.width
        if (options.groups, options.base_width) != (1, 64):
            raise ValueError(
                f"a BasicBlock has no {options.groups}x{options.base_width}d convolution; "
                "take a Bottleneck"
            )
        self.conv1 = conv3x3(shape.inputs, width, shape.stride)
        self.bn1 = options.norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(width, width)
        self.bn2 = options.norm(width)
        self.downsample = downsample
        self.residual = options.residual

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.joined(self.bn2(self.conv2(out)), x)


class Bottleneck(ResidualBlock):
    """1x1, 3x3, 1x1 convolutions (Fig. 5, right), the stride on the 3x3, which may be grouped."""

    expansion = 4
    preactivation = False

    def __init__(
        self, shape: BlockShape, options: BlockOptions, downsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        width = shape.width
        inner = width * options.base_width // 64 * options.groups
        self.conv1 = conv1x1(shape.inputs, inner)
        self.bn1 = options.norm(inner)
        self.conv2 = conv3x3(inner, inner, shape.stride, options.groups)
        self.bn2 = options.norm(inner)
        self.conv3 = conv1x1(inner, width * self.expansion)
        self.bn3 = options.norm(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.residual = options.residual

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.joined(self.bn3(self.conv3(out)), x)


class PreactBottleneck(nn.Module):
    """Normalisation and rectifier in front of each convolution: nothing behind the addition.

    A projection reads what the first rectifier gives, the identity what the block gets, and
    the stride is on the first 1x1, all as in the authors' code (resnet-1k-layers).
    """

    expansion = 4
    preactivation = True

    def __init__(
        self, shape: BlockShape, options: BlockOptions, downsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        width = shape.width
        if options != BlockOptions(options.norm_groups):
            raise ValueError(f"a PreactBottleneck takes no option but its norms, got {options}")
        self.bn1 = options.norm(shape.inputs)
        self.conv1 = conv1x1(shape.inputs, width, shape.stride)
        self.bn2 = options.norm(width)
        self.conv2 = conv3x3(width, width)
        self.bn3 = options.norm(width)
        self.conv3 = conv1x1(width, width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu(self.bn1(x))
        out = self.conv1(activated)
        out = self.conv2(self.relu(self.bn2(out)))
        out = self.conv3(self.relu(self.bn3(out)))
        return out + (x if self.downsample is None else self.downsample(activated))


Block = type[BasicBlock] | type[Bottleneck] | type[PreactBottleneck]
