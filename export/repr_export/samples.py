"""What is run on both sides of an export: real images and noise, in batches that fit."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from repr_export.errors import GraphError, OptionError, first_line
from repr_models.data.cifar10 import bundled_subset
from repr_runtime.artifact.manifest import PreprocessingInfo, TensorSpec
from repr_runtime.preprocess import preprocess

_WORK = 20e9  # multiply-adds to spend on each set of samples
_FEWEST, _MOST = 8, 256
_NEUTRAL_MEAN, _NEUTRAL_STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

Arrays = Mapping[str, NDArray[Any]]
Network = Callable[[Arrays], dict[str, NDArray[Any]]]


@dataclass(frozen=True)
class SampleSet:
    """Inputs to compare on, by name, and a sentence that says what they are."""

    name: str
    description: str
    inputs: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


class CpuGraph:
    """An ONNX graph opened on the CPU, to be called with inputs by name.

    ``input`` is the name of its first input, ``batch`` that one's first dimension where it is
    fixed. Raises :class:`GraphError` if it cannot be opened, or run.
    """

    def __init__(self, graph: bytes, *, optimize: bool = True) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        with _graph_errors():
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]
        entry = next(iter(self._session.get_inputs()), None)
        first = entry.shape[0] if entry is not None and entry.shape else None
        self.input: str = "" if entry is None else entry.name
        self.batch = first if isinstance(first, int) else None

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        with _graph_errors():
            outputs = self._session.run(self._outputs, dict(inputs))
        return dict(zip(self._outputs, outputs, strict=True))


@contextmanager
def _graph_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # ONNX Runtime's exceptions share no base but this
        raise GraphError(f"ONNX Runtime cannot run the graph: {first_line(error)}") from error


def sample_sets(
    specs: Sequence[TensorSpec],
    preprocessing: PreprocessingInfo | None,
    input_shape: tuple[int, ...] | None,
    multiply_adds: int | None,
) -> tuple[SampleSet, ...]:
    """Real images, where the network takes RGB images, and noise of about their statistics.

    The number of samples follows from the network's size. ``input_shape`` stands in for
    free dimensions behind the batch. Raises :class:`OptionError` if one is still free.
    """
    count = int(np.clip(_WORK / max(multiply_adds or 1e9, 1), _FEWEST, _MOST))
    batch = specs[0].shape[0] if specs[0].shape else None
    if isinstance(batch, int):
        count = -(-count // batch) * batch  # whole batches
    shapes = {spec.name: _sample_shape(spec, input_shape, len(specs)) for spec in specs}
    generator = np.random.default_rng(0)
    noise = {spec.name: _noise(generator, spec, (count, *shapes[spec.name])) for spec in specs}
    sets = [SampleSet("noise", "Gaussian noise, mean 0, deviation 1, seed 0", noise)]
    shape = shapes[specs[0].name]
    if len(specs) == 1 and specs[0].dtype == "float32" and len(shape) == 3 and shape[0] == 3:
        crop = (shape[1], shape[2])
        info = preprocessing or PreprocessingInfo(max(crop), crop, _NEUTRAL_MEAN, _NEUTRAL_STD)
        subset = bundled_subset()
        chosen = np.resize(np.arange(len(subset)), count)
        images = preprocess(subset.images[chosen], info)
        description = f"CIFAR-10 test images, the first {count} of the bundled subset"
        sets.insert(0, SampleSet("real", description, {specs[0].name: images}))
    return tuple(sets)


def _sample_shape(
    spec: TensorSpec, input_shape: tuple[int, ...] | None, inputs: int
) -> tuple[int, ...]:
    sizes = spec.shape[1:]
    if input_shape is not None and inputs == 1:
        fits = len(sizes) == len(input_shape) and all(
            isinstance(a, str) or a == b for a, b in zip(sizes, input_shape, strict=True)
        )
        if not fits:
            raise OptionError(
                f"--input {'x'.join(map(str, input_shape))} does not fit the graph's input {spec}"
            )
        return input_shape
    free = [size for size in sizes if isinstance(size, str)]
    if free:
        raise OptionError(
            f"the input {spec} leaves {', '.join(free)} free; give one sample's shape, such as "
            f"--input 3x224x224"
        )
    return tuple(size for size in sizes if isinstance(size, int))


def _noise(
    generator: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...]
) -> NDArray[Any]:
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    # 0 and 1 are valid as indices, masks and flags alike.
    return generator.integers(0, 2, shape).astype(dtype)


def batches(count: int, size: int, *, whole: bool) -> Iterator[NDArray[np.intp]]:
    """The rows of ``count`` samples in order, ``size`` at a time.

    ``whole``: the last batch is filled up from the first rows, for graphs of one batch size.
    """
    for begin in range(0, count, size):
        rows = np.arange(begin, begin + size)
        yield rows % count if whole else rows[: count - begin]


def run_in_batches(network: Network, inputs: Arrays, batch: int | None) -> dict[str, NDArray[Any]]:
    """``network`` on all of ``inputs``: in batches of ``batch``, or where that is free, of 1, 2 and more."""
    count = len(next(iter(inputs.values())))
    if batch is None:
        rows = [part for part in np.split(np.arange(count), (1, 3)) if len(part)]
    else:
        rows = list(batches(count, batch, whole=True))
    return _run(network, inputs, rows, count)


def run_in_parts(
    network: Network, inputs: Arrays, batch: int | None, at_once: int = 250
) -> dict[str, NDArray[Any]]:
    """``network`` on many ``inputs``: ``batch`` at a time, or where that is free, ``at_once``."""
    count = len(next(iter(inputs.values())))
    rows = batches(count, batch or at_once, whole=batch is not None)
    return _run(network, inputs, rows, count)


def _run(
    network: Network, inputs: Arrays, rows: Iterable[NDArray[np.intp]], count: int
) -> dict[str, NDArray[Any]]:
    parts = [network({name: values[part] for name, values in inputs.items()}) for part in rows]
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}
