"""What a peer is, and what is asked of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from repr_bench.results.peers import MEASURES, Measure
from repr_runtime.artifact.manifest import FileEntry, Manifest

Arrays = Sequence[NDArray[Any]]


class PeerAbsentError(Exception):
    """The peer cannot take part; the message says why."""


@dataclass(frozen=True)
class Work:
    """What a peer is to run: a graph of an artifact. ``threads`` None leaves its default."""

    folder: Path
    manifest: Manifest
    graph: FileEntry
    precision: str
    threads: int | None

    @property
    def path(self) -> Path:
        """The ONNX file."""
        return self.folder / self.graph.path


@dataclass(frozen=True)
class Prepared:
    """A peer that is ready for one batch size.

    ``call`` runs the batch that it was prepared with once; ``burst`` runs it so many times, up to
    ``lanes`` of them at once, and returns when all are done. ``logits`` runs any arrays of
    that batch size, through the same compiled thing, and returns the first output (N, classes).
    ``samples_ns`` are the latencies that a peer measured by itself, which then has no ``call``.
    """

    logits: Callable[[Arrays], NDArray[Any]]
    call: Callable[[], object]
    burst: Callable[[int], object]
    settings: str
    lanes: int = 1
    samples_ns: tuple[int, ...] = ()


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
    raises :class:`PeerAbsentError` for a network that it cannot take.
    """

    name: str
    open: Callable[[Work], Runner]
    why_not: Callable[[], str | None]
    measures: tuple[Measure, ...] = MEASURES
    device: Literal["cpu", "gpu"] = "cpu"


def not_installed(module: str, way_out: str) -> Callable[[], str | None]:
    """A ``why_not`` that looks for ``module`` without importing it."""

    def why_not() -> str | None:
        if importlib.util.find_spec(module) is not None:
            return None
        return f"{module} is not installed: {way_out}"

    return why_not


def repeated(call: Callable[[], object]) -> Callable[[int], None]:
    """The ``burst`` of a peer with one caller."""

    def burst(times: int) -> None:
        for _ in range(times):
            call()

    return burst
