"""What is run on both sides of an export: real images and noise, in batches that fit."""

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from repr_export.cores import on_cores
from repr_export.errors import (
    GraphError,
    OptionError,
    RunError,
    first_line,
    in_one_line,
    innermost,
)
from repr_export.layout import BATCH, FREE, Arrays, Dims, Layout, batch_axes
from repr_models.data.cifar10 import bundled_subset
from repr_runtime.artifact.manifest import PreprocessingInfo, TensorSpec
from repr_runtime.machine import usable_cores
from repr_runtime.preprocess import preprocess

_WORK = 20e9  # multiply-adds to spend on each set of samples
_FEWEST, _MOST = 8, 256
_NOISE_BYTES = 8  # of a value, before it is rounded to the input's type
_LARGEST = 8 * 2**30
"""Bytes of noise that are made for one input."""
AT_ONCE = 32
"""The samples of a run where any number will do: more are no faster."""
_NEUTRAL_MEAN, _NEUTRAL_STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

Network = Callable[[Arrays], dict[str, NDArray[Any]]]


@dataclass(frozen=True)
class SampleSet:
    """Inputs to compare on, by name, and a sentence that says what they are.

    Each array has its samples along the first axis, wherever the graph's input has its batch:
    ``layout`` says how they become runs.
    """

    name: str
    description: str
    inputs: dict[str, NDArray[Any]]
    layout: Layout = FREE

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def run_of(self, rows: Sequence[int] | NDArray[np.intp]) -> Arrays:
        """The inputs of one run on those samples."""
        return self.layout.run_of(self.inputs, rows)

    def proof_runs(self) -> list[NDArray[np.intp]]:
        """The rows of each run of a proof: of the graph's batch size, or of 1, 2 and the rest."""
        if self.layout.size is not None:
            return self.layout.parts(len(self))
        first = [part for part in np.split(np.arange(min(len(self), 3)), (1,)) if len(part)]
        return first + [part + 3 for part in self.layout.parts(len(self) - 3)]


class CpuGraph:
    """An ONNX graph opened on the CPU, to be called with inputs by name.

    ``input`` is the name of its first input, ``batch`` that one's first dimension where it is
    fixed, ``dtypes`` are numpy's by input name. ``threads`` is how many compute one run (0: the library's
    choice); several may call it at once. ``as_floats`` computes what lies between QuantizeLinear and
    DequantizeLinear in floating point, with the weights dequantized once. Raises
    :class:`GraphError` if it cannot be opened, or run (:class:`RunError`).
    """

    def __init__(
        self, graph: bytes, *, optimize: bool = True, threads: int = 0, as_floats: bool = False
    ) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        if as_floats:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        with _graph_errors(GraphError):
            # The library prints what it does where it falls back.
            self._session = ort.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        self.dtypes = {i.name: _numpy_type(i.type) for i in self._session.get_inputs()}
        self._outputs = [output.name for output in self._session.get_outputs()]
        entry = next(iter(self._session.get_inputs()), None)
        first = entry.shape[0] if entry is not None and entry.shape else None
        self.input: str = "" if entry is None else entry.name
        self.batch = first if isinstance(first, int) else None

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        with _graph_errors(RunError):
            outputs = self._session.run(self._outputs, dict(inputs))
        return dict(zip(self._outputs, outputs, strict=True))


