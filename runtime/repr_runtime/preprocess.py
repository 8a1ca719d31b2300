"""From uint8 RGB images of any size to the network's input, as the manifest says."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_runtime.errors import ImageError
from repr_runtime.manifest import PreprocessingInfo

Images = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]


def as_image_list(images: Images) -> list[NDArray[np.uint8]]:
    """``images`` as a list of (H, W, 3) arrays, each checked.

    Takes one image (H, W, 3), a batch (N, H, W, 3), or a sequence of images of differing
    sizes. Raises :class:`ImageError`.
    """
    batch: Any = images  # whatever the caller gave: checked here and below
    if isinstance(batch, np.ndarray):
        batch = batch if batch.ndim == 4 else [batch]
    elif not isinstance(batch, list | tuple):
        raise ImageError(
            f"images must be numpy arrays, got {type(batch).__name__}; convert with np.asarray(image)"
        )
    if len(batch) == 0:
        raise ImageError("there are no images in the batch; give at least one")
    return [_checked(image) for image in batch]


def _checked(image: Any) -> NDArray[np.uint8]:
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"an image must be a numpy array, got {type(image).__name__}; convert with np.asarray(image)"
        )
    if image.ndim != 3 or image.shape[2] != 3:
        hint = ""
        if image.ndim == 3 and image.shape[0] == 3:
            hint = "; channels come last: image.transpose(1, 2, 0)"
        elif image.ndim == 2:
            hint = "; a grey image needs three equal channels: np.stack([image] * 3, -1)"
        elif image.ndim == 3 and image.shape[2] == 4:
            hint = "; leave the alpha channel out: image[..., :3]"
        raise ImageError(f"an image must be (H, W, 3) RGB, got shape {image.shape}{hint}")
    if image.dtype != np.uint8:
        raise ImageError(f"an image must be uint8 with values 0 to 255, got {image.dtype}")
    if 0 in image.shape:
        raise ImageError(f"an image of shape {image.shape} has no pixels")
    return image


def preprocess(images: Images, info: PreprocessingInfo) -> NDArray[np.float32]:
    """The network's input (N, 3, height, width) float32, C-contiguous.

    Resizes the shorter side, cuts out the centre and normalises
    (:class:`PreprocessingInfo`). Raises :class:`ImageError`.
    """
    height, width = info.crop
    mean, std = np.asarray(info.mean, np.float32), np.asarray(info.std, np.float32)
    scale, shift = 1 / (255 * std), -mean / std
    cropped = np.stack(
        [_resize_and_crop(image, info.resize, height, width) for image in as_image_list(images)]
    )
    normalised = cropped.astype(np.float32) * scale + shift
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


def _resize_and_crop(
    image: NDArray[np.uint8], resize: int | None, height: int, width: int
) -> NDArray[np.uint8]:
    rows, columns = image.shape[:2]
    if resize is not None and min(rows, columns) != resize:
        # The longer side is cut to whole pixels, as torchvision and timm do.
        shorter = min(rows, columns)
        rows, columns = (
            (resize, int(resize * columns / shorter))
            if rows == shorter
            else (int(resize * rows / shorter), resize)
        )
        image = resize_bilinear(image, rows, columns)
    if rows < height or columns < width:
        raise ImageError(
            f"an image of {rows}x{columns} pixels is smaller than the crop of {height}x{width}; "
            f"resize it first"
        )
    top, left = round((rows - height) / 2), round((columns - width) / 2)
    return image[top : top + height, left : left + width]


def resize_bilinear(image: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """``image`` (H, W, C) at (rows, columns, C): separable triangle filter, antialiased.

    The same filter as Pillow's ``BILINEAR``: its support widens with the reduction, so that
    every source pixel counts. Rounded to uint8 after each direction, as Pillow does, columns
    first.
    """
    across = _rounded(np.tensordot(_weights(image.shape[1], columns), image, axes=(1, 1)))
    down = np.tensordot(_weights(image.shape[0], rows), across, axes=(1, 1))
    return _rounded(down)


def _rounded(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    result: NDArray[np.uint8] = np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)
    return result


@lru_cache(maxsize=64)
def _weights(source: int, target: int) -> NDArray[np.float32]:
    """The (target, source) matrix of the triangle filter; every row sums to 1."""
    scale = source / target
    support = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    distance = np.abs(np.arange(source) + 0.5 - centres[:, None]) / support
    weights = np.clip(1 - distance, 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    weights.setflags(write=False)
    return weights.astype(np.float32)
