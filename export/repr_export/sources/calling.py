"""How a torch network is called: tensors by the names of forward's parameters, and flat outputs by name."""

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from repr_export.errors import CaptureError, OptionError
from repr_export.layout import BATCH, Dims
from repr_export.options import ExportOptions
from repr_export.samples import read_arrays
from repr_runtime.artifact.manifest import DTYPES

INPUT_NAME = "input"
OUTPUT_NAME = "logits"
_SMALL = 10**10  # values times parameters of a run, up to which one thread is as good as several


@dataclass(frozen=True)
class Input:
    """An input: its name, some samples of it, and the axis along which they lie (None: no batch)."""

    name: str
    samples: NDArray[Any]
    axis: int | None = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        shape = self.samples.shape
        return shape if self.axis is None else shape[: self.axis] + shape[self.axis + 1 :]

    def tensor(self, batch: int) -> torch.Tensor:
        """A batch of that size, in which the samples come again and again."""
        if self.axis is None:
            return torch.from_numpy(self.samples)
        rows = np.arange(batch) % self.samples.shape[self.axis]
        return torch.from_numpy(np.take(self.samples, rows, self.axis))


class Call(nn.Module):
    """``network`` as a function of tensors, in the order of ``inputs``, to a flat tuple of tensors.

    One input called "input" is passed by position, others by name.
    """

    def __init__(self, network: nn.Module, inputs: Sequence[Input]) -> None:
        super().__init__()
        self.network = network
        self.inputs = tuple(inputs)

    @property
    def by_position(self) -> bool:
        return [entry.name for entry in self.inputs] == [INPUT_NAME]

    def returned(self, *tensors: torch.Tensor) -> Any:
        """What the network itself returns."""
        if self.by_position:
            return self.network(*tensors)
        names = (entry.name for entry in self.inputs)
        return self.network(**dict(zip(names, tensors, strict=True)))

    def outputs(self, *tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        """All outputs by name; raises :class:`CaptureError` for one that is no tensor."""
        named: dict[str, torch.Tensor] = {}
        taken = {entry.name for entry in self.inputs}
        for name, tensor in _flat(self.returned(*tensors), ""):
            while name in taken:  # in a graph every name is one value's
                name = f"output_{name}"
            taken.add(name)
            named[name] = tensor
        if not named:
            raise CaptureError("the network returns no tensor; let it return what it computes")
        return named

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.outputs(*tensors).values())


@contextmanager
def threads_for(network: nn.Module, tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """One thread alone for a small run; on a busy machine several took a hundred times as long."""
    threads = torch.get_num_threads()
    values = sum(tensor.numel() for tensor in tensors)
    if values * sum(p.numel() for p in network.parameters()) <= _SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def call_on(network: nn.Module, shape: Sequence[int]) -> Call:
    """``network`` called on one float32 tensor, whose samples have that shape."""
    return Call(network, [Input(INPUT_NAME, np.zeros((1, *shape), np.float32))])


def _flat(output: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    if output is None:
        return
    if isinstance(output, torch.Tensor):
        yield path or OUTPUT_NAME, output
        return
    parts: Iterable[tuple[Any, Any]]
    if isinstance(output, Mapping):
        parts = output.items()
    elif is_dataclass(output):
        parts = ((field.name, getattr(output, field.name)) for field in fields(output))
    elif isinstance(output, tuple) and hasattr(output, "_fields"):
        parts = zip(output._fields, output, strict=True)
    elif isinstance(output, tuple | list):
        parts = enumerate(output) if path else ((f"output{i}", v) for i, v in enumerate(output))
    else:
        where = f" as {path}" if path else ""
        raise CaptureError(
            f"the network returns {type(output).__name__}{where}, expected tensors; wrap it in a module "
            f"that returns what to deploy"
        )
    for key, value in parts:
        yield from _flat(value, f"{path}_{key}" if path else str(key))


def call_of(network: nn.Module, target: str, options: ExportOptions) -> Call:
    """``network`` called on the inputs that `--input` and `--samples` give.

    Raises :class:`OptionError` for names that forward does not have or lacks, and for arrays of
    types that it cannot take.
    """
    arrays = {} if options.samples is None else read_arrays(options.samples, "--samples")
    parameters = inspect.signature(network.forward).parameters.values()
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = [p.name for p in plain]
    shapes = dict(options.input_shapes or {})
    lone = not shapes and set(arrays) <= {INPUT_NAME}
    if options.input_shape is not None:
        shapes[INPUT_NAME if lone or not known else known[0]] = options.input_shape
    given = list(arrays or shapes)
    required = [p.name for p in plain if p.default is p.empty]
    needed = required[1:] if lone else required
    if not lone and all(p.kind != p.VAR_KEYWORD for p in parameters):
        _require_known(given, known, f"{target} takes")
    if missing := [name for name in needed if name not in given]:
        every = " ".join(f"--input {name}=SHAPE" for name in known if name in {*given, *required})
        raise OptionError(
            f"{target} takes {', '.join(known)}, and nothing gives {', '.join(missing)}; give each: "
            + (f"as an array in {options.samples}" if arrays else every)
        )
    if arrays:
        _require_known(list(shapes), given, f"{options.samples} holds")
    order = {name: place for place, name in enumerate(known)}
    given.sort(key=lambda name: order.get(name, len(order)))
    if not arrays:
        return Call(network, [_of_shape(name, shapes[name]) for name in given])
    return Call(network, [_of_array(name, arrays[name], shapes.get(name)) for name in given])


def _require_known(names: Sequence[str], known: Sequence[str], what: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise OptionError(f"{what} no {name!r}, but {', '.join(known) or 'nothing'}{hint}")


def _of_shape(name: str, shape: Dims) -> Input:
    axis = shape.index(BATCH) if BATCH in shape else 0
    sizes = [int(size) for size in shape if size != BATCH]
    return Input(name, np.zeros((*sizes[:axis], 1, *sizes[axis:]), np.float32), axis)


def _of_array(name: str, array: NDArray[Any], shape: Dims | None) -> Input:
    if array.dtype.name not in DTYPES or (array.dtype.kind == "f" and array.dtype != np.float32):
        raise OptionError(
            f"--samples: {name!r} is {array.dtype}; networks are exported in float32, give it as float32, "
            f"integers or bool"
        )
    axis = 0 if array.ndim else None
    if shape is not None and BATCH in shape:
        axis = shape.index(BATCH)
    elif shape is not None and len(shape) == array.ndim:
        axis = None
    if shape is not None and len(shape) + (axis is not None and BATCH not in shape) != array.ndim:
        raise OptionError(
            f"--input {name}={'x'.join(map(str, shape))} does not fit the array in --samples, which is "
            f"{list(array.shape)} with all samples"
        )
    return Input(name, array, axis)
