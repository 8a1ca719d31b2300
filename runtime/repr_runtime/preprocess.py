"""From uint8 RGB images of any size to the network's input, as the manifest says."""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_runtime.artifact.manifest import PreprocessingInfo
from repr_runtime.errors import ImageError, InputError, words_of
from repr_runtime.inputs import plain
from repr_runtime.options import MOST_BYTES

MOST_PIXELS = 2**28
"""Of one image: each of them counts in the result, and a broadcast array may have any number."""

_AT_ONCE = 64
"""Images that are float32 twice, for a moment."""

Images = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]


def as_image_list(images: Images, most: int) -> list[NDArray[np.uint8]]:
    """``images``, up to ``most``, as a list of (H, W, 3) arrays, each checked.

    Takes one image (H, W, 3), a batch (N, H, W, 3), or a sequence of images of differing
    sizes. Raises :class:`ImageError`.
    """
    batch: Any = images  # whatever the caller gave: checked here and below
    if isinstance(batch, np.ndarray):
        batch = _plain(batch)
        batch = batch if batch.ndim == 4 else [batch]
    elif not isinstance(batch, list | tuple):
        raise ImageError(
            f"images must be numpy arrays, got {type(batch).__name__}; convert with np.asarray(image)"
        )
    try:
        count = len(batch) if type(batch) is np.ndarray else 0
        listed = list(islice(batch, 0 if count > most else most + 1))
    except Exception as error:  # of a class derived from list
        raise ImageError(
            f"the {type(batch).__name__} of images cannot be read ({words_of(error)}); give a list"
        ) from error
    if max(count, len(listed)) > most:
        raise ImageError(
            f"there are more than {most:,} images, whose input would be larger than the "
            f"{MOST_BYTES / 1e9:.0f} GB that one call makes; give them in parts"
        )
    if not listed:
        raise ImageError("there are no images in the batch; give at least one")
    return [_checked(image) for image in listed]


def _plain(image: NDArray[Any]) -> NDArray[Any]:
    try:
        return image if type(image) is np.ndarray else plain("an image", image)
    except InputError as error:  # it hides behind a mask
        raise ImageError(str(error)) from error


def _checked(image: Any) -> NDArray[np.uint8]:
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"an image must be a numpy array, got {type(image).__name__}; convert with np.asarray(image)"
        )
    image = _plain(image)
    if image.ndim != 3 or image.shape[2] != 3:
        hint = ""
        if image.ndim == 3 and image.shape[0] == 3:
            hint = "; channels come last: image.transpose(1, 2, 0)"
        elif image.ndim == 2:
            hint = "; a grey image needs three equal channels: np.stack([image] * 3, -1)"
        elif image.ndim == 3 and image.shape[2] == 1:
            hint = "; a grey image needs three equal channels: np.repeat(image, 3, -1)"
        elif image.ndim == 3 and image.shape[2] == 4:
            hint = "; leave the alpha channel out: image[..., :3]"
        raise ImageError(f"an image must be (H, W, 3) RGB, got shape {image.shape}{hint}")
    if image.dtype != np.uint8:
        scaled = "(image * 255).round()" if image.dtype.kind == "f" else "image"
        raise ImageError(
            f"an image must be uint8 with values 0 to 255, got {image.dtype}; "
            f"convert with {scaled}.astype(np.uint8)"
            + (", if its values are 0 to 1" if image.dtype.kind == "f" else "")
        )
    if 0 in image.shape:
        raise ImageError(f"an image of shape {image.shape} has no pixels")
    if image.shape[0] * image.shape[1] > MOST_PIXELS:
        raise ImageError(
            f"an image of shape {image.shape} has more than {MOST_PIXELS:,} pixels; resize it first"
        )
    checked: NDArray[np.uint8] = image
    return checked


