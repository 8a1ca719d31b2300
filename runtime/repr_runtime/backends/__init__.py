"""The libraries that run graphs, behind one small protocol; each is imported when it is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from repr_runtime.manifest import TensorSpec


class Backend(Protocol):
    """A graph that is ready to run.

    ``run`` may be called from several threads at once. The arrays that it returns belong
    to the caller: the backend keeps no reference to them and never writes to them again.
    """

    name: str
    device: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs, in the order of ``outputs``, for inputs that were checked already."""
        ...

    def close(self) -> None:
        """Give back what the backend holds.

        A ``run`` that another thread is in goes on to its end; a later one raises
        :class:`SessionClosedError`.
        """
        ...
