"""What the Inception networks are put together from: normalised convolutions, side by side.

Szegedy, Ioffe, Vanhoucke, Alemi, "Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning", AAAI 2017 (arXiv:1602.07261). Modules are named as timm names them.
"""

import torch
from torch import Tensor, nn

from repr_models.spec import Preprocessing

Kernel = int | tuple[int, int]


class ConvBnRelu(nn.Module):
    """Convolution without bias, BatchNorm, rectifier.

    Input (N, inputs, H, W), output (N, outputs, H', W'). With ``padded`` each side gets
    half of the kernel in zeros, so that stride 1 keeps H and W; without, none.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: Kernel = 1, stride: int = 1, padded: bool = True
    ) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class Parallel(nn.Module):
    """Each branch gets the input (N, C, H, W); their outputs are concatenated by channels."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.children()], 1)


def chain(
    inputs: int, *convs: tuple[int, Kernel], stride: int = 1, padded: bool = True
) -> nn.Module:
    """A branch of convolutions (outputs, kernel), the last with ``stride`` and ``padded``.

    One alone is that :class:`ConvBnRelu` itself, several are a ``Sequential``: so timm has it.
    """
    modules: list[nn.Module] = []
    for outputs, kernel in convs[:-1]:
        modules.append(ConvBnRelu(inputs, outputs, kernel))
        inputs = outputs
    modules.append(ConvBnRelu(inputs, *convs[-1], stride, padded))
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def average_pooled(inputs: int, outputs: int) -> nn.Module:
    """The pooling branch of v4: 3x3 averages of what lies inside the image, then 1x1."""
    pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return nn.Sequential(pool, ConvBnRelu(inputs, outputs))


def inception_preprocessing(resize: int) -> Preprocessing:
    """299x299 pixels between -1 and 1, as Google's networks of this family take them."""
    return Preprocessing(resize=resize, crop=299, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
