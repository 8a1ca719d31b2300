"""One TensorRT execution context with its stream, its buffers and, where captured, its CUDA graph."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise, starmap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repr_runtime.artifact.manifest import TensorSpec
from repr_runtime.backends.base import Timings
from repr_runtime.backends.tensorrt.library import sizes
from repr_runtime.backends.tensorrt.messages import last_error
from repr_runtime.cuda.arrays import DeviceView
from repr_runtime.cuda.device import Cuda
from repr_runtime.errors import CudaError, CudaGraphError, ExecutionError

if TYPE_CHECKING:
    import tensorrt as trt

_POISON = 0x5A  # what no kernel writes everywhere


class CudaGraphWarning(RuntimeWarning):
    """Runs go on without a CUDA graph, right but slower for small batches; says why."""


class GraphPolicy:
    """Whether the lanes of an engine capture CUDA graphs; off for all once one could not."""

    def __init__(self, wanted: bool) -> None:
        self.on = wanted

    def give_up(self, reason: Exception) -> None:
        """Capture no more, and say so once."""
        if self.on:
            self.on = False
            warnings.warn(
                f"no CUDA graph: {reason}; runs go on without, which costs microseconds each",
                CudaGraphWarning,
                stacklevel=2,
            )


@dataclass
class _Buffer:
    """A tensor's memory on both sides, large enough for the largest batch of the profile."""

    spec: TensorSpec
    dtype: np.dtype[Any]
    device: int
    host: NDArray[np.uint8]

    def bytes_of(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape) * self.dtype.itemsize

    def on_host(self, shape: tuple[int, ...]) -> NDArray[Any]:
        return self.host[: self.bytes_of(shape)].view(self.dtype).reshape(shape)