def preprocess(images: Images, info: PreprocessingInfo) -> NDArray[np.float32]:
    """The network's input (N, 3, height, width) float32, C-contiguous.

    Resizes the shorter side, cuts out the centre and normalises
    (:class:`PreprocessingInfo`). Raises :class:`ImageError`, also, before any work, for more
    images than there is memory for.
    """
    most = max(1, MOST_BYTES // (12 * math.prod(info.crop)))  # 3 channels of 4 bytes
    found = as_image_list(images, most)
    shape = (len(found), 3, *info.crop)
    try:
        made = np.empty(shape, np.float32)
    except MemoryError as error:
        raise ImageError(
            f"{len(found):,} images take {4 * math.prod(shape):,} bytes at once ({error}); give fewer "
            f"at a time"
        ) from error
    cropped = np.stack([resize_and_crop(image, info) for image in found])
    for begin in range(0, len(found), _AT_ONCE):
        some = slice(begin, begin + _AT_ONCE)
        made[some] = normalise(cropped[some], info).transpose(0, 3, 1, 2)
    return made


def normalise(images: NDArray[np.uint8], info: PreprocessingInfo) -> NDArray[np.float32]:
    """``(image / 255 - mean) / std`` of each channel, float32; channels are the last dimension."""
    mean, std = np.asarray(info.mean, np.float32), np.asarray(info.std, np.float32)
    scale, shift = 1 / (255 * std), -mean / std
    normalised: NDArray[np.float32] = images.astype(np.float32) * scale + shift
    return normalised


def channels_first(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, H, W, 3) as (N, 3, H, W), C-contiguous."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def resize_and_crop(image: NDArray[np.uint8], info: PreprocessingInfo) -> NDArray[np.uint8]:
    """The shorter side of ``image`` (H, W, 3) resized, and the centre cut out.

    Raises :class:`ImageError` if the image is smaller than the crop.
    """
    resize, (height, width) = info.resize, info.crop
    rows, columns = image.shape[:2]
    shorter = min(rows, columns)
    if resize is not None and shorter != resize:
        # The longer side is cut to whole pixels, as torchvision and timm do.
        rows, columns = (
            (resize, int(resize * columns / shorter))
            if rows == shorter
            else (int(resize * rows / shorter), resize)
        )
    if rows < height or columns < width:
        raise ImageError(
            f"an image of {rows}x{columns} pixels is smaller than the crop of {height}x{width}; "
            f"resize it first"
        )
    top, left = round((rows - height) / 2), round((columns - width) / 2)
    return resize_bilinear(image, rows, columns, (top, left, height, width))


def resize_bilinear(
    image: NDArray[np.uint8], rows: int, columns: int, box: tuple[int, int, int, int]
) -> NDArray[np.uint8]:
    """The part at ``box`` (top, left, height, width) of ``image`` (H, W, C) at (rows, columns, C).

    A separable triangle filter, antialiased, the same as Pillow's ``BILINEAR``: its support
    widens with the reduction, so that every source pixel counts. Rounded to uint8 after each
    direction; the one that leaves less to do for the other goes first. Both as in Pillow, which
    it equals within one level, or two where Pillow takes the other direction first. A strip, whose
    one direction would leave many times as much as the other, begins with the other.
    """
    top, left, height, width = box
    image = np.ascontiguousarray(image)  # of another, each take below would make a copy
    rows_first = rows * image.shape[1] <= columns * image.shape[0]
    left_by_rows, left_by_columns = height * image.shape[1], image.shape[0] * width
    if max(left_by_rows, left_by_columns) > 4 * min(left_by_rows, left_by_columns):
        rows_first = left_by_rows < left_by_columns
    if rows_first:
        return _resample(_resample(image, 0, rows, top, height), 1, columns, left, width)
    return _resample(_resample(image, 1, columns, left, width), 0, rows, top, height)


def _resample(
    image: NDArray[np.uint8], axis: int, target: int, begin: int, count: int
) -> NDArray[np.uint8]:
    """``count`` pixels from ``begin`` on of ``image`` resized to ``target`` pixels along ``axis``.

    Only those are computed, so that the size of the work is bounded by the image and the
    crop, whatever the proportions of the image.
    """
    source = image.shape[axis]
    if source == target:
        return image.take(range(begin, begin + count), axis)
    positions, weights = _taps(source, target, begin, count)
    sizes = (*image.shape[:axis], count, *image.shape[axis + 1 :])
    total, product = np.full(sizes, 0.5, np.float32), np.empty(sizes, np.float32)
    shape = (count, 1, 1) if axis == 0 else (count, 1)
    for position, weight in zip(positions, weights.reshape(-1, *shape), strict=True):
        np.multiply(image.take(position, axis), weight, out=product)
        total += product
    result: NDArray[np.uint8] = total.clip(0, 255).astype(np.uint8)  # which cuts, so the 0.5
    return result


@lru_cache(maxsize=64)
def _taps(
    source: int, target: int, begin: int, count: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The triangle filter: which source pixels make a target pixel, and their weights.

    Both (taps, count): the weights of a target pixel sum to 1, and are 0 for the pixels that
    fill up.
    """
    scale = source / target
    support = max(scale, 1.0)
    centres = (np.arange(begin, begin + count) + 0.5) * scale
    first = np.floor(centres - support).astype(np.intp)
    positions = first + np.arange(math.ceil(2 * support) + 1)[:, None]
    weights = np.clip(1 - np.abs(positions + 0.5 - centres) / support, 0, None)
    weights[(positions < 0) | (positions >= source)] = 0
    weights /= weights.sum(axis=0)
    return positions.clip(0, source - 1), weights.astype(np.float32)
