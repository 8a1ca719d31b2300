"""Runs a graph with ONNX Runtime: on the CPU, or through its CUDA or TensorRT execution provider."""

import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_runtime import errors
from repr_runtime.artifact.manifest import DTYPES, TensorSpec
from repr_runtime.backends.base import Backend
from repr_runtime.backends.placement import RECORD, remark
from repr_runtime.backends.tuning import Setting
from repr_runtime.cuda.arrays import DeviceArray, DeviceView, Returned, is_device_array, view
from repr_runtime.cuda.driver import cuda_status, wait_for_device
from repr_runtime.cuda.libraries import preload
from repr_runtime.machine import require_threads, usable_cores
from repr_runtime.process.lifetime import closed

_DTYPES = {
    **{f"tensor({name})": name for name in DTYPES - {"float32", "float64"}},
    "tensor(float)": "float32",
    "tensor(double)": "float64",
}
_FATAL = 4
"""The severity from which on it logs."""
_LONGEST = 1000
"""Characters of its errors, which may name every node."""
_CONSTANT_BYTES = "optimization.constant_folding_max_output_size_in_bytes"
_LIBRARIES = "see its install page for the versions of CUDA, cuDNN and TensorRT that it needs"
_CPU = ("CPUExecutionProvider", dict[str, str]())
# TF32 would make "fp32" mean ten bits of mantissa. Where that is allowed is said below.
_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0"})
_PROVIDERS: dict[str, tuple[tuple[str, dict[str, str]], ...]] = {
    "cpu": (_CPU,),
    "cuda": (_CUDA, _CPU),
    "onnxruntime-tensorrt": (("TensorrtExecutionProvider", {}), _CUDA, _CPU),
}


def _library() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise errors.BackendError(
            f"ONNX Runtime cannot be imported ({error}); install it: pip install repr-deploy"
        ) from error
    return onnxruntime


def version() -> str:
    """ONNX Runtime's version."""
    return str(_library().__version__)


def why_not(device: str) -> str | None:
    """Why ``device``, a key of the table above, cannot be used here; None if it can, it seems."""
    provider = _PROVIDERS[device][0][0]
    available = _library().get_available_providers()
    if provider not in available:
        return (
            f"this ONNX Runtime has no {provider} (it has {', '.join(available)}); "
            f"on Linux and Windows: pip install onnxruntime-gpu in place of onnxruntime"
        )
    if device != "cpu" and not cuda_status().devices:
        return cuda_status().reason
    return None


