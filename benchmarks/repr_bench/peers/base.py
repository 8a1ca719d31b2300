"""What a peer is: another way to run an artifact's network, on the same inputs and threads.

Its library is imported when it is opened.
"""

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from repr_bench.results.graph import Graph
from repr_bench.results.peers import MEASURES, Measure
from repr_runtime import Session
from repr_runtime.artifact.manifest import FileEntry, Manifest

Arrays = Sequence[NDArray[Any]]


class PeerAbsentError(Exception):
    """The peer cannot take part; the message says why."""


@dataclass(frozen=True)
class Workload:
    """What a peer is to run: a graph of an artifact. ``threads`` None leaves its default.

    ``label`` is the artifact's row, and ``session`` one that runs the graph here. A peer that
    compiles has ``compile_seconds`` for all batch sizes together. ``right`` says whether what a
    peer has prepared for a batch size answers as ours does.
    """

    folder: Path
    manifest: Manifest
    graph: FileEntry
    precision: str
    threads: int | None
    label: str = ""
    session: Session | None = None
    compile_seconds: float = math.inf
    right: Callable[["Prepared", int], bool] = lambda _prepared, _batch: True

    @property
    def path(self) -> Path:
        """The ONNX file."""
        return self.folder / self.graph.path

    @property
    def graphs(self) -> tuple[FileEntry, ...]:
        """All of the precision: one, or one for each target, which compute the same."""
        files = (entry for entry in self.manifest.files if entry.role == "graph")
        return tuple(entry for entry in files if entry.precision == self.precision)


@dataclass(frozen=True)
class Prepared:
    """A peer that is ready for one batch size.

    ``call`` runs the batch that it was prepared with once. ``logits`` runs any arrays of that
    batch size, through the same compiled thing, and returns the first output (N, classes).
    ``at_once`` runs the batch so many times, up to ``lanes`` of them at once, and returns when
    all are done; without it, one call follows the other. ``samples_ns`` are the latencies that a
    peer measured by itself, which then has no ``call``. ``answers`` says of a graph what this
    peer gets right, where that is not the graph's own matter. ``on_gpu`` runs the batch once, its
    inputs and outputs lying on the GPU, and returns when it is done there; None where none can.
    """

    logits: Callable[[Arrays], NDArray[Any]]
    call: Callable[[], object]
    settings: str
    at_once: Callable[[int], object] | None = None
    lanes: int = 1
    samples_ns: tuple[int, ...] = ()
    answers: Callable[[Graph], Graph] | None = None
    on_gpu: Callable[[], object] | None = None

    def burst(self, times: int) -> None:
        """Run the batch ``times`` times, as many at once as there are lanes."""
        if self.at_once is not None:
            self.at_once(times)
            return
        for _ in range(times):
            self.call()


class Runner(Protocol):
    """A peer with a network loaded."""

    def prepare(self, arrays: Arrays) -> Prepared:
        """Make ready for these inputs, compiled for their batch size if need be."""
        ...

    def close(self) -> None:
        """Give back what it holds; also what it prepared can then not be used."""
        ...


@dataclass(frozen=True)
class Peer:
    """One other way to run a network: a name, what it is measured in, and how it is opened.

    ``why_not`` says why it cannot run here, in a sentence with the way out, or None. ``open``
    raises :class:`PeerAbsentError` for a network that it cannot take. A ``server`` is asked,
    whatever it runs on.
    """

    name: str
    open: Callable[[Workload], Runner]
    why_not: Callable[[], str | None]
    measures: tuple[Measure, ...] = MEASURES
    device: Literal["cpu", "gpu"] = "cpu"
    server: bool = False


def not_installed(module: str, way_out: str) -> Callable[[], str | None]:
    """A ``why_not`` that looks for ``module`` without importing it."""

    def why_not() -> str | None:
        if importlib.util.find_spec(module) is not None:
            return None
        return f"{module} is not installed: {way_out}"

    return why_not