class Lane:
    """Runs batches of one profile, one at a time; only one thread may be in it.

    Shapes, addresses and context are what a CUDA graph freezes, so they are one thing here:
    a new batch size drops the graph, runs eagerly once, and is captured again. All calls
    happen with the engine's device current.
    """

    def __init__(
        self,
        cuda: Cuda,
        context: trt.IExecutionContext,
        profile: int,
        tensors: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
        largest: int,
        policy: GraphPolicy,
        *,
        timed: bool = False,
    ) -> None:
        """``tensors`` are the inputs and outputs; ``largest`` is the profile's largest batch."""
        self._cuda, self._context, self._policy = cuda, context, policy
        self.profile = profile
        self.rows: int | None = None
        self.timings: Timings | None = None
        self._graph: int | None = None
        self._owned = ExitStack()
        try:
            self._stream = cuda.create_stream()
            self._owned.callback(cuda.destroy_stream, self._stream)
            self._events = [cuda.create_event() for _ in range(4 if timed else 0)]
            for event in self._events:
                self._owned.callback(cuda.destroy_event, event)
            if profile != 0:  # a new context has the first
                selected = context.set_optimization_profile_async(profile, self._stream)
                self._check(selected, f"takes no profile {profile}")
                cuda.synchronize(self._stream)
            self._set_shapes(tensors[0], largest)
            self._inputs = {spec.name: self._allocate(spec) for spec in tensors[0]}
            self._outputs = [self._allocate(spec) for spec in tensors[1]]
        except BaseException:
            self._owned.close()
            raise

    def _set_shapes(self, inputs: tuple[TensorSpec, ...], rows: int) -> None:
        for spec in inputs:
            shape = _sized(spec, rows)
            self._check(
                self._context.set_input_shape(spec.name, shape), f"takes no {spec.name} of {shape}"
            )

    def _allocate(self, spec: TensorSpec) -> _Buffer:
        shape = self._shape(spec)
        if any(size < 0 for size in shape):
            raise ExecutionError(
                f"the shape of {spec.name!r} depends on the data ({shape}), which this backend does "
                f"not run; use device='cuda' or 'cpu'"
            )
        dtype = np.dtype(spec.dtype)
        size = math.prod(shape) * dtype.itemsize
        device = self._cuda.allocate(size)
        self._owned.callback(self._cuda.free, device)
        host = self._cuda.allocate_pinned(size)
        self._owned.callback(self._cuda.free_pinned, host)
        self._check(self._context.set_tensor_address(spec.name, device), "takes no address")
        return _Buffer(spec, dtype, device, host)

    def _shape(self, spec: TensorSpec) -> tuple[int, ...]:
        return sizes(self._context.get_tensor_shape(spec.name))

    def _check(self, succeeded: bool, what: str) -> None:
        if not succeeded:
            raise ExecutionError(f"TensorRT {what} ({last_error() or 'it says no more'})")

    def run(
        self,
        feed: Mapping[str, NDArray[Any] | DeviceView],
        batch: int,
        rows: int,
        fresh: Any = None,
    ) -> list[Any]:
        """One batch of ``batch`` samples, computed as one of ``rows``.

        With ``fresh``, which makes a new device array of a shape and dtype, outputs stay on
        the device; else they are new numpy arrays. Everything is complete on return.
        """
        if rows != self.rows:
            self._reshape(rows)
        self._mark(0)
        for name, buffer in self._inputs.items():
            self._send(buffer, feed[name], rows)
        self._mark(1)
        if self._graph is None:
            queued = self._context.execute_async_v3(self._stream)
            self._check(queued, "failed to run the engine")
        else:
            self._cuda.launch(self._graph, self._stream)
        self._mark(2)
        results = [self._receive(buffer, batch, fresh) for buffer in self._outputs]
        self._mark(3)
        self._cuda.synchronize(self._stream)
        if self._events:
            self.timings = Timings(*starmap(self._cuda.elapsed, pairwise(self._events)))
        if fresh is None:
            results = [view.copy() for view in results]
        if self._graph is None and self._policy.on:
            self._capture()
        return results

    def _reshape(self, rows: int) -> None:
        self._drop_graph()
        self.rows = None  # until all of it is set
        self._set_shapes(tuple(buffer.spec for buffer in self._inputs.values()), rows)
        self.rows = rows

    def _mark(self, index: int) -> None:
        if self._events:
            self._cuda.record(self._events[index], self._stream)

    def _send(self, buffer: _Buffer, value: NDArray[Any] | DeviceView, rows: int) -> None:
        shape = _sized(buffer.spec, rows)
        filled = rows if value.shape == shape else value.shape[0]
        if isinstance(value, DeviceView):
            if value.needs_synchronize:
                self._cuda.settle()
            value.arrive(self._stream)
            size = buffer.bytes_of(value.shape)
            self._cuda.copy(buffer.device, value.address, size, self._stream)
            while filled < rows:  # padded with what is there, doubling
                count = min(filled, rows - filled)
                row = buffer.bytes_of(shape[1:])
                target = buffer.device + filled * row
                self._cuda.copy(target, buffer.device, count * row, self._stream)
                filled += count
            return
        staged = buffer.on_host(shape)
        if filled == rows:
            staged[...] = value
        else:
            staged[:filled], staged[filled:] = value, value[-1]
        sent = buffer.host[: buffer.bytes_of(shape)]
        self._cuda.to_device(buffer.device, sent, self._stream)

    def _receive(self, buffer: _Buffer, batch: int, fresh: Any) -> Any:
        shape = self._shape(buffer.spec)
        if has_free_batch(buffer.spec):
            shape = (batch, *shape[1:])
        size = buffer.bytes_of(shape)
        if fresh is not None:
            array = fresh(shape, buffer.dtype)
            self._cuda.copy(array.address, buffer.device, size, self._stream)
            return array
        self._cuda.to_host(buffer.host[:size], buffer.device, self._stream)
        return buffer.on_host(shape)

    def _capture(self) -> None:
        """Make a graph of what was just run eagerly, if its replay gives the same outputs."""
        eager = [self._fetch(buffer).copy() for buffer in self._outputs]
        try:
            self._graph = self._cuda.capture(
                self._stream, lambda: bool(self._context.execute_async_v3(self._stream))
            )
            # The outputs are still those of the eager run: a graph that does nothing would pass.
            for buffer in self._outputs:
                buffer.host[:] = _POISON
                self._cuda.to_device(buffer.device, buffer.host, self._stream)
            self._cuda.launch(self._graph, self._stream)
            for buffer, expected in zip(self._outputs, eager, strict=True):
                if not _same(self._fetch(buffer), expected):
                    raise CudaGraphError(
                        f"its replay gives other values of {buffer.spec.name!r} than the eager run"
                    )
        except CudaError as error:
            self._drop_graph()
            self._policy.give_up(error)

    def _fetch(self, buffer: _Buffer) -> NDArray[Any]:
        shape = self._shape(buffer.spec)
        self._cuda.to_host(buffer.host[: buffer.bytes_of(shape)], buffer.device, self._stream)
        self._cuda.synchronize(self._stream)
        return buffer.on_host(shape)

    def _drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            self._cuda.destroy_executable(graph)

    def close(self) -> None:
        """Give everything back; nothing of the lane may be running. Twice does no harm."""
        try:
            self._drop_graph()
        finally:
            vars(self).pop("_context", None)  # before the memory that it was told of
            self._owned.close()


def has_free_batch(spec: TensorSpec) -> bool:
    """Whether the tensor's first dimension is the number of samples, and free."""
    return bool(spec.shape) and isinstance(spec.shape[0], str)


def _sized(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    return tuple(rows if isinstance(size, str) else size for size in spec.shape)


def _same(actual: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Equal but for rounding: kernels that add in another order may be chosen."""
    if actual.dtype.kind != "f":
        return bool(np.array_equal(actual, expected))
    wide = expected.astype(np.float64)
    finite = np.abs(wide[np.isfinite(wide)])
    scale = float(finite.max()) if finite.size else 0.0
    return bool(
        np.allclose(actual.astype(np.float64), wide, rtol=0, atol=1e-3 * scale, equal_nan=True)
    )
