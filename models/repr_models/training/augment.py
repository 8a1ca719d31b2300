"""Images on the device, normalised, and the random crops and flips that training sees of them."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from repr_models.data.images import ImageSet
from repr_models.spec import NetworkSpec


class ResidentImages:
    """A data set on the device: normalised images (N, 3, H, W) float32 and labels (N,) int64.

    ``source`` is the data set they were made of.
    """

    def __init__(self, data: ImageSet, spec: NetworkSpec, device: torch.device) -> None:
        pre = spec.preprocessing
        mean = torch.tensor(pre.mean).view(1, 3, 1, 1) * 255
        std = torch.tensor(pre.std).view(1, 3, 1, 1) * 255
        images = torch.from_numpy(np.ascontiguousarray(data.images.transpose(0, 3, 1, 2))).float()
        self.images = ((images - mean) / std).to(device, memory_format=torch.channels_last)
        self.labels = torch.from_numpy(data.labels).to(device)
        self.source = data

    def __len__(self) -> int:
        return len(self.images)


def augment(images: Tensor, generator: torch.Generator, padding: str = "zeros") -> Tensor:
    """Each image (N, 3, H, W) padded by 4, cropped at a random place and flipped or not.

    The result has the shape of ``images``; the draws come from ``generator``, on the CPU.
    ``padding`` is what lies around an image: ``"zeros"`` or its own ``"reflection"``.
    """
    count, _, height, width = images.shape
    device = images.device
    padded = F.pad(images, (4, 4, 4, 4), "constant" if padding == "zeros" else "reflect")
    # One small transfer: a larger one would wait for all that the device has still to do.
    draw = torch.rand(3, count, generator=generator).to(device)
    offsets = (draw[:2] * 9).long()
    columns = offsets[1].view(-1, 1) + torch.arange(width, device=device)
    columns = torch.where(draw[2].view(-1, 1) < 0.5, columns.flip(1), columns)
    rows = offsets[0].view(-1, 1) + torch.arange(height, device=device)
    index = torch.arange(count, device=device).view(-1, 1, 1)
    # Advanced indices around a slice: the result is (N, H, W, 3), which is channels_last.
    picked = padded[index, :, rows.view(count, -1, 1), columns.view(count, 1, -1)]
    return picked.permute(0, 3, 1, 2)