class OnnxRuntimeBackend(Backend):
    """A graph in an ``onnxruntime.InferenceSession``; the session stands in ``session``.

    ``provider_options`` are those that each provider runs with, as ONNX Runtime states them;
    ``remark`` is what is to be said of a GPU (:mod:`repr_runtime.backends.placement`).
    """

    name = "onnxruntime"
    instances = 1

    def __init__(
        self,
        graph: bytes,
        device: str,
        threads: int | None,
        gpu: int = 0,
        setting: Setting | None = None,
        single_thread_batch: int = 0,
        constant_bytes: int | None = None,
        load_seconds: float | None = None,
        run_seconds: float | None = None,
        tf32: bool = False,
    ) -> None:
        """Load ``graph`` on ``device`` with ``threads`` CPU threads (None: one a core).

        ``gpu`` is the index of the GPU, where the device is one. Of ``setting`` all is used but
        its threads and instances. Batches of up to ``single_thread_batch`` samples run
        on the thread that calls, in a second session: for little work, waking others costs more than it brings.
        A constant that is computed beforehand has at most ``constant_bytes`` (None: as the library
        likes); after ``load_seconds`` and ``run_seconds`` loading and a run are given up, between two
        of their steps (None: never). ``tf32`` is for half precisions on a GPU: without it the library
        keeps their convolutions off the tensor cores, too.

        Raises :class:`DeviceUnavailableError` if the device is not there, or ONNX Runtime
        fell back to another, :class:`ModelLoadError` if it refuses the graph, and of that
        :class:`LimitError` if it took too long.
        """
        ort = _library()
        reason = why_not(device)
        if reason is not None:
            raise errors.DeviceUnavailableError(
                f"device {device!r} is not available here: {reason}; mend that, or use device='auto'"
            )
        options = ort.SessionOptions()
        if device != "cpu":
            preload(str(getattr(ort, "cuda_version", "")))
            options.add_session_config_entry(RECORD, "1")
        options.log_severity_level = _FATAL  # what it says of errors is in its exceptions, too
        options.add_session_config_entry(
            "session.load_model_format", "ONNX"
        )  # what was looked into
        if constant_bytes is not None:
            options.add_session_config_entry(_CONSTANT_BYTES, str(constant_bytes))
        if threads is not None:
            options.intra_op_num_threads = threads
        if setting is not None:
            _apply(setting, options, ort)
        self._threads = threads if device == "cpu" else None
        # Beside the thread that calls; of fewer than it wants, the library hangs.
        require_threads((threads or usable_cores()) - 1)
        self._run_options = ort.RunOptions()
        of_gpu = {"device_id": str(gpu)}
        more = {_CPU[0]: {}, _CUDA[0]: {**of_gpu, "use_tf32": str(int(tf32))}}
        providers = [
            (name, {**chosen, **more.get(name, of_gpu)}) for name, chosen in _PROVIDERS[device]
        ]
        try:
            stop = partial(options.set_load_cancellation_flag, True)
            with _quiet(ort, device), _stopping(stop, load_seconds):
                self.session = _open(ort, graph, options, providers)
                if single_thread_batch:
                    options.intra_op_num_threads = 1
                    self._small = _open(ort, graph, options, providers)
        except Exception as error:  # its exceptions share no base but this
            if "MODEL_LOAD_CANCELED" in str(error):
                raise errors.LimitError(
                    f"ONNX Runtime has not loaded the graph within {load_seconds:g} s, the limit "
                    f"(Limits.load_seconds); raise it if you know who made it"
                ) from error
            _require_library(ort, device)
            way_out = "update it, or export again with a lower --opset"
            if "NOT_IMPLEMENTED" in str(error):  # of bf16, say, on a CPU
                way_out = f"it has no kernel for that on {device}; use another precision here"
            raise errors.ModelLoadError(
                f"ONNX Runtime {ort.__version__} refuses the graph: {_words(error)}; {way_out}"
            ) from error
        got = self.session.get_providers()
        if got[0] != _PROVIDERS[device][0][0]:  # falling back is silent
            _require_library(ort, device)
            raise errors.DeviceUnavailableError(
                f"device {device!r} was asked for, and ONNX Runtime fell back to {', '.join(got)}; "
                f"{_LIBRARIES}"
            )
        self.provider_options: dict[str, dict[str, str]] = self.session.get_provider_options()
        self.remark = remark(self.session, tf32=tf32) if device != "cpu" else ""
        self.device, self._place = device, ("cpu" if device == "cpu" else "cuda", gpu)
        try:
            self.inputs = tuple(map(_spec, self.session.get_inputs()))
            self.outputs = tuple(map(_spec, self.session.get_outputs()))
        except UnicodeDecodeError as error:
            raise errors.ModelLoadError(
                f"the graph has an input or output whose name is no text ({error}); rename it"
            ) from error
        self._names = [spec.name for spec in self.outputs]
        self._returned = Returned()
        self._seconds = run_seconds
        self._run = _binding(self.session, run_seconds)
        self._small_batch = single_thread_batch
        self._first = self.inputs[0].name if self.inputs else ""
        self._run_small = _binding(self._small, run_seconds) if single_thread_batch else self._run

    def run(self, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            if self._small_batch and len(feed[self._first]) <= self._small_batch:
                return self._run_small(self._names, feed, self._run_options)
            return self._run(self._names, feed, self._run_options)
        except errors.BackendError:  # closed, or too late
            raise
        except Exception as error:  # its exceptions share no base but this
            raise closed(_failure(error, self._place[0] == "cpu")) from error

    def run_on_device(
        self, feed: Mapping[str, Any], check: Callable[[Mapping[str, Any]], None]
    ) -> list[DeviceArray]:
        """Through I/O binding: inputs are read where they lie, outputs stay on the GPU."""
        kind, gpu = self._place
        views: dict[str, Any] = {}
        for name, value in feed.items():
            views[name] = view(value) if is_device_array(value) else value
            found = views[name]
            if isinstance(found, DeviceView) and (kind == "cpu" or found.device not in (None, gpu)):
                raise errors.InputTypeError(
                    f"input {name!r} lies on a GPU, the session runs on {self.device} {gpu}; copy "
                    f"it to the host, or load the artifact for that GPU"
                )
        check(views)
        given_back = self._returned.take()
        wait_for_device(
            gpu
        )  # its streams wait for nobody's, so producers and consumers must be done
        del given_back
        return self._run_bound(views)

    def _run_bound(self, views: Mapping[str, Any]) -> list[DeviceArray]:
        kind, gpu = self._place
        session: Any = getattr(self, "session", None) or _closed()
        binding = session.io_binding()
        for name, found in views.items():
            if isinstance(found, DeviceView):
                binding.bind_input(name, kind, gpu, found.dtype.type, found.shape, found.address)
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(found))
        for name in self._names:
            binding.bind_output(name, kind, gpu)
        try:
            with _run_within(self._seconds) as options:
                session.run_with_iobinding(binding, options)
            binding.synchronize_outputs()
        except errors.BackendError:
            raise
        except Exception as error:  # its exceptions share no base but this
            raise closed(_failure(error, self._place[0] == "cpu")) from error
        pairs = zip(binding.get_outputs(), self.outputs, strict=True)
        return [_adopt(value, np.dtype(spec.dtype), gpu, self._returned) for value, spec in pairs]

    def after_fork(self) -> str:
        return "" if self._threads == 1 else f"{super().after_fork()}, and its threads are not here"

    def interrupt(self) -> None:
        self._run_options.terminate = True

    def close(self) -> None:
        self._run = self._run_small = _closed
        del self.session
        if self._small_batch:
            del self._small


