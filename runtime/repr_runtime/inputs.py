"""Are these arrays what the graph takes? Checked on every run, so written for speed."""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from repr_runtime import errors
from repr_runtime.artifact.manifest import TensorSpec
from repr_runtime.cuda.arrays import is_device_array
from repr_runtime.options import MOST_BYTES

T = TypeVar("T")

_SMALL = 8192  # values; of more, BLAS makes a task for several threads
_FEW = 64  # values; so many are summed sooner than a function of numpy is called
_PART = 2**17  # values; so many stay in a core's cache while they are looked at twice
_SLOW = 2**20  # values; to look at more takes longer than to start a thread
_LARGE = 2**20  # values; of more, an array with gaps is not copied as a whole
_MORE_NAMES = 100  # that are read of a mapping beside those that the network has


def plain(what: str, array: NDArray[Any]) -> NDArray[Any]:
    """``array``, of a class derived from numpy's, as a plain one over the same memory.

    Raises :class:`InputTypeError`, which calls it ``what``, if some of it hides behind a mask.
    """
    if isinstance(array, np.ma.MaskedArray):
        try:
            mask = np.ma.getmaskarray(array)
            plain_mask = mask.dtype == bool  # that of a structured array is structured, too
            hidden = np.count_nonzero(mask) if plain_mask else any(mask.tobytes()) * mask.size
        except Exception:  # of a class derived from this one
            hidden = np.ndarray.view(array, np.ndarray).size
        if hidden:
            raise errors.InputTypeError(
                f"{hidden:,} of the {array.size:,} values of {what} hide behind a mask, of which a "
                f"network knows nothing; say what they are, with x.filled(0), or take x.data as it is"
            )
    return np.ndarray.view(array, np.ndarray)


