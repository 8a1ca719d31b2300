"""Are these arrays what the graph takes? Checked on every run, so written for speed."""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_runtime import errors
from repr_runtime.artifact.manifest import TensorSpec

_SMALL = 8192  # values; of more, BLAS makes a task for several threads
_FEW = 64  # values; so many are summed sooner than a function of numpy is called


def all_finite(values: NDArray[Any]) -> bool:
    """Whether ``values`` holds neither NaN nor infinity."""
    if values.dtype.kind != "f":
        return True
    flat = values.ravel()
    if values.dtype.itemsize < 4:  # its sums overflow soon, and BLAS knows no such numbers
        return bool(np.isfinite(flat).all())
    # A sum is finite only if all of its terms are, and so is a sum of squares, which BLAS makes
    # faster than anything else reads memory. Large values overflow it (in vdot without a
    # warning): then each is looked at.
    if flat.size <= _FEW:
        return math.isfinite(sum(flat.tolist())) or bool(np.isfinite(flat).all())
    for begin in range(0, flat.size, _SMALL):
        part = flat[begin : begin + _SMALL]
        if not math.isfinite(np.vdot(part, part)):
            return bool(np.isfinite(flat[begin:]).all())
    return True


class InputChecker:
    """Binds arrays to the graph's inputs and refuses what does not fit.

    ``images``: the first input is made of images, by ``Session.preprocess``.
    """

    def __init__(
        self, specs: tuple[TensorSpec, ...], refuse_nonfinite: bool, images: bool = False
    ) -> None:
        self._specs, self._images = specs, images
        self._names = tuple(spec.name for spec in specs)
        self._dtypes = tuple(np.dtype(spec.dtype) for spec in specs)
        self._refuse_nonfinite = refuse_nonfinite
        self._passed: tuple[int, ...] | None = None
        self._name, self._dtype = self._names[0], self._dtypes[0]

    def known(self, given: Any) -> dict[str, NDArray[Any]] | None:
        """The arrays by input name, if ``given`` is one array, or has it by name, that needs no
        further look; else None.

        The call of every service: one small input, shaped as one that passed before. After a
        network has run, the caches are cold, and each line of Python costs a microsecond.
        """
        array = given.get(self._name) if type(given) is dict and len(given) == 1 else given
        if (
            type(array) is np.ndarray
            and array.shape == self._passed
            and array.dtype is self._dtype
            and (not self._refuse_nonfinite or math.isfinite(np.vdot(array, array)))
        ):
            return {self._name: array}
        return None

    def __call__(
        self, arrays: tuple[Any, ...], named: Mapping[str, Any]
    ) -> dict[str, NDArray[Any]]:
        """The arrays by input name. Raises a subclass of :class:`InputError`."""
        if len(arrays) == 1 and not named and (known := self.known(arrays[0])) is not None:
            return known
        if not named and len(arrays) == len(self._names) and isinstance(arrays[0], np.ndarray):
            feed: dict[str, Any] = dict(zip(self._names, arrays, strict=True))
        else:
            feed = self.bind(arrays, named)
        sizes: dict[str, int] = {}
        for spec, dtype in zip(self._specs, self._dtypes, strict=True):
            array = feed[spec.name]
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                raise _type_error(spec, array, self._way_out(spec, array))
            shape = array.shape
            if len(shape) != len(spec.shape) or 0 in shape:
                raise _shape_error(spec, shape, sizes, self._way_out(spec, array))
            for expected, size in zip(spec.shape, shape, strict=True):
                # A name stands for one size: the first it meets, which setdefault notes.
                if expected != size and (
                    isinstance(expected, int) or sizes.setdefault(expected, size) != size
                ):
                    raise _shape_error(spec, shape, sizes, self._way_out(spec, array))
            if self._refuse_nonfinite and not all_finite(array):
                raise nonfinite_error(spec.name, array)
        if len(self._specs) == 1 and array.size <= _SMALL and array.dtype in ("f4", "f8"):
            self._passed = array.shape
        return feed

    def bind(self, arrays: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
        """What was given, by input name, unchecked but for the names."""
        specs = self._specs
        expected = ", ".join(map(str, specs))
        mapping: Mapping[str, Any] = {}
        if len(arrays) == 1 and isinstance(arrays[0], Mapping):
            mapping, arrays = arrays[0], ()
        if len(arrays) > len(specs):
            raise errors.InputNameError(
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
            raise errors.InputNameError(f"{what}; the network takes {expected}")
        feed.update(mapping)
        feed.update(named)
        missing = [spec.name for spec in specs if spec.name not in feed]
        if missing:
            raise errors.InputNameError(
                f"missing {', '.join(map(repr, missing))}; the network takes {expected}"
            )
        return feed

    def _way_out(self, spec: TensorSpec, array: Any) -> str:
        """Where ``array`` seems to be images, what is to be done with them; "" for all else."""
        if not self._images or spec is not self._specs[0] or not _like_images(array):
            return ""
        return (
            "images are preprocessed first: classify(images) gives labels, session.preprocess(images) "
            "what run takes; both take uint8 RGB images (H, W, 3)"
        )


def _like_images(given: Any) -> bool:
    """Whether it holds bytes, or has three channels in the last place."""
    if isinstance(given, list | tuple) and given:  # images of different sizes are no one array
        return _like_images(given[0])
    with suppress(Exception):  # whatever another library's object says to that
        array = np.asarray(given)
        return array.dtype == np.uint8 or (array.ndim in (3, 4) and array.shape[-1] == 3)
    return False


def _type_error(
    spec: TensorSpec, array: Any, way_out: str
) -> errors.InputTypeError | errors.InputDtypeError:
    if not isinstance(array, np.ndarray):
        return errors.InputTypeError(
            f"input {spec.name!r} is {type(array).__name__}, expected a numpy array; "
            + (way_out or f"convert with np.asarray(x, np.{spec.dtype})")
        )
    return errors.InputDtypeError(
        f"input {spec.name!r} is {array.dtype}, expected {spec.dtype}; "
        + (way_out or f"convert with x.astype(np.{spec.dtype})")
    )


def _shape_error(
    spec: TensorSpec, shape: tuple[int, ...], sizes: Mapping[str, int], way_out: str
) -> errors.InputShapeError:
    got = f"input {spec.name!r} has shape {shape}"
    if 0 in shape and len(shape) == len(spec.shape):
        return errors.EmptyBatchError(f"{got}: there is nothing in it; skip empty batches")
    wanted = ", ".join(map(str, spec.shape))
    hint = ""
    if way_out:
        hint = f"; {way_out}"
    elif len(shape) == len(spec.shape) - 1:
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
    return errors.InputShapeError(f"{got}, expected ({wanted}){hint}")


def nonfinite_error(name: str, array: NDArray[Any]) -> errors.NonFiniteInputError:
    """The error for input ``name``, which holds NaN or infinity."""
    count = int(array.size - np.isfinite(array).sum())
    return errors.NonFiniteInputError(
        f"input {name!r} holds {count:,} values that are NaN or infinite, of {array.size:,}; "
        f"mend them, or load with nonfinite='allow'"
    )
