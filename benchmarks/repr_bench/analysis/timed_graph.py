"""A timed row as analyses see it: the graph in its open session, and what was fed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from repr_runtime.artifact.reading import read_file

if TYPE_CHECKING:
    from repr_runtime import Session


@dataclass(frozen=True)
class TimedGraph:
    """One graph at one batch size; ``emulated`` where a CPU computes its precision in another."""

    label: str
    precision: str
    batch: int
    session: Session
    arrays: tuple[NDArray[Any], ...] = ()
    emulated: bool = False

    @property
    def onnx(self) -> bytes:
        """The ONNX file that runs, or that the engine was built from."""
        entry = self.session.manifest.file(self.session.graph)
        assert entry is not None, "the session was loaded from it"
        return read_file(self.session.path, entry)
