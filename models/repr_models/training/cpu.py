"""What makes training faster on a CPU: memory that is kept, a gradient that oneDNN has no kernel for.

That is of depthwise convolutions with a stride, by their input, in bfloat16 (torch 2.13): of 96
channels of 32×32 pixels, a batch of 128, it takes 167 ms, where the way forward takes 3. A
convolution without a stride gives it, too. In float32 its own is as fast.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_MOST = 2**31 - 1


def keep_freed() -> bool:
    """Tell glibc's malloc not to return memory to the system; whether it is there to be told.

    By default what is larger than 32 MB is mapped for each tensor anew, and the system has to clear
    each of its pages: up to half of a step's time on a CPU. It holds until the process ends, whose
    memory does not shrink then.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _MOST))


def quicken(network: nn.Module) -> None:
    """Give such convolutions of ``network``, in place, that gradient. Values are as before."""
    for module in network.modules():
        if type(module) is nn.Conv2d and _is_meant(module):
            module.__class__ = _StridedDepthwise


def _is_meant(module: nn.Conv2d) -> bool:
    assert not isinstance(module.padding, str), "none of ours says it in words"
    return (
        module.groups == module.in_channels == module.out_channels > 1
        and max(module.stride) > 1
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and all(p < k for p, k in zip(module.padding, module.kernel_size, strict=True))
    )


class _StridedDepthwise(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        device = x.device.type
        if torch.is_autocast_enabled(device):
            low = torch.get_autocast_dtype(device)
            x, weight = x.to(low), weight.to(low)
        found: Tensor = _Function.apply(x, weight, self.stride, self.padding)  # type: ignore[no-untyped-call]
        return found if bias is None else found + bias.to(found.dtype).view(1, -1, 1, 1)


class _Function(torch.autograd.Function):
    """The convolution of x (N, C, H, W) by w (C, 1, K, L)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, w, None, stride, padding, 1, len(w))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = grads
        x, w = ctx.saved_tensors
        of_x = of_w = None
        if ctx.needs_input_grad[0]:
            of_x = _of_input(grad, x, w, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_w = conv2d_weight(  # type: ignore[no-untyped-call]
                x, w.shape, grad, ctx.stride, ctx.padding, 1, len(w)
            )
        return of_x, of_w, None, None


def _of_input(
    grad: Tensor, x: Tensor, w: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """``grad`` with zeros where the stride passed over, convolved by the kernel turned about."""
    kernel, sides = w.shape[2:], x.shape[2:]
    height, width = (s + 2 * p - k + 1 for s, p, k in zip(sides, padding, kernel, strict=True))
    sizes = (*grad.shape[:2], height, width)
    spread = torch.empty(
        sizes, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last
    ).zero_()
    spread[:, :, :: stride[0], :: stride[1]] = grad
    around = tuple(k - 1 - p for p, k in zip(padding, kernel, strict=True))
    return F.conv2d(spread, w.flip(2, 3), None, 1, around, 1, len(w))
