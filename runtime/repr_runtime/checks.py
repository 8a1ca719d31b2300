"""Are these arrays what the graph takes? Checked on every run, so written for speed."""

from __future__ import annotations

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
    """Whether ``values`` holds neither NaN nor infinity."""
    # On the few values of one sample, count_nonzero takes half the time of all().
    return values.dtype.kind != "f" or np.count_nonzero(np.isfinite(values)) == values.size


class _Expected:
    """What one input must be, taken apart for the check."""

    __slots__ = ("dtype", "fixed", "free", "name", "rank", "spec")

    def __init__(self, spec: TensorSpec) -> None:
        self.spec, self.name, self.rank = spec, spec.name, len(spec.shape)
        self.dtype = np.dtype(spec.dtype)
        self.fixed = [(axis, dim) for axis, dim in enumerate(spec.shape) if isinstance(dim, int)]
        self.free = [(axis, dim) for axis, dim in enumerate(spec.shape) if isinstance(dim, str)]

    def fits(self, shape: tuple[int, ...], sizes: dict[str, int]) -> bool:
        """Whether ``shape`` fits, and the free dimensions have the ``sizes`` seen so far."""
        if len(shape) != self.rank:
            return False
        for axis, size in self.fixed:
            if shape[axis] != size:
                return False
        # One name, one size: setdefault notes the first and gives it back to the others.
        return all(sizes.setdefault(dim, shape[axis]) == shape[axis] for axis, dim in self.free)


class InputChecker:
    """Binds arrays to the graph's inputs and refuses what does not fit."""

    def __init__(self, specs: tuple[TensorSpec, ...], refuse_nonfinite: bool) -> None:
        self._specs = specs
        self._expected = [_Expected(spec) for spec in specs]
        self._names = frozenset(spec.name for spec in specs)
        self._refuse_nonfinite = refuse_nonfinite

    def __call__(
        self, arrays: tuple[Any, ...], named: Mapping[str, Any]
    ) -> dict[str, NDArray[Any]]:
        """The arrays by input name. Raises a subclass of :class:`InputError`."""
        feed = self._bind(arrays, named)
        sizes: dict[str, int] = {}
        for expected in self._expected:
            array = feed[expected.name]
            if not isinstance(array, np.ndarray) or array.dtype != expected.dtype:
                raise _type_error(expected.spec, array)
            shape = array.shape
            if 0 in shape or not expected.fits(shape, sizes):
                raise _shape_error(expected.spec, shape, sizes)
            if self._refuse_nonfinite and not all_finite(array):
                raise _nonfinite_error(expected.name, array)
        return feed

    def _bind(self, arrays: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
        specs = self._specs
        if not named and len(arrays) == len(specs) and not isinstance(arrays[0], Mapping):
            return {spec.name: array for spec, array in zip(specs, arrays, strict=True)}
        expected = ", ".join(map(str, specs))
        mapping: Mapping[str, Any] = {}
        if len(arrays) == 1 and isinstance(arrays[0], Mapping):
            mapping, arrays = arrays[0], ()
        if len(arrays) > len(specs):
            raise InputNameError(
                f"got {len(arrays)} arrays, the network takes {len(specs)}: {expected}"
            )
        feed: dict[str, Any] = {
            spec.name: array for spec, array in zip(specs, arrays, strict=False)
        }
        doubled = [name for name in named if name in feed or name in mapping]
        unknown = [str(name) for name in (*mapping, *named) if name not in self._names]
        if doubled or unknown:
            what = (
                f"no input {', '.join(map(repr, unknown))}"
                if unknown
                else f"{doubled[0]!r} given twice"
            )
            raise InputNameError(f"{what}; the network takes {expected}")
        feed.update(mapping)
        feed.update(named)
        missing = [spec.name for spec in specs if spec.name not in feed]
        if missing:
            raise InputNameError(
                f"missing {', '.join(map(repr, missing))}; the network takes {expected}"
            )
        return feed


def _type_error(spec: TensorSpec, array: Any) -> InputTypeError | InputDtypeError:
    if not isinstance(array, np.ndarray):
        return InputTypeError(
            f"input {spec.name!r} is {type(array).__name__}, expected a numpy array; "
            f"convert with np.asarray(x, np.{spec.dtype})"
        )
    return InputDtypeError(
        f"input {spec.name!r} is {array.dtype}, expected {spec.dtype}; "
        f"convert with x.astype(np.{spec.dtype})"
    )


def _shape_error(
    spec: TensorSpec, shape: tuple[int, ...], sizes: Mapping[str, int]
) -> InputShapeError:
    got = f"input {spec.name!r} has shape {shape}"
    if 0 in shape and len(shape) == len(spec.shape):
        return EmptyBatchError(f"{got}: there is nothing in it; skip empty batches")
    wanted = ", ".join(map(str, spec.shape))
    hint = ""
    if len(shape) == len(spec.shape) - 1:
        hint = "; one sample needs a batch dimension too: x[None]"
    elif len(shape) == len(spec.shape):
        differ = [i for i in range(len(shape)) if spec.shape[i] not in (shape[i], *sizes)]
        clash = [
            f"{dim} is {sizes[dim]} already"
            for dim, size in zip(spec.shape, shape, strict=True)
            if isinstance(dim, str) and sizes.get(dim, size) != size
        ]
        if differ == [0]:
            hint = "; its batch size is fixed: give whole batches, or export again with --batch dynamic"
        elif clash and not differ:
            hint = f", and {', '.join(clash)} from the input before; give them the same size"
    return InputShapeError(f"{got}, expected ({wanted}){hint}")


def _nonfinite_error(name: str, array: NDArray[Any]) -> NonFiniteInputError:
    count = int(array.size - np.isfinite(array).sum())
    return NonFiniteInputError(
        f"input {name!r} holds {count:,} values that are NaN or infinite, of {array.size:,}; "
        f"mend them, or load with nonfinite='allow'"
    )
