"""Where a checkpoint's parameter-free shortcuts have their zeros, and how it is moved.

Earlier versions of this package padded them behind the channels, the published checkpoints of
CIFAR's ResNets on both sides of them, and so does this version. Names and shapes are the same, and
a network that gets the others' parameters guesses. Of what ``repr-train`` stores the file says
which it is (:mod:`repr_models.weights.codec`); any other one is tried both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from repr_models.networks.resnet import ResNet

_TRIED = 100
_CLEARLY = 20
"""By how many of the tried images more one way must be right: three deviations of their difference."""


def pads(network: nn.Module) -> bool:
    """Whether ``network`` has parameter-free shortcuts that pad channels."""
    from repr_models.networks.resnet import ResNet
    from repr_models.networks.resnet_blocks import PadShortcut

    return isinstance(network, ResNet) and any(
        isinstance(module, PadShortcut) for module in network.modules()
    )


def with_zeros_on_both_sides(
    network: nn.Module, state: Mapping[str, Tensor], version: int | None
) -> Mapping[str, Tensor]:
    """``state`` as ``network`` takes it: moved, if its zeros stand behind.

    ``version`` is that of the codec, whose first had them there; None means another's file: it
    is moved if it then gets clearly more of CIFAR-10's first bundled test images right. ``state``
    fits the network; what is returned computes the same function of the images.
    """
    from repr_models.networks.resnet import ResNet

    if not pads(network) or (version is not None and version > 1):
        return state
    assert isinstance(network, ResNet)
    moved = _moved(network, state)
    if version == 1 or _right(network, moved) >= _right(network, state) + _CLEARLY:
        return moved
    return state


def _moved(network: ResNet, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The channels between the blocks in their new order; those within a block stay."""
    import torch

    from repr_models.networks.resnet_blocks import PadShortcut, ResidualBlock

    moved = dict(state)
    order = torch.arange(network.conv1.out_channels)  # of each channel, which it was
    for name, block in network.named_modules():
        if not isinstance(block, ResidualBlock):
            continue
        first = f"{name}.conv1.weight"
        moved[first] = moved[first][:, order]
        if isinstance(pad := block.downsample, PadShortcut):
            zeros = len(order) + torch.arange(pad.before + pad.behind)
            order = torch.cat([zeros[: pad.before], order, zeros[pad.before :]])
        for key, value in state.items():  # vectors, and the last convolution's outputs
            if key.startswith((f"{name}.conv2.", f"{name}.bn2.")) and value.ndim:
                moved[key] = value[order]
    moved["fc.weight"] = moved["fc.weight"][:, order]
    return moved


def _right(network: ResNet, state: Mapping[str, Tensor]) -> int:
    """How many of the tried images a copy of ``network`` with ``state`` gets right."""
    import copy

    import torch

    from repr_models.data.cifar10 import bundled_subset
    from repr_models.spec import CIFAR10

    subset, pre = bundled_subset(), CIFAR10.preprocessing
    mean, std = torch.tensor(pre.mean), torch.tensor(pre.std)
    images = (torch.from_numpy(subset.images[:_TRIED]) / 255 - mean) / std
    tried = copy.deepcopy(network).eval()
    tried.load_state_dict(state)
    with torch.inference_mode():
        answers = tried(images.permute(0, 3, 1, 2)).argmax(1).numpy()
    return int((answers == subset.labels[:_TRIED]).sum())
