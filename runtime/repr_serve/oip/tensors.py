"""Tensors of the Open Inference Protocol: bytes or numbers to arrays, checked before they are made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from repr_runtime import errors
from repr_runtime.artifact.manifest import TensorSpec
from repr_serve.errors import RequestError
from repr_serve.model import Model

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"UINT{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
}
"""The protocol's names of numpy's types."""

NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_HALVES = ("FP16", "BF16")
"""What is taken for FP32 as well: each such number is one of FP32's."""

_MOST_DIMENSIONS = 64
_KINDS: dict[type, str] = {
    str: "a text",
    dict: "an object",
    list: "a list among others",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output that is asked for; ``binary``: as bytes rather than as numbers in JSON."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """How ``length`` bytes are an input's array: checked against one another already."""

    name: str
    dtype: np.dtype[Any]
    datatype: str
    shape: tuple[int, ...]
    count: int
    length: int

    def array(self, buffer: bytes, offset: int = 0) -> NDArray[Any]:
        """The array that begins at ``offset``, read-only; where that is aligned, a view.

        Raises :class:`RequestError`.
        """
        dtype = self.dtype
        if self.length != self.count * dtype.itemsize:
            return self._widened(buffer, offset)
        array = np.frombuffer(buffer, dtype, self.count, offset)
        if not array.flags.aligned:
            # numpy's copy would give the others a turn, and wait for its own.
            array = np.frombuffer(buffer[offset : offset + self.length], dtype)
        if dtype.kind == "b" and array.view(np.uint8).max(initial=0) > 1:
            raise RequestError(f"input {self.name!r}: a BOOL is one byte, 0 or 1")
        return array.reshape(self.shape)

    def _widened(self, buffer: bytes, offset: int) -> NDArray[Any]:
        """Half-precision numbers as float32, which has all of them."""
        if self.datatype == "FP16":
            half = np.frombuffer(buffer, np.float16, self.count, offset)
            return half.astype(np.float32).reshape(self.shape)
        bits = np.frombuffer(buffer, np.uint16, self.count, offset).astype(np.uint32) << 16
        return bits.view(np.float32).reshape(self.shape)


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives; the specs by name."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    dtypes: Mapping[str, np.dtype[Any]] = field(init=False)

    def __post_init__(self) -> None:
        dtypes = {name: np.dtype(spec.dtype) for name, spec in self.inputs.items()}
        object.__setattr__(self, "dtypes", dtypes)

    def input(self, name: object) -> TensorSpec:
        spec = self.inputs.get(name) if isinstance(name, str) else None
        if spec is None:
            takes = ", ".join(map(describe, self.inputs.values()))
            raise errors.InputNameError(f"no input {name!r:.60}; the model takes {takes}")
        return spec

    def output(self, name: object) -> str:
        if not isinstance(name, str) or name not in self.outputs:
            raise RequestError(
                f"no output {name!r:.60}; the model gives {', '.join(map(repr, self.outputs))}"
            )
        return name

    def layout(self, name: object, datatype: object, shape: object, length: int) -> "Layout":
        """Of an input that comes as ``length`` bytes, row by row, little-endian.

        FP16 and BF16 are taken for FP32, too. Raises :class:`InputError` and
        :class:`RequestError`.
        """
        spec = self.input(name)
        dtype = self.dtypes[spec.name]
        sizes, count = _sizes(spec, shape)
        size = dtype.itemsize
        if datatype != NAMES[dtype]:
            if spec.dtype != "float32" or datatype not in _HALVES:
                raise _wrong_datatype(spec, datatype)
            size = 2
        if length != count * size:
            raise errors.InputShapeError(
                f"input {spec.name!r} has {length:,} bytes, expected {count * size:,}: "
                f"{datatype} of shape {list(sizes)}"
            )
        return Layout(spec.name, dtype, str(datatype), sizes, count, length)

    def of_values(
        self, name: object, datatype: object, shape: object, values: object
    ) -> NDArray[Any]:
        """The input's array out of a list of numbers, nested as ``shape`` says, or flat.

        Raises :class:`InputError` and :class:`RequestError`.
        """
        spec = self.input(name)
        dtype = self.dtypes[spec.name]
        sizes, count = _sizes(spec, shape)
        if datatype != NAMES[dtype]:
            raise _wrong_datatype(spec, datatype)
        flat, nested = _flat(spec, values)
        if len(flat) != count or nested not in ((count,), sizes):
            raise errors.InputShapeError(
                f"input {spec.name!r}: data has {len(flat):,} values of shape {list(nested)}, the "
                f"shape given is {list(sizes)}"
            )
        found = np.array(flat)
        large = spec.dtype == "uint64" and found.dtype.kind == "f"  # and small ones beside them
        if large and all(type(value) is int and 0 <= value < 2**64 for value in flat):
            found = np.array(flat, np.uint64)
        return _cast(spec, found, dtype).reshape(sizes)


_SIGNATURES: WeakKeyDictionary[Model, Signature] = WeakKeyDictionary()


def signature_of(model: Model) -> Signature:
    """What ``model`` takes and gives; made once."""
    found = _SIGNATURES.get(model)
    if found is None:
        inputs, outputs = ({s.name: s for s in specs} for specs in (model.inputs, model.outputs))
        found = _SIGNATURES[model] = Signature(inputs, outputs)
    return found


def describe(spec: TensorSpec) -> str:
    """A tensor in the protocol's words: ``'input' FP32 [-1, 3, 32, 32]``."""
    return f"{spec.name!r} {NAMES[np.dtype(spec.dtype)]} {shape_of(spec)}"


def shape_of(spec: TensorSpec) -> list[int]:
    """The protocol's shape: -1 for each size that is free."""
    return [size if isinstance(size, int) else -1 for size in spec.shape]


def _sizes(spec: TensorSpec, shape: object) -> tuple[tuple[int, ...], int]:
    """The shape and the product of its sizes; nothing is allocated by it."""
    if not isinstance(shape, list | tuple) or len(shape) > _MOST_DIMENSIONS:
        raise RequestError(f"input {spec.name!r}: shape is {shape!r:.60}, expected a list of sizes")
    if any(type(size) is not int or not 0 <= size < 2**63 for size in shape):
        raise RequestError(
            f"input {spec.name!r}: shape is {list(shape)!r:.80}, expected whole numbers from 0 on"
        )
    count = math.prod(shape)
    if not count and math.prod(filter(None, shape)) >= 2**48:  # numpy counts what is not 0 as well
        raise RequestError(
            f"input {spec.name!r}: shape is {list(shape)!r:.80}, there is none so large"
        )
    return tuple(shape), count


def _flat(spec: TensorSpec, values: object) -> tuple[list[Any], tuple[int, ...]]:
    """The numbers in nested lists, and the shape of those; texts never become an array.

    Numpy makes each element of such as long as the longest.
    """
    sizes: list[int] = []
    level: Any = [values]
    while level and type(level[0]) is list and set(map(type, level)) == {list}:
        lengths = set(map(len, level))
        if len(lengths) > 1 or len(sizes) >= _MOST_DIMENSIONS:
            what = "lists that differ in length" if len(lengths) > 1 else "lists without end"
            raise RequestError(f"input {spec.name!r}: data is no array of numbers but {what}")
        sizes.append(lengths.pop())
        level = list(chain.from_iterable(level))
    try:
        sum(level)  # the quickest way to see that they are
    except TypeError:
        sizes = []
    if not sizes:
        said = ", ".join(sorted({_KINDS.get(type(value), "a number") for value in level}))
        raise RequestError(f"input {spec.name!r}: data is {said}, expected a list of numbers")
    return level, tuple(sizes)


def _wrong_datatype(spec: TensorSpec, datatype: object) -> errors.InputDtypeError:
    return errors.InputDtypeError(
        f"input {spec.name!r} is {datatype!r:.20}, the model takes {describe(spec)}"
    )


def _cast(spec: TensorSpec, found: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """``found`` as ``dtype``, if each of its numbers is one of those; a float is rounded."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):  # infinity is refused by whoever runs it
            return found.astype(dtype)
    whole = found.dtype.kind in ("b" if dtype.kind == "b" else "iu")
    if whole and dtype.kind != "b":
        limits = np.iinfo(dtype)
        whole = not found.size or (
            int(found.min()) >= limits.min and int(found.max()) <= limits.max
        )
    if not whole:
        raise RequestError(f"input {spec.name!r}: data has values that {NAMES[dtype]} has not")
    return found.astype(dtype)
