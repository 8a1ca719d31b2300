"""Runs a graph with ONNX Runtime, on the CPU or through its CUDA execution provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from repr_runtime.cuda import cuda_status
from repr_runtime.errors import (
    BackendError,
    DeviceUnavailableError,
    ExecutionError,
    ModelLoadError,
    SessionClosedError,
)
from repr_runtime.manifest import TensorSpec

_DTYPES = {
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{
        f"tensor({sign}int{bits})": f"{sign}int{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
_PROVIDERS: dict[str, list[tuple[str, dict[str, str]]]] = {
    "cpu": [("CPUExecutionProvider", {})],
    # TF32 would make "fp32" mean ten bits of mantissa.
    "cuda": [("CUDAExecutionProvider", {"use_tf32": "0"}), ("CPUExecutionProvider", {})],
}


def _library() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"ONNX Runtime cannot be imported ({error}); install it: pip install repr-deploy"
        ) from error
    return onnxruntime


def version() -> str:
    """ONNX Runtime's version."""
    return str(_library().__version__)


def why_not(device: str) -> str | None:
    """Why ``device`` (``cpu`` or ``cuda``) cannot be used here; None if nothing speaks against it."""
    provider = _PROVIDERS[device][0][0]
    available = _library().get_available_providers()
    if provider not in available:
        return (
            f"this ONNX Runtime has no {provider} (it has {', '.join(available)}); "
            f"on Linux and Windows: pip install onnxruntime-gpu in place of onnxruntime"
        )
    if device == "cuda" and not cuda_status().devices:
        return cuda_status().reason
    return None


class OnnxRuntimeBackend:
    """A graph in an ``onnxruntime.InferenceSession``; the session stands in ``session``."""

    name = "onnxruntime"

    def __init__(self, graph: bytes, device: str, threads: int | None) -> None:
        """Load ``graph`` on ``device`` with ``threads`` CPU threads (None: one a core).

        Raises :class:`DeviceUnavailableError` if the device is not there, or ONNX Runtime
        fell back to another, and :class:`ModelLoadError` if it refuses the graph.
        """
        ort = _library()
        reason = why_not(device)
        if reason is not None:
            raise DeviceUnavailableError(
                f"device {device!r} is not available here: {reason}; mend that, or use device='auto'"
            )
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors; what matters of the rest is checked below
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self.session = ort.InferenceSession(graph, options, providers=_PROVIDERS[device])
        except Exception as error:  # its exceptions share no base but this
            raise ModelLoadError(
                f"ONNX Runtime {ort.__version__} refuses the graph: {_first_line(error)}; update it, or "
                f"export again with a lower --opset"
            ) from error
        got = self.session.get_providers()
        if got[0] != _PROVIDERS[device][0][0]:  # falling back is silent
            raise DeviceUnavailableError(
                f"device {device!r} was asked for, and ONNX Runtime fell back to {', '.join(got)}; its "
                f"CUDA libraries could not be loaded, see its install page for the versions it needs"
            )
        self.device = device
        self.inputs = tuple(map(_spec, self.session.get_inputs()))
        self.outputs = tuple(map(_spec, self.session.get_outputs()))
        self._names = [spec.name for spec in self.outputs]
        # The binding below the library's wrapper, which would check the names again and, after a
        # failure, try other providers on its own.
        binding = getattr(self.session, "_sess", self.session)
        self._run: Callable[..., list[NDArray[Any]]] = binding.run

    def run(self, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            return self._run(self._names, feed, None)
        except SessionClosedError:
            raise
        except Exception as error:  # its exceptions share no base but this
            raise ExecutionError(
                f"ONNX Runtime failed to run the graph: {_first_line(error)}"
            ) from error

    def close(self) -> None:
        self._run = _closed
        del self.session


def _closed(*_: Any) -> Any:
    raise SessionClosedError("the session was closed by another thread; load the artifact again")


def _spec(node: Any) -> TensorSpec:
    if node.type not in _DTYPES:
        raise ModelLoadError(
            f"{node.name!r} is {node.type}, which numpy cannot hold; cast it to a numpy type in the graph"
        )
    shape = tuple(
        dim if isinstance(dim, int | str) else f"{node.name}_{axis}"
        for axis, dim in enumerate(node.shape)
    )
    return TensorSpec(node.name, _DTYPES[node.type], shape)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
