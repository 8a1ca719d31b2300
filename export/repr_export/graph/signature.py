"""The inputs and outputs of a graph, as the manifest lists them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from repr_export.errors import GraphError
from repr_runtime.artifact.manifest import DTYPES, TensorSpec


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a graph, and its fixed batch size, None if that is free."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, model: ir.Model) -> Signature:
        """Of ``model``; raises :class:`GraphError` for one that does not say its shapes and dtypes."""
        # An initializer among the inputs is a default that a caller may override; none here does.
        given = (value for value in model.graph.inputs if not value.is_initializer())
        inputs = tuple(map(_spec, given))
        if not inputs:
            raise GraphError("the graph has no inputs: what it computes is a constant, store that")
        return cls(inputs, tuple(map(_spec, model.graph.outputs)))


def _spec(value: ir.Value) -> TensorSpec:
    if value.shape is None or value.dtype is None or value.name is None:
        raise GraphError(f"{value.name!r} has no shape or dtype in the graph; export it with both")
    try:
        dtype = value.dtype.numpy().name
    except TypeError:  # UNDEFINED
        dtype = ""
    if dtype not in DTYPES:
        raise GraphError(f"{value.name!r} is {value.dtype.name}, which numpy cannot hold; cast it")
    shape = tuple(
        dim if isinstance(dim, int) else (dim.value or f"{value.name}_{axis}")
        for axis, dim in enumerate(value.shape)
    )
    return TensorSpec(value.name, dtype, shape)