def all_finite(values: NDArray[Any]) -> bool:
    """Whether ``values`` holds neither NaN nor infinity."""
    if values.dtype.kind != "f":
        return True
    if not values.flags.c_contiguous:
        # What is repeated is looked at once, and a large array with gaps in parts.
        values = _once(values).squeeze()
        if values.size > _LARGE and not values.T.flags.c_contiguous:
            rows = max(1, _LARGE * len(values) // values.size)
            return all(all_finite(values[i : i + rows]) for i in range(0, len(values), rows))
    flat = values.ravel("K")
    if flat.size > _PART or flat.dtype.itemsize not in (4, 8):  # BLAS knows no other numbers
        return _finite_bits(flat)
    # A sum is finite only if all of its terms are, and so is a sum of squares, which BLAS makes
    # faster than anything else reads what a cache holds. Large values overflow it (in vdot without
    # a warning): then each is looked at.
    if flat.size <= _FEW:
        return math.isfinite(sum(flat.tolist())) or bool(np.isfinite(flat).all())
    for begin in range(0, flat.size, _SMALL):
        part = flat[begin : begin + _SMALL]
        if not math.isfinite(np.vdot(part, part)):
            return bool(np.isfinite(flat[begin:]).all())
    return True


def _finite_bits(flat: NDArray[Any]) -> bool:
    """:func:`all_finite` by the bits, whose largest are found as fast as memory is read.

    Read as whole numbers, all that is not finite is at least infinity: with a sign, what has
    none, and without a sign, what has one.
    """
    kind = flat.dtype.str
    if flat.dtype.itemsize > 8:  # no whole number is that long
        return bool(np.isfinite(flat).all())
    looks = [
        (
            flat.view(kind.replace("f", whole)),
            np.array(infinity, kind).view(kind.replace("f", whole)),
        )
        for whole, infinity in (("i", np.inf), ("u", -np.inf))
    ]
    return not any(
        bits[begin : begin + _PART].max() >= infinity
        for begin in range(0, flat.size, _PART)
        for bits, infinity in looks
    )


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
        try:
            array = given.get(self._name) if type(given) is dict and len(given) == 1 else given
        except Exception:  # of a key that is no plain text
            return None
        if (
            type(array) is np.ndarray
            and array.shape == self._passed
            and array.dtype is self._dtype
            and (not self._refuse_nonfinite or math.isfinite(np.vdot(array, array)))
        ):
            return {self._name: array}
        return None

    def __call__(
        self, arrays: tuple[Any, ...], named: Mapping[str, Any], *, leave_large: bool = False
    ) -> dict[str, NDArray[Any]]:
        """The arrays by input name. Raises a subclass of :class:`InputError`.

        ``leave_large``: whether large ones are finite, ``run_beside`` will see.
        """
        if len(arrays) == 1 and not named and (known := self.known(arrays[0])) is not None:
            return known
        if not named and len(arrays) == len(self._names) and isinstance(arrays[0], np.ndarray):
            feed: dict[str, Any] = dict(zip(self._names, arrays, strict=True))
        else:
            feed = self.bind(arrays, named)
        self.check_arrays(feed)
        self.check_shapes(feed)
        self.check_values(feed, leave_large=leave_large)
        return feed

    def run_beside(
        self, run: Callable[[Mapping[str, NDArray[Any]]], T], feed: Mapping[str, NDArray[Any]]
    ) -> T:
        """``run(feed)`` on a GPU, which need not wait until another thread has seen all of ``feed``.

        Raises :class:`NonFiniteInputError`, which comes before whatever ``run`` raises.
        """
        left = [spec.name for spec in self._specs if _is_slow(feed[spec.name])]
        if not left or not self._refuse_nonfinite:
            return run(feed)

        def look() -> None:
            for name in left:
                if not all_finite(feed[name]):
                    raise nonfinite_error(name, feed[name])

        with ThreadPoolExecutor(1) as pool:
            try:
                looking = pool.submit(look)
            except RuntimeError:  # no more threads, or the process ends
                look()
                return run(feed)
            try:
                outputs = run(feed)
            except Exception:
                looking.result()
                raise
            looking.result()
            return outputs

    def check_arrays(self, feed: dict[str, Any]) -> None:
        """All must be numpy arrays of the right types; those of derived classes become plain."""
        for spec, dtype in zip(self._specs, self._dtypes, strict=True):
            array = feed[spec.name]
            if type(array) is not np.ndarray and isinstance(array, np.ndarray):
                feed[spec.name] = array = plain(f"input {spec.name!r}", array)
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                raise _type_error(spec, array, self._way_out(spec, array))

    def check_shapes(self, feed: Mapping[str, NDArray[Any]]) -> None:
        """All must have the shapes that the graph takes; nothing else of them is looked at."""
        sizes: dict[str, int] = {}
        for spec in self._specs:
            array = feed[spec.name]
            shape = array.shape
            if len(shape) != len(spec.shape) or 0 in shape:
                raise _shape_error(spec, shape, sizes, self._way_out(spec, array))
            for expected, size in zip(spec.shape, shape, strict=True):
                # A name stands for one size: the first it meets, which setdefault notes.
                if expected != size and (
                    isinstance(expected, int) or sizes.setdefault(expected, size) != size
                ):
                    raise _shape_error(spec, shape, sizes, self._way_out(spec, array))

    def check_sizes(self, feed: Mapping[str, NDArray[Any]]) -> None:
        """None may be larger than what is made of it, where it has to be copied to be run."""
        for spec in self._specs:
            array = feed[spec.name]
            if not array.flags.c_contiguous and _bytes_of(array) > MOST_BYTES:
                raise errors.InputSizeError(
                    f"input {spec.name!r} of shape {array.shape} is repeated or has gaps, and to run it "
                    f"would take a copy of {_bytes_of(array) / 1e9:,.0f} GB, where {MOST_BYTES / 1e9:.0f} "
                    f"may be; run it in parts, or make it contiguous yourself"
                )

    def check_values(self, feed: Mapping[str, NDArray[Any]], *, leave_large: bool = False) -> None:
        """Arrays of the right shapes must be of a size that can be run, and finite."""
        self.check_sizes(feed)
        for spec in self._specs:
            array = feed[spec.name]
            if not self._refuse_nonfinite or (leave_large and _is_slow(array)):
                continue
            if not all_finite(array):
                raise nonfinite_error(spec.name, array)
        if len(self._specs) == 1 and array.size <= _SMALL and array.dtype in ("f4", "f8"):
            self._passed = array.shape

    def bind(self, arrays: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
        """What was given, by input name, unchecked but for the names."""
        specs = self._specs
        mapping: Mapping[str, Any] = {}
        if len(arrays) == 1 and isinstance(arrays[0], Mapping):
            mapping, arrays = self._read(arrays[0]), ()
        if len(arrays) > len(specs):
            raise errors.InputNameError(
                f"got {len(arrays)} arrays, the network takes {len(specs)}: {self._expected()}"
            )
        feed: dict[str, Any] = {
            spec.name: array for spec, array in zip(specs, arrays, strict=False)
        }
        named = self._read(named)
        doubled = [name for name in named if name in feed or name in mapping]
        unknown = [name for name in (*mapping, *named) if name not in self._names]
        if doubled or unknown:
            what = (
                f"no input {', '.join(map(repr, unknown))}"
                if unknown
                else f"{doubled[0]!r} given twice"
            )
            raise errors.InputNameError(f"{what}; the network takes {self._expected()}")
        feed.update(mapping)
        feed.update(named)
        missing = [spec.name for spec in specs if spec.name not in feed]
        if missing:
            raise errors.InputNameError(
                f"missing {', '.join(map(repr, missing))}; the network takes {self._expected()}"
            )
        return feed

    def _read(self, mapping: Mapping[Any, Any]) -> dict[str, Any]:
        """A mapping of anybody's as a dict; not much more of it than the network takes."""
        try:
            names = list(islice(mapping, len(self._names) + _MORE_NAMES))
            strange = [str(name) for name in names if not isinstance(name, str)]
            # Text is taken as it is, whatever a class derived from it says of itself.
            feed = {str.__str__(n): mapping[n] for n in names if isinstance(n, str)}
        except Exception as error:  # it may raise anything
            raise errors.InputTypeError(
                f"the {type(mapping).__name__} of inputs cannot be read ({errors.words_of(error)}); give a "
                f"dict of arrays by name"
            ) from error
        if strange:
            raise errors.InputNameError(
                f"no input {', '.join(map(repr, strange))}: names are text; the network takes "
                f"{self._expected()}"
            )
        return feed

    def _expected(self) -> str:
        return ", ".join(map(str, self._specs))

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
    if is_device_array(given):  # some libraries would copy it to the host to tell
        return False
    with suppress(Exception):  # whatever another library's object says to that
        if isinstance(given, list | tuple):  # images of different sizes are no one array
            given = given[0]
        known = isinstance(given, np.ndarray | memoryview)
        if known or hasattr(given, "__array__") or hasattr(given, "__array_interface__"):
            array = np.asarray(given)
            return array.dtype == np.uint8 or (array.ndim in (3, 4) and array.shape[-1] == 3)
    return False


def _is_slow(array: NDArray[Any]) -> bool:
    return array.size > _SLOW and array.dtype.kind == "f"


def _once(values: NDArray[Any]) -> NDArray[Any]:
    """A view of ``values`` without what is there only by being repeated."""
    return values[tuple(slice(1 if stride == 0 else None) for stride in values.strides)]


def _bytes_of(array: NDArray[Any]) -> int:
    """Of a contiguous copy: numpy's own count overflows."""
    return math.prod(array.shape) * array.itemsize


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
    once = _once(array)
    count = int(once.size - np.isfinite(once).sum()) * (array.size // once.size)
    return errors.NonFiniteInputError(
        f"input {name!r} holds {count:,} values that are NaN or infinite, of {array.size:,}; "
        f"mend them, or load with nonfinite='allow'"
    )
