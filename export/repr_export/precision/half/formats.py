"""The two half precision formats, and correct rounding into them."""

from __future__ import annotations

import operator
from dataclasses import astuple, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

HalfName = Literal["fp16", "bf16"]


@dataclass(frozen=True)
class HalfFormat:
    """A 16-bit floating-point type.

    ``significant_bits`` counts the leading one; ``largest`` is the largest finite value,
    ``smallest_normal`` the smallest positive one of full precision. ``opset`` is the first
    version of the standard operators with which a convolutional network can be written in it.
    """

    name: HalfName
    dtype: ir.DataType
    significant_bits: int
    largest: float
    smallest_normal: float
    opset: int


FORMATS: dict[str, HalfFormat] = {
    # What overflows is found by IsInf, of opset 10.
    "fp16": HalfFormat("fp16", ir.DataType.FLOAT16, 11, 65504.0, 2.0**-14, 10),
    # Conv, the pools and InstanceNormalization take bfloat16 from opset 22 on.
    "bf16": HalfFormat("bf16", ir.DataType.BFLOAT16, 8, float.fromhex("0x1.FEp127"), 2.0**-126, 22),
}


@dataclass(frozen=True)
class Rounding:
    """What rounding did to some values: counts of them.

    ``subnormal`` values kept fewer significant bits than the format has, ``underflowed`` ones
    became 0 and ``overflowed`` ones infinite, although they were neither.
    """

    values: int = 0
    subnormal: int = 0
    underflowed: int = 0
    overflowed: int = 0

    def __add__(self, other: Rounding) -> Rounding:
        return Rounding(*map(operator.add, astuple(self), astuple(other)))


def round_to(values: npt.NDArray[np.float64], fmt: HalfFormat) -> tuple[npt.NDArray[Any], Rounding]:
    """``values`` rounded once, to the nearest of ``fmt`` and to even in the middle, and the count."""
    with np.errstate(over="ignore", under="ignore"):
        if fmt.dtype == ir.DataType.FLOAT16:
            rounded: npt.NDArray[Any] = values.astype(np.float16)
        else:
            rounded = _to_odd_float32(values).astype(fmt.dtype.numpy())
    back = rounded.astype(np.float64)
    size = np.abs(back)
    return rounded, Rounding(
        values.size,
        int(np.count_nonzero((size > 0) & (size < fmt.smallest_normal))),
        int(np.count_nonzero((values != 0) & (size == 0))),
        int(np.count_nonzero(np.isfinite(values) & np.isinf(back))),
    )


def _to_odd_float32(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """float64 to float32, cut off, with the last bit set wherever something was lost.

    Rounding that once more to fewer bits is rounding once (Boldo and Melquiond, "When double
    rounding is odd", 2005). NumPy and ml_dtypes go from float64 to bfloat16 by way of the
    nearest float32, which is not.
    """
    nearest = values.astype(np.float32)
    wide = nearest.astype(np.float64)
    cut = np.where(np.abs(wide) > np.abs(values), np.nextafter(nearest, np.float32(0)), nearest)
    cut = np.asarray(cut, dtype=np.float32)
    lost = np.isfinite(values) & (cut.astype(np.float64) != values)
    odd: npt.NDArray[np.float32] = (cut.view(np.uint32) | lost.astype(np.uint32)).view(np.float32)
    return odd