@contextmanager
def _quiet(ort: Any, device: str) -> Iterator[None]:
    """Without the lines that the library writes to stderr where a provider cannot be loaded."""
    if device == "cpu":
        yield
        return
    ort.set_default_logger_severity(_FATAL)
    try:
        yield
    finally:
        ort.set_default_logger_severity(2)  # its default: it does not tell what was set


@contextmanager
def _stopping(stop: Callable[[], object], seconds: float | None) -> Iterator[None]:
    """``stop`` is called after so many seconds, unless the block has ended."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    try:
        timer.start()
    except RuntimeError as error:  # no more threads, or the process ends
        raise errors.BackendError(
            f"no thread can be started to look at the clock: {error}"
        ) from error
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _run_within(seconds: float | None) -> Iterator[Any]:
    """The library's options of a run that it gives up after so many seconds; None without a limit."""
    if seconds is None:
        yield None
        return
    options = _library().RunOptions()
    options.log_severity_level = _FATAL
    try:
        with _stopping(partial(setattr, options, "terminate", True), seconds):
            yield options
    except Exception as error:
        if not options.terminate or isinstance(error, errors.BackendError):
            raise
        raise errors.RunLimitError(
            f"the run was given up after {seconds:g} s, the limit (Limits.run_seconds); give it less "
            f"at once, or raise it"
        ) from error


def _open(ort: Any, graph: bytes, options: Any, providers: Any) -> Any:
    # To fall back to other providers is for load to do; the library prints what it does.
    return ort.InferenceSession(graph, options, providers=providers, enable_fallback=0)


def _require_library(ort: Any, device: str) -> None:
    """Raise :class:`DeviceUnavailableError` if the provider's library cannot be loaded."""
    kind = {"cuda": "cuda", "onnxruntime-tensorrt": "tensorrt"}.get(device)
    folder = Path(ort.__file__).parent / "capi"
    for path in folder.glob(f"*onnxruntime_providers_{kind}.*"):
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            raise errors.DeviceUnavailableError(
                f"device {device!r} was asked for, and ONNX Runtime cannot load its library: {error}; "
                f"{_LIBRARIES}"
            ) from error


def _apply(setting: Setting, options: Any, ort: Any) -> None:
    options.enable_cpu_mem_arena = setting.arena
    options.enable_mem_pattern = setting.memory_pattern
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = getattr(levels, f"ORT_ENABLE_{setting.optimization.upper()}")
    if not setting.spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")


def _binding(session: Any, seconds: float | None) -> Callable[..., list[NDArray[Any]]]:
    """``run`` below the library's wrapper, given up after so many seconds.

    That would check the names again and, after a failure, try other providers on its own.
    """
    run: Callable[..., list[NDArray[Any]]] = getattr(session, "_sess", session).run
    if seconds is None:
        return run

    def limited(names: list[str], feed: Mapping[str, Any], _: None) -> list[NDArray[Any]]:
        with _run_within(seconds) as options:
            return run(names, feed, options)

    return limited


def _closed(*_: Any) -> Any:
    raise closed(
        errors.SessionClosedError(
            "the session was closed by another thread; load the artifact again"
        )
    )


def _adopt(value: Any, dtype: np.dtype[Any], gpu: int, returned: Returned) -> DeviceArray:
    """An ``OrtValue`` as a device array, which keeps it alive, and then puts it into ``returned``."""
    kept = [value]
    return DeviceArray(
        *(value.data_ptr(), tuple(value.shape()), dtype, gpu),
        to_host=lambda _: kept[0].numpy(),
        release=lambda _: returned.append(kept.pop()),
    )


def _spec(node: Any) -> TensorSpec:
    if node.type not in _DTYPES:
        raise errors.ModelLoadError(
            f"{node.name!r} is {node.type}, which numpy cannot hold; cast it to a numpy type in the graph"
        )
    shape = tuple(
        dim if isinstance(dim, int | str) else f"{node.name}_{axis}"
        for axis, dim in enumerate(node.shape)
    )
    return TensorSpec(node.name, _DTYPES[node.type], shape)


def _failure(error: Exception, on_cpu: bool) -> errors.ExecutionError:
    """Of an input where it says so, and on a CPU where it was not memory: nothing else fails there."""
    kind, words = type(error).__name__, str(error).lower()
    of_memory = kind == "MemoryError" or "alloc" in words or "bfc" in words
    of_input = kind == "InvalidArgument" or (
        on_cpu and kind in ("Fail", "RuntimeException") and not of_memory
    )
    if on_cpu and of_memory and not of_input:
        return errors.HostMemoryError(
            f"there is not enough memory to run the graph on inputs of this size: {_words(error)}; run "
            f"fewer samples at a time"
        )
    made = errors.UnrunnableInputError if of_input else errors.ExecutionError
    return made(f"ONNX Runtime failed to run the graph: {_words(error)}")


def _words(error: Exception) -> str:
    """What the library says, in one line."""
    return " ".join(str(error).split())[:_LONGEST] or type(error).__name__
