"""Pictures as files, JPEG, PNG and WebP, to uint8 RGB arrays; broken ones and bombs are refused."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from repr_runtime.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP")
MOST_PIXELS = 50_000_000
"""More than any camera's picture; as RGB they take 150 MB while they are decoded."""

LONGEST_SIDE = 65_535
"""As in JPEG: the decoder keeps a pointer to each row, which are more than its pixels in a strip."""


def decode(content: bytes) -> NDArray[np.uint8]:
    """The picture in ``content`` as (height, width, 3) RGB, turned the way its camera was held.

    Raises :class:`ImageError` for what is no such file, is cut off, or has too many pixels:
    its size is looked at before anything is decoded.
    """
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
        width, height = picture.size
        if width * height > MOST_PIXELS:
            raise ImageError(
                f"the picture has {width:,} x {height:,} pixels, at most {MOST_PIXELS:,} are taken"
            )
        if max(width, height) > LONGEST_SIDE:
            raise ImageError(
                f"the picture has {width:,} x {height:,} pixels, at most {LONGEST_SIDE:,} a side are "
                f"taken"
            )
        with picture:
            picture.load()
            if picture.mode.startswith("I"):  # 16 bits a pixel, which convert would cut off at 255
                grey = (np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8)
                upright: Image.Image = Image.fromarray(grey)
            else:
                upright = ImageOps.exif_transpose(picture)
            return np.array(upright.convert("RGB"), np.uint8)
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # the library has a limit of its own
        raise ImageError(
            f"the picture is too large, at most {MOST_PIXELS:,} pixels are taken"
        ) from error
    except Exception as error:  # what its decoders raise shares no base but this
        what = (
            "is none of JPEG, PNG and WebP"
            if isinstance(error, UnidentifiedImageError)
            else (f"cannot be decoded ({error!s:.100})")
        )
        raise ImageError(f"the picture {what}") from error
