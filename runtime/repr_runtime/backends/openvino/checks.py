"""What OpenVINO's kernels do not look at themselves, and would give wrong numbers for: refused."""

import threading
from collections.abc import Sequence
from typing import Any

from repr_runtime import errors
from repr_runtime.artifact.manifest import DTYPES, TensorSpec

_TYPES = {
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "boolean": "bool",
    **{name.replace("uint", "u").replace("int", "i"): name for name in DTYPES if "int" in name},
}
_NARROWED = {"float64": "float32", "int64": "int32", "uint64": "int32", "uint32": "int32"}
"""What its kernels for CPUs compute in another type, whatever comes in."""
_UNCHECKED = {
    "Gather": 1, "GatherElements": 1, "GatherND": 1, "ScatterElementsUpdate": 1,
    "ScatterNDUpdate": 1, "ScatterUpdate": 1,
}  # fmt: skip
"""Which operand has indices that its kernels do not hold against the size."""
_SIZES = (1, 2, 3, 7, 64)
"""Batch sizes that a graph which takes any must have shapes for."""
_MOST_SHAPES = 4096


def dtype_of(port: Any) -> str:
    """Of an input or output, as numpy calls it."""
    name = str(port.get_element_type().get_type_name())
    return _TYPES.get(name, name)


def free_beyond_batch(listed: Sequence[TensorSpec], ports: Sequence[Any]) -> bool:
    """Whether inputs have free sizes other than one batch size, first in each that has it.

    ``listed`` are the inputs that the manifest tells, which names the sizes, ``ports`` the graph's.
    """
    names = {spec.shape[0] for spec in listed if spec.shape and isinstance(spec.shape[0], str)}
    shapes = [port.partial_shape for port in ports]
    return len(names) > 1 or any(
        shape.rank.is_dynamic or any(size.is_dynamic for size in [*shape][1:]) for shape in shapes
    )


def require_computable(model: Any, *, any_batch: bool) -> None:
    """Raise :class:`ModelLoadError` for a graph whose numbers its kernels would narrow or not check.

    Shapes within are 64 bits wide in ONNX, and small. ``any_batch``: its one free size is the
    batch, for which the sizes within must fit, whatever it is.
    """
    for port in model.inputs:
        _require_width(port, f"input {port.any_name!r}")
    for op in model.get_ops():
        kind, name = op.get_type_name(), repr(op.get_friendly_name())
        for port in op.outputs() if kind != "Constant" else ():
            of_values = kind == "Convert" and dtype_of(op.input(0)).startswith("float")
            if dtype_of(port) == "float64" or of_values:
                _require_width(port, name)
        if kind in _UNCHECKED:
            indices = op.input_value(_UNCHECKED[kind]).get_node()
            if indices.get_type_name() != "Constant":
                raise errors.ModelLoadError(
                    f"{name} ({kind}) has indices that are computed, which OpenVINO does not hold "
                    f"against the size of what they point into; use device='cpu'"
                )
            if kind == "Gather" and _permutes(op):
                raise errors.ModelLoadError(
                    f"{name} (Gather) puts all channels in another order, which OpenVINO gets wrong "
                    f"before a depthwise convolution; use device='cpu'"
                )
    if any_batch:
        clone = model.clone()
        free = [port for port in clone.inputs if port.partial_shape.is_dynamic]
        for size in _SIZES:
            clone.reshape({port: [size, *port.partial_shape[1:]] for port in free})


def _permutes(gather: Any) -> bool:
    """Whether it takes each of several, as of channels, once, in another order."""
    indices = gather.input_value(1).get_node().get_data().reshape(-1)
    found = sorted(indices.tolist())
    return len(found) > 1 and found == [*range(len(found))] and found != indices.tolist()


def _require_width(port: Any, what: str) -> None:
    if to := _NARROWED.get(dtype_of(port)):
        raise errors.ModelLoadError(
            f"{what} is {dtype_of(port)}, which OpenVINO computes in {to} on a CPU; use device='cpu'"
        )


class ShapeCheck:
    """Holds the sizes within ``model`` against one another, for each new combination of inputs' shapes.

    The library infers them without running, which finds a product of matrices that do not fit; its
    kernels read what lies behind.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._using = model, threading.Lock()
        self._seen: set[tuple[tuple[int, ...], ...]] = set()

    def require(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """Raise what the library raises for ``shapes``, those of all inputs in its order."""
        if shapes in self._seen:
            return
        with self._using:
            self._model.reshape(dict(zip(self._model.inputs, map(list, shapes), strict=True)))
            if len(self._seen) > _MOST_SHAPES:
                self._seen.clear()
            self._seen.add(shapes)


def words_of(error: Exception) -> str:
    """What the library says, without where in its sources."""
    lines = str(error).splitlines()
    told = (line.strip() for line in lines if not line.startswith(("Exception from", "Check ")))
    return " ".join(filter(None, told))[:1000] or errors.words_of(error)
