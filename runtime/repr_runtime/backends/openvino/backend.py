"""Runs a graph with OpenVINO on the CPU, in the precision that the graph has."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_runtime import errors
from repr_runtime.artifact.manifest import TensorSpec
from repr_runtime.backends.base import Backend
from repr_runtime.backends.idle import Idle
from repr_runtime.backends.openvino.checks import dtype_of, words_of
from repr_runtime.backends.openvino.compiling import (
    Compiler,
    require_precision,
    why_not,
)
from repr_runtime.cuda.arrays import DeviceArray, is_device_array
from repr_runtime.machine import require_threads, usable_cores
from repr_runtime.process.lifetime import closed


def open_openvino(
    graph: bytes,
    sha256: str,
    precision: str,
    listed: tuple[Sequence[TensorSpec], Sequence[TensorSpec]],
    *,
    threads: int | None = None,
    instances: int = 1,
    batch: int | None = None,
    run_seconds: float | None = None,
) -> OpenVINOBackend:
    """``graph``, the bytes with that SHA-256, ready to run with ``threads`` for each of ``instances``.

    ``listed`` are the inputs and outputs that the manifest tells (OpenVINO's tensors have several
    names, of which these are the graph's). Batches of ``batch`` samples get a compiled graph of
    that very shape, which takes 3 to 8 % less time than one of a free size; others run as well.
    A run is given up after ``run_seconds``. What was compiled is kept in the user's cache.

    Raises :class:`DeviceUnavailableError` if OpenVINO or the CPU cannot compute in ``precision``,
    and :class:`ModelLoadError` if it refuses the graph or would compute it in other precisions.
    """
    reason = why_not(precision)
    if reason is not None:
        other = "device='cpu'" if precision == "fp32" else "another precision"
        raise errors.DeviceUnavailableError(
            f"OpenVINO cannot run {precision} here: {reason}; mend that, or use {other}"
        )
    cores = threads or max(1, usable_cores() // instances)
    require_threads(cores * instances)
    options = {
        "INFERENCE_PRECISION_HINT": "f32",  # else bf16, unasked, where the CPU has that
        "INFERENCE_NUM_THREADS": cores * instances,
        "NUM_STREAMS": instances,
        "ENABLE_CPU_PINNING": False,  # several processes would all be bound to the first cores
    }
    free = all(spec.shape and isinstance(spec.shape[0], str) for spec in listed[0])
    compiler = Compiler(graph, sha256, options, batch if free else None, listed[0])
    return OpenVINOBackend(compiler, precision, listed, instances, run_seconds)


class OpenVINOBackend(Backend):
    """A graph that OpenVINO compiled, with an ``InferRequest`` for each of ``instances``.

    A request that two threads use at once gives wrong answers, and no exception; so each run has
    one to itself. ``compiled`` is the library's ``CompiledModel``, and ``computed`` says how many
    layers with weights are computed in its precision.
    """

    name = "openvino"
    device = "cpu"

    def __init__(
        self,
        compiler: Compiler,
        precision: str,
        listed: tuple[Sequence[TensorSpec], Sequence[TensorSpec]],
        instances: int,
        run_seconds: float | None,
    ) -> None:
        compiled: Any = compiler.compiled(compiler.batch)
        self.computed = require_precision(precision, compiled)
        self.compiled, self.instances = compiled, instances
        spec_of = partial(_spec, any_batch=compiler.batch is not None)
        # An input that nothing reads is left out by the library.
        order = {name: index for index, port in enumerate(compiled.inputs) for name in port.names}
        self.inputs = tuple(
            spec_of(spec, compiled.inputs[order[spec.name]]) if spec.name in order else spec
            for spec in listed[0]
        )
        self.outputs = tuple(map(spec_of, listed[1], compiled.outputs))
        self._lanes = [_Lane(compiler, order, run_seconds) for _ in range(instances)]
        self._idle = Idle(self._lanes)

    def run(self, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            return self._idle.lend(lambda lane: lane.run(feed))
        except errors.BackendError:  # closed, or too late
            raise
        except Exception as error:  # its exceptions share no base but this
            raise closed(_failure(error)) from error

    def run_on_device(
        self,
        feed: Mapping[str, Any],
        check: Callable[[Mapping[str, Any]], None],  # noqa: ARG002  nothing of it can be reached
    ) -> list[DeviceArray]:
        name = next(name for name, value in feed.items() if is_device_array(value))
        raise errors.InputTypeError(
            f"input {name!r} lies on a GPU, the session runs on the CPU; copy it to the host"
        )

    def close(self) -> None:
        for lane in self._lanes:
            lane.close()
        del self.compiled

    def interrupt(self) -> None:
        """Nothing: a run that blocks its thread the library takes to its end."""


class _Lane:
    """A request for each compiled graph; one run at a time."""

    def __init__(self, compiler: Compiler, order: Mapping[str, int], seconds: float | None) -> None:
        self._compiler: Compiler | None = compiler
        self._order, self._seconds = order, seconds
        self._requests: dict[int | None, Any] = {}
        library = importlib.import_module("openvino._pyopenvino")
        # Below the library's wrapper, which takes longer than a small network.
        self._infer, self._tensor = library.InferRequest.infer, library.Tensor

    def run(self, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        compiler = self._compiler or _closed()
        size = compiler.batch
        if size is not None and any(len(value) != size for value in feed.values()):
            size = None
        request = self._requests.get(size)
        if request is None:
            request = self._requests[size] = compiler.compiled(size).create_infer_request()
        if compiler.shapes is not None:
            compiler.shapes.require(tuple(feed[name].shape for name in self._order if name in feed))
        given = {
            index: self._tensor(_shareable(feed[name]), True)
            for name, index in self._order.items()
            if name in feed
        }
        if self._seconds is None:
            return [*self._infer(request, given, False, False).values()]
        done = False
        try:
            request.start_async(given, share_inputs=True)
            done = request.wait_for(int(1000 * self._seconds))
        finally:
            if (
                not done
            ):  # or a signal's handler raised: it must not go on reading the caller's arrays
                request.cancel()
                with contextlib.suppress(RuntimeError):  # that it was
                    request.wait()
        if not done:
            raise errors.RunLimitError(
                f"the run was given up after {self._seconds:g} s, the limit (Limits.run_seconds); "
                f"give it less at once, or raise it"
            )
        request.wait()
        return [tensor.data.copy() for tensor in request.output_tensors]

    def close(self) -> None:
        self._compiler = None
        self._requests = {}


def _spec(listed: TensorSpec, port: Any, *, any_batch: bool) -> TensorSpec:
    """``listed``, with the dtype and the sizes that the port has; ``any_batch``: but for the first."""
    if listed.name not in port.names:
        raise errors.ModelLoadError(
            f"OpenVINO calls {listed.name!r} of the graph {', '.join(sorted(port.names))}; use device='cpu'"
        )
    shape = list[int | str]()
    for axis, size in enumerate(port.partial_shape if port.partial_shape.rank.is_static else ()):
        name = listed.shape[axis] if axis < len(listed.shape) else 0
        free = size.is_dynamic or (any_batch and axis == 0)
        named = name if isinstance(name, str) else f"{listed.name}_{axis}"
        shape.append(named if free else size.get_length())
    return TensorSpec(listed.name, dtype_of(port), tuple(shape))


def _shareable(values: NDArray[Any]) -> NDArray[Any]:
    """``values`` as the library reads them without a copy: in one piece, and open to writing.

    It does not write.
    """
    values = np.ascontiguousarray(values)
    if values.flags.writeable:
        return values
    memory = (ctypes.c_char * values.nbytes).from_address(values.ctypes.data)
    return np.ndarray(values.shape, values.dtype, memoryview(memory))


def _closed() -> Any:
    raise closed(
        errors.SessionClosedError(
            "the session was closed by another thread; load the artifact again"
        )
    )


def _failure(error: Exception) -> errors.BackendError:
    """Of an input, where it was not memory: nothing else fails on a CPU."""
    words = errors.words_of(error)
    if isinstance(error, MemoryError) or "alloc" in words.lower():
        return errors.HostMemoryError(
            f"there is not enough memory to run the graph on inputs of this size: {words}; run "
            f"fewer samples at a time"
        )
    return errors.UnrunnableInputError(f"OpenVINO failed to run the graph: {words_of(error)}")