def _numpy_type(kind: str) -> str:
    """The numpy type of what ONNX Runtime calls ``tensor(float)``."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


@contextmanager
def _graph_errors(kind: type[GraphError]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # ONNX Runtime's exceptions share no base but this
        raise kind(f"ONNX Runtime cannot run the graph: {in_one_line(error)}") from error


def sample_sets(
    specs: Sequence[TensorSpec],
    layout: Layout,
    shapes: Mapping[str, tuple[int, ...]],
    preprocessing: PreprocessingInfo | None,
    multiply_adds: int | None,
    integers: Mapping[str, NDArray[Any]],
) -> tuple[SampleSet, ...]:
    """Real images, where the network takes RGB images, and noise of about their statistics.

    The number of samples follows from the network's size. ``shapes`` are those of one sample by
    input name, ``integers`` the values that an integer input may have.
    """
    count = int(np.clip(_WORK / max(multiply_adds or 1e9, 1), _FEWEST, _MOST))
    size = layout.size or 1
    for spec in specs:
        of_one = _NOISE_BYTES * prod(shapes[spec.name])
        if size * of_one > _LARGEST:
            raise GraphError(
                f"a run of the input {spec} takes {size * of_one:,} bytes of noise, at most {_LARGEST:,} "
                f"are made; write the graph with smaller inputs, or give real ones with --samples FILE.npz"
            )
        count = min(count, _LARGEST // of_one)
    count = -(-count // size) * size  # whole batches
    generator = np.random.default_rng(0)
    noise = {
        spec.name: _noise(generator, spec, (count, *shapes[spec.name]), integers) for spec in specs
    }
    sets = [SampleSet("noise", "Gaussian noise, mean 0, deviation 1, seed 0", noise, layout)]
    shape = shapes[specs[0].name]
    images = len(specs) == 1 and specs[0].dtype == "float32" and layout.axes == {specs[0].name: 0}
    if images and len(shape) == 3 and shape[0] == 3:
        crop = (shape[1], shape[2])
        info = preprocessing or PreprocessingInfo(None, crop, _NEUTRAL_MEAN, _NEUTRAL_STD)
        info = replace(info, resize=max(info.resize or 0, *crop))  # the square images fill the crop
        subset = bundled_subset()
        chosen = np.resize(np.arange(len(subset)), count)
        inputs = {specs[0].name: preprocess(subset.images[chosen], info)}
        description = f"CIFAR-10 test images, the first {count} of the bundled subset"
        sets.insert(0, SampleSet("real", description, inputs, layout))
    return tuple(sets)


def _noise(
    generator: np.random.Generator,
    spec: TensorSpec,
    shape: tuple[int, ...],
    integers: Mapping[str, NDArray[Any]],
) -> NDArray[Any]:
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    # 0 and 1 are valid as indices, masks and flags alike.
    return generator.choice(integers.get(spec.name, np.arange(2)), shape).astype(dtype)


@contextmanager
def _npz(path: Path, option: str) -> Iterator[Mapping[str, NDArray[Any]]]:
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):  # numpy would take it for a pickle
                raise ValueError("it is no .npz file")
        with np.load(path, allow_pickle=False) as content:
            yield content
    except Exception as error:  # what zipfile, zlib and numpy raise shares no base
        raise OptionError(
            f"{option} {path} cannot be read: {first_line(error)}; give a file of numpy.savez "
            f"with an array for each input"
        ) from error


def require_readable(path: Path, option: str) -> None:
    """Raise :class:`OptionError`, which names ``option``, if ``path`` is no file of ``numpy.savez``."""
    with _npz(path, option):
        pass


def read_arrays(path: Path, option: str) -> dict[str, NDArray[Any]]:
    """The arrays of a file of ``numpy.savez`` by name; raises :class:`OptionError`, naming ``option``."""
    with _npz(path, option) as content:
        arrays = dict(content)
    for name, array in arrays.items():
        if not array.size:
            raise OptionError(
                f"{option} {path}: {name!r} is empty, {list(array.shape)}; give it a size of 1 or more"
            )
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise OptionError(f"{option} {path}: {name!r} holds NaN; mend it")
    return arrays


def read_samples(path: Path, specs: Sequence[TensorSpec], option: str) -> dict[str, NDArray[Any]]:
    """The arrays of a file of ``numpy.savez`` for each input, the batch included, by name.

    Raises :class:`OptionError`, which names ``option``, for a file that is missing, cannot be read, or
    does not fit.
    """
    arrays = read_arrays(path, option)
    if set(arrays) != {spec.name for spec in specs}:
        raise OptionError(
            f"{option} {path} holds {', '.join(arrays) or 'nothing'}; the graph's inputs are "
            f"{', '.join(map(str, specs))}"
        )
    for spec in specs:
        array = arrays[spec.name]
        if len(array.shape) != len(spec.shape) or array.dtype != spec.dtype:
            raise OptionError(
                f"{option} {path}: {spec.name!r} is {array.dtype}{list(array.shape)}, the graph takes {spec}"
            )
    return arrays


def given_shapes(
    specs: Sequence[TensorSpec], given: dict[str, Dims], file: Path | None
) -> tuple[dict[str, Dims], dict[str, NDArray[Any]] | None]:
    """The shapes of these inputs, by name, and the arrays in ``file``, if there is one.

    Where there are arrays the shapes are theirs. Raises :class:`OptionError`.
    """
    if file is None:
        return given, None
    arrays = read_samples(file, specs, "--samples")
    shapes: dict[str, Dims] = {}
    for name, axis in batch_axes(specs, given).items():
        shape = arrays[name].shape
        shapes[name] = shape if axis is None else (*shape[:axis], BATCH, *shape[axis + 1 :])
    return shapes, arrays


def sample_set(arrays: Arrays, layout: Layout, description: str) -> SampleSet:
    """``arrays`` as the graph takes them, with any number of samples along each batch axis.

    Raises :class:`OptionError` if they are not as many in each.
    """
    counts = {arrays[n].shape[axis] for n, axis in layout.axes.items() if axis is not None}
    if len(counts) > 1:
        raise OptionError(
            f"{description} has {sorted(counts)} samples; give as many for each input"
        )
    count = counts.pop() if counts else 1
    inputs = {
        name: np.broadcast_to(arrays[name], (count, *arrays[name].shape))
        if axis is None
        else np.moveaxis(arrays[name], axis, 0)
        for name, axis in layout.axes.items()
    }
    return SampleSet("given", f"{count} samples of {description}", inputs, layout)


def settle(sets: tuple[SampleSet, ...], network: Network) -> tuple[SampleSet, ...]:
    """``sets`` as ``network`` can run them: with one sample a run, where it takes no two at once.

    Raises :class:`GraphError` if it does not take one either.
    """
    first = sets[0]
    if first.layout.size is not None:
        return sets
    try:
        network(first.run_of([0, min(1, len(first) - 1)]))
    except GraphError as error:
        network(first.run_of([0]))
        layout = replace(first.layout, size=1, alone=_one_at_a_time(error))
        return tuple(replace(samples, layout=layout) for samples in sets)
    return sets


def _one_at_a_time(error: GraphError) -> str:
    return f"it takes one sample at a time ({in_one_line(innermost(error))})"


def run_graph(
    graph: bytes, samples: SampleSet, *, as_floats: bool = False
) -> dict[str, NDArray[Any]]:
    """:func:`run_samples` of ``graph``, with a core to each run; ``as_floats`` as of :class:`CpuGraph`."""
    cores, layout = usable_cores(), samples.layout
    lanes = min(cores, layout.at_once)
    at_once = max(1, min(AT_ONCE, layout.at_once // lanes, -(-len(samples) // lanes)))
    parts = layout.parts(len(samples), at_once)
    if lanes > 1 and len(parts) >= lanes:
        network = CpuGraph(graph, threads=1, as_floats=as_floats)
        runs = [*on_cores(lambda part: network(samples.run_of(part)), parts)]
    else:
        network = CpuGraph(graph, as_floats=as_floats)
        runs = [network(samples.run_of(part)) for part in parts]
    return _joined(runs, parts, len(samples))


def run_samples(
    network: Network, samples: SampleSet, at_once: int = AT_ONCE
) -> dict[str, NDArray[Any]]:
    """``network`` on all of ``samples``: a run's batch at a time, or where that is free, ``at_once``.

    Each output has its samples along the first axis; where it has no row for each, what the
    runs gave stands there one after the other, as one row of numbers.
    """
    parts = samples.layout.parts(len(samples), at_once)
    runs = [network(samples.run_of(part)) for part in parts]
    return _joined(runs, parts, len(samples))


def _joined(
    runs: Sequence[Mapping[str, NDArray[Any]]], parts: Sequence[NDArray[np.intp]], count: int
) -> dict[str, NDArray[Any]]:
    joined = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        per_sample = all(
            v.ndim and len(v) == len(part) and v.shape[1:] == values[0].shape[1:]
            for v, part in zip(values, parts, strict=True)
        )
        joined[name] = (
            np.concatenate(values)[:count]
            if per_sample
            else np.concatenate([*map(np.ravel, values)])
        )
    return joined
