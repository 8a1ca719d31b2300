"""How samples become runs of a network: where each input has its batch, and how large that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_export.errors import GraphError, OptionError
from repr_runtime.artifact.manifest import TensorSpec

Arrays = Mapping[str, NDArray[Any]]
Dims = tuple[int | str, ...]
BATCH = "N"
"""Stands for the batch in a shape that `--input NAME=SHAPE` gives."""


@dataclass(frozen=True)
class Layout:
    """Where each input has its samples, and how many there are in a run.

    ``axes`` is the batch axis of an input by name, None for one that has none and is the same
    for all samples of a run; an input that is not named has it first. ``size`` is the batch size
    of every run, None if any will do; ``alone`` says why there is one sample in each, where the
    graph's shapes promise more. ``at_once`` is how many fit into memory.
    """

    axes: Mapping[str, int | None]
    size: int | None
    alone: str = ""
    at_once: int = 250

    def run_of(self, samples: Arrays, rows: Sequence[int] | NDArray[np.intp]) -> Arrays:
        """The inputs of one run on those ``rows`` of ``samples``, which lie along first axes."""
        run: dict[str, NDArray[Any]] = {}
        for name, values in samples.items():
            axis = self.axes.get(name, 0)
            if axis is None:
                run[name] = np.asarray(values[rows[0]])
            else:
                run[name] = np.ascontiguousarray(np.moveaxis(values[np.asarray(rows)], 0, axis))
        return run

    def run_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """The shape of each input in a run of one batch, or of one sample where any will do."""
        whole = {}
        for name, shape in shapes.items():
            axis, size = self.axes.get(name, 0), self.size or 1
            whole[name] = shape if axis is None else (*shape[:axis], size, *shape[axis:])
        return whole

    def parts(self, count: int, at_once: int | None = None) -> list[NDArray[np.intp]]:
        """The rows of ``count`` samples in order: ``size`` at a time, or where any do, ``at_once``.

        A last run of a fixed size is filled up from the first rows.
        """
        size = self.size or min(at_once or self.at_once, self.at_once)
        starts = (np.arange(begin, begin + size) for begin in range(0, count, size))
        return [rows % count if self.size else rows[rows < count] for rows in starts]


FREE = Layout({}, None)
"""Every input has its samples along the first axis, and any number of them will do."""


def lay_out(
    specs: Sequence[TensorSpec], given: Mapping[str, Dims]
) -> tuple[Layout, dict[str, tuple[int, ...]]]:
    """The layout of a graph with these inputs, and the shape of one sample of each by name.

    ``given`` are shapes by name: one sample's, without the batch, or the whole with
    :data:`BATCH` where the batch stands, or the whole of an input that has no batch. The
    batch is the first axis of the first input that has any, where nothing else is given; others have it
    where they have the same size or symbol (of several of that size the first axis alone), or else
    their first or only free axis. Raises
    :class:`OptionError` for a shape that does not fit or is missing.
    """
    axes = batch_axes(specs, given)
    leader = _leader(specs)
    axis = axes[leader.name]
    batch = 1 if axis is None else leader.shape[axis]
    if batch == 0:
        raise GraphError("the graph's batch size is fixed to 0; write it with a free or a real one")
    size = batch if isinstance(batch, int) else None
    sizes: dict[str, int] = {}  # of free axes, by the symbol
    for spec in specs:
        _note_sizes(spec, given.get(spec.name), axes[spec.name], sizes)
    shapes = {spec.name: _sample_shape(spec, axes[spec.name], sizes, specs) for spec in specs}
    return Layout(axes, size), shapes


def batch_axes(specs: Sequence[TensorSpec], given: Mapping[str, Dims]) -> dict[str, int | None]:
    """The axis along which each input has its samples, by name; None for one that has none.

    ``given`` as for :func:`lay_out`. Raises :class:`OptionError` for the name of no input.
    """
    unknown = [name for name in given if name not in {spec.name for spec in specs}]
    if unknown:
        raise OptionError(
            f"--input names {unknown[0]!r}; the graph's inputs are {', '.join(map(str, specs))}"
        )
    leader = _leader(specs)
    leads = _batch_axis(leader, given.get(leader.name), None, first=True)
    batch = None if leads is None else leader.shape[leads]
    return {
        spec.name: leads
        if spec is leader
        else _batch_axis(spec, given.get(spec.name), batch, first=False)
        for spec in specs
    }


def _leader(specs: Sequence[TensorSpec]) -> TensorSpec:
    """The first input that has axes at all: it says what the batch is."""
    return next((spec for spec in specs if spec.shape), specs[0])


def _batch_axis(
    spec: TensorSpec, given: Dims | None, batch: int | str | None, *, first: bool
) -> int | None:
    if given is not None and BATCH in given:
        return given.index(BATCH)
    shape = spec.shape
    if given is not None and len(given) == len(shape) and not (first and shape):
        return None
    if first:
        return 0 if shape else None
    if batch is None or not shape:
        return None
    if isinstance(batch, int):
        places = [axis for axis, size in enumerate(shape) if size == batch]
        return places[0] if places and (places[0] == 0 or len(places) == 1) else None
    if batch in shape:
        return shape.index(batch)
    free = [axis for axis, size in enumerate(shape) if isinstance(size, str)]
    return free[0] if free and (free[0] == 0 or len(free) == 1) else None


def _note_sizes(
    spec: TensorSpec, given: Dims | None, axis: int | None, sizes: dict[str, int]
) -> None:
    """Take the sizes of the free axes of ``spec`` from what was given."""
    if given is None:
        return
    whole = list(given)
    if axis is not None and BATCH not in given:
        whole.insert(axis, BATCH)
    fits = len(whole) == len(spec.shape) and all(
        wanted == BATCH or isinstance(size, str) or size == wanted
        for size, wanted in zip(spec.shape, whole, strict=True)
    )
    if not fits:
        hint = ""
        if axis == 0 and len(given) == len(spec.shape):
            hint = "; give one sample's shape, without the batch"
        raise OptionError(
            f"--input {'x'.join(map(str, given))} does not fit the graph's input {spec}{hint}"
        )
    for size, wanted in zip(spec.shape, whole, strict=True):
        known = isinstance(size, str) and isinstance(wanted, int)
        if known and sizes.setdefault(str(size), int(wanted)) != wanted:
            raise OptionError(
                f"--input gives {size!r} of {spec} as {wanted} and as {sizes[str(size)]}; it is one size"
            )


def _sample_shape(
    spec: TensorSpec, axis: int | None, sizes: Mapping[str, int], specs: Sequence[TensorSpec]
) -> tuple[int, ...]:
    dims = [
        sizes.get(size, size) if isinstance(size, str) else size
        for index, size in enumerate(spec.shape)
        if index != axis
    ]
    if 0 in dims:
        raise GraphError(
            f"the input {spec} is always empty; take it out of the graph, or leave that size free"
        )
    free = [size for size in dims if isinstance(size, str)]
    if free:
        example = (
            "3x224x224"
            if len(dims) == 3
            else "x".join(str(size if isinstance(size, int) else 16) for size in dims)
        )
        name = "" if spec is specs[0] else f"{spec.name}="
        other = ""
        if len(free) == 1 and axis is not None and isinstance(spec.shape[axis], int):
            whole = "x".join("N" if size == free[0] else str(size) for size in spec.shape)
            other = f", or --input {spec.name}={whole} if {free[0]} is the batch"
        raise OptionError(
            f"the input {spec} leaves {', '.join(free)} free; give one sample's shape, such as "
            f"--input {name}{example}{other}"
        )
    return tuple(int(size) for size in dims)
