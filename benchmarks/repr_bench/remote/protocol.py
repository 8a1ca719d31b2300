"""What both ways to ask a server have in common: its answers, errors, and the protocol's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from repr_bench.errors import BenchError, UsageError
from repr_runtime import BatcherStats

Arrays = Mapping[str, NDArray[Any]]
ANSWER_SECONDS = 30.0
"""How long an answer is waited for."""


class RemoteError(BenchError):
    """The server failed, or answered what it should not have."""


class NoModelError(RemoteError):
    """The server has no model of that name."""


@dataclass(frozen=True)
class Tensor:
    """An input or output as a server describes it; -1 in its shape is a size that is free."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name!r} {self.datatype} {list(self.shape)}"


@dataclass(frozen=True)
class Metadata:
    """What a server says of a model; without ``inputs`` or ``outputs`` it says nothing of them."""

    version: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class OpenLoop(Protocol):
    """A server that is sent queries, however many are still being answered."""

    def submit(self, sample: Any) -> Future[Any]:
        """Send it; the future fails with ``QueueFullError`` where the server refuses it."""
        ...

    def stats(self) -> BatcherStats:
        """What the server did, as far as it tells."""
        ...

    def close(self, *, drain: bool = True) -> None:
        """Leave the connections."""
        ...


class Client(Protocol):
    """One model of one server. Any thread may ask; each call raises :class:`RemoteError`."""

    @property
    def how(self) -> str:
        """In words."""
        ...

    def metadata(self) -> Metadata:
        """What the model takes and gives. Raises :class:`NoModelError`."""
        ...

    def models(self) -> list[str]:
        """The names of all models; none where the server does not say it."""
        ...

    def infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs by name, as they came."""
        ...

    def open_loop(self, samples: Mapping[int, Arrays], seconds: float | None) -> OpenLoop:
        """To be sent any of ``samples``, which stand under the ``id`` of what is submitted.

        An answer is of use for ``seconds``, which the server is told.
        """
        ...

    def close(self) -> None:
        """Leave its connections."""
        ...


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The protocol's name of a type: ``FP32``, ``INT64``, ``BOOL``."""
    if dtype.kind == "b":
        return "BOOL"
    return f"FP{8 * dtype.itemsize}" if dtype.kind == "f" else dtype.name.upper()


@cache
def dtype_of(datatype: object) -> np.dtype[Any]:
    """The type of that name. Raises :class:`RemoteError`."""
    name = str(datatype)
    word = "bool" if name == "BOOL" else name.lower().replace("fp", "float")
    try:
        dtype = np.dtype(word)
        if datatype_of(dtype) == name:
            return dtype
    except TypeError:
        pass
    raise RemoteError(f"it answers in {name!r:.30}, which has no numbers here")


def from_raw(datatype: object, shape: Sequence[int], raw: bytes) -> NDArray[Any]:
    """The array whose bytes are ``raw``. Raises :class:`RemoteError`."""
    dtype = dtype_of(datatype)
    try:
        return np.frombuffer(raw, dtype).reshape(shape)
    except (ValueError, TypeError) as error:
        raise RemoteError(f"it answers {len(raw):,} bytes for {datatype} {shape!r:.60}") from error


def from_numbers(datatype: object, shape: Sequence[int], numbers: Any) -> NDArray[Any]:
    """The array of these numbers, nested or not. Raises :class:`RemoteError`."""
    dtype = dtype_of(datatype)
    try:
        return np.asarray(numbers, dtype).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise RemoteError(f"its numbers are no {datatype} {shape!r:.60} ({error})") from error


def needs(error: ModuleNotFoundError, what: str) -> UsageError:
    """The error of a library that is not installed."""
    return UsageError(f"{what} needs {error.name}: pip install 'repr-deploy[bench,serve]'")
