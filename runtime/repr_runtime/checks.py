"""Are these arrays what the graph takes? Checked on every run, so written for speed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_runtime.errors import (
    EmptyBatchError,
    InputDtypeError,
    InputNameError,
    InputShapeError,
    InputTypeError,
    NonFiniteInputError,
)
from repr_runtime.manifest import TensorSpec


def all_finite(values: NDArray[Any]) -> bool:
    """Whether ``values`` holds neither NaN nor infinity.

    Their sum is finite only if they all are, and is one fast pass without a temporary. A sum
    that overflows, as large finite values may, is settled by looking at each.
    """
    if values.dtype.kind != "f":
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(np.add.reduce(values, axis=None))
    return math.isfinite(total) or bool(np.isfinite(values).all())


class InputChecker:
    """Binds arrays to the graph's inputs and refuses what does not fit."""

    def __init__(self, specs: tuple[TensorSpec, ...], refuse_nonfinite: bool) -> None:
        self._specs = specs
        self._by_name = {spec.name: spec for spec in specs}
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in specs}
        self._refuse_nonfinite = refuse_nonfinite

    def __call__(
        self, arrays: tuple[Any, ...], named: Mapping[str, Any]
    ) -> dict[str, NDArray[Any]]:
        """The arrays by input name. Raises a subclass of :class:`InputError`."""
        feed = self._bind(arrays, named)
        sizes: dict[str, int] = {}
        for name, array in feed.items():
            spec = self._by_name[name]
            if not isinstance(array, np.ndarray):
                raise InputTypeError(
                    f"input {name!r} is {type(array).__name__}, expected a numpy array; "
                    f"convert with np.asarray(x, np.{spec.dtype})"
                )
            if array.dtype != self._dtypes[name]:
                raise InputDtypeError(
                    f"input {name!r} is {array.dtype}, expected {spec.dtype}; "
                    f"convert with x.astype(np.{spec.dtype})"
                )
            self._check_shape(spec, array.shape, sizes)
            if self._refuse_nonfinite and not all_finite(array):
                count = int(np.size(array) - np.isfinite(array).sum())
                raise NonFiniteInputError(
                    f"input {name!r} holds {count} values that are NaN or infinite, of {array.size:,}; "
                    f"mend them, or load with nonfinite='allow'"
                )
        return feed

    def _bind(self, arrays: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        specs = self._specs
        if not named and len(arrays) == len(specs) and not isinstance(arrays[0], Mapping):
            return {spec.name: array for spec, array in zip(specs, arrays, strict=True)}
        if len(arrays) == 1 and isinstance(arrays[0], Mapping):
            named, arrays = {**arrays[0], **named}, ()
        expected = ", ".join(map(str, specs))
        if len(arrays) > len(specs):
            raise InputNameError(
                f"got {len(arrays)} arrays, the network takes {len(specs)}: {expected}"
            )
        feed: dict[str, Any] = {
            spec.name: array for spec, array in zip(specs, arrays, strict=False)
        }
        doubled = [name for name in named if name in feed]
        unknown = [str(name) for name in named if name not in self._by_name]
        if doubled or unknown:
            what = (
                f"no input {', '.join(map(repr, unknown))}"
                if unknown
                else f"{doubled[0]!r} given twice"
            )
            raise InputNameError(f"{what}; the network takes {expected}")
        feed.update(named)
        missing = [spec.name for spec in specs if spec.name not in feed]
        if missing:
            raise InputNameError(
                f"missing {', '.join(map(repr, missing))}; the network takes {expected}"
            )
        return feed

    @staticmethod
    def _check_shape(spec: TensorSpec, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
        fits = len(shape) == len(spec.shape)
        if fits:
            for expected, size in zip(spec.shape, shape, strict=True):
                if isinstance(expected, int):
                    fits = fits and expected == size
                elif sizes.setdefault(expected, size) != size:  # one name, one size
                    fits = False
        if not fits:
            wanted = ", ".join(map(str, spec.shape))
            hint = ""
            if len(shape) == len(spec.shape) - 1:
                hint = "; one sample needs a batch dimension too: x[None]"
            elif (
                len(shape) == len(spec.shape)
                and shape[1:] == spec.shape[1:]
                and isinstance(spec.shape[0], int)
            ):
                hint = "; its batch size is fixed: export again with --batch dynamic"
            raise InputShapeError(
                f"input {spec.name!r} has shape {shape}, expected ({wanted}){hint}"
            )
        if 0 in shape:
            raise EmptyBatchError(
                f"input {spec.name!r} has shape {shape}: there is nothing in it; skip empty batches"
            )
