"""Runs TensorRT engines, of `tensorrt` and `tensorrt_rtx` alike, from any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from repr_runtime import errors
from repr_runtime.artifact.manifest import ProfileInfo, TensorSpec
from repr_runtime.artifact.reading import CACHE_SUFFIX
from repr_runtime.backends.base import Backend, Timings
from repr_runtime.backends.compiled_cache import read_cache, write_cache
from repr_runtime.backends.tensorrt.device_memory import DeviceMemory
from repr_runtime.backends.tensorrt.lane import GraphPolicy, Lane, has_free_batch
from repr_runtime.backends.tensorrt.lanes import Lanes
from repr_runtime.backends.tensorrt.library import Library, sizes
from repr_runtime.backends.tensorrt.messages import begin, last_error, logger
from repr_runtime.cuda.arrays import DeviceArray, DeviceView, device_of, is_device_array, view
from repr_runtime.cuda.device import Cuda
from repr_runtime.options import require_one_of, require_whole

if TYPE_CHECKING:
    import tensorrt as trt

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
SPECIALIZATIONS = ("lazy", "eager", "none")


@dataclass(frozen=True)
class TensorRTOptions:
    """How engines are run.

    ``gpu`` is the device's index. ``cuda_graphs`` replays captured graphs, which saves the
    launches of small batches. ``contexts`` bounds how many runs may be on the device at once,
    each with buffers of its own; further ones wait. ``timed`` measures each run with events
    (``Session.timings``). For TensorRT-RTX alone: ``specialization`` says when kernels are
    compiled for the shapes that come, ``"lazy"`` (a general one runs meanwhile), ``"eager"``
    (the first run of a shape waits: what to measure with) or ``"none"``; ``runtime_cache``
    keeps what was compiled in a file beside the engine.
    """

    gpu: int = 0
    cuda_graphs: bool = True
    contexts: int = 8
    timed: bool = False
    specialization: str = "lazy"
    runtime_cache: bool = True

    def __post_init__(self) -> None:
        require_one_of(SPECIALIZATIONS, specialization=self.specialization)
        require_whole(1, contexts=self.contexts)
        require_whole(0, gpu=self.gpu)


@dataclass(frozen=True)
class EngineFile:
    """An engine to run: its bytes, which whoever made this has reason to trust.

    ``path`` and ``sha256`` say where it came from, for the runtime cache. ``graph`` is the ONNX
    file whose weights it needs, where it was built without any. ``host_code``: it brings code
    for the CPU along, as version-compatible engines do. ``rebuild`` is the command that makes
    it anew.
    """

    content: bytes
    path: Path
    sha256: str
    rebuild: str
    graph: bytes | None = None
    host_code: bool = False


class TensorRTBackend(Backend):
    """An engine that is ready to run.

    Each run has a lane to itself: an execution context, a stream and buffers, allocated once
    for a profile. Lanes stay and are taken again, those of the same batch size first. numpy
    arrays go through pinned memory; device arrays are copied on the device, never through the
    host, and then the outputs are device arrays as well. Either way the outputs are new, the
    caller's, and complete when ``run`` returns; inputs may be changed from then on.

    Batches are padded to a few sizes, where CUDA graphs are captured, if all inputs and
    outputs have one row a sample; of the padding nothing comes out.
    """

    name = "tensorrt"

    def __init__(
        self, engine: EngineFile, library: Library, cuda: Cuda, options: TensorRTOptions
    ) -> None:
        """Deserialize ``engine``. ``cuda`` is closed with the backend, or if this raises.

        Raises :class:`EngineLoadError` and its kinds if the library refuses the engine, and
        :class:`CudaError` if the device does.
        """
        self.library, self.options, self.device = library, options, f"cuda:{cuda.device}"
        self.instances = options.contexts
        self._cuda, self._file = cuda, engine
        self._trt = library.trt
        self._memory = DeviceMemory(cuda)
        self._last, self._making = threading.local(), threading.Lock()
        self._runtime: trt.Runtime | None = None
        self._engine: trt.ICudaEngine | None = None
        self._config: Any = None
        self._cache: Any = None
        self._cached = b""
        self._kernels_path = engine.path.with_name(engine.path.name + CACHE_SUFFIX)
        try:
            # The device first: an engine that another one was current for captures empty graphs.
            with cuda.current():
                self._open()
        except BaseException:
            self._engine = self._runtime = self._config = self._cache = None
            self._memory.close()
            raise
        own_graphs = options.cuda_graphs and not library.captures_itself
        self._policy = GraphPolicy(own_graphs)
        self._lanes = Lanes(cuda, self._make_lane, self._dispose, options.contexts)

    def _open(self) -> None:
        begin()
        self._runtime = self.library.runtime()
        if self._file.host_code:
            self._runtime.engine_host_code_allowed = True
        engine = self.library.deserialize(self._runtime, self._file.content)
        self._engine = engine
        if self._file.graph is not None:
            self._refit(engine, self._file.graph)
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        mode = self._trt.TensorIOMode.INPUT
        is_input = {name: engine.get_tensor_mode(name) == mode for name in names}
        self.inputs = tuple(_spec(engine, name) for name in names if is_input[name])
        self.outputs = tuple(_spec(engine, name) for name in names if not is_input[name])
        self.profiles = tuple(
            self._profile(engine, index) for index in range(engine.num_optimization_profiles)
        )
        # Rows can be added and cut off again only where each stands for a sample.
        self._pads = all(map(has_free_batch, self.inputs + self.outputs))
        free = [spec.name for spec in self.inputs if has_free_batch(spec)]
        self._counted = free[0] if free else None
        self._config = self._runtime_config(engine)

    def _refit(self, engine: trt.ICudaEngine, graph: bytes) -> None:
        if self.library.edition.lean:
            raise errors.MissingExtraError("putting weights into an engine", "tensorrt")
        refitter = self._trt.Refitter(engine, logger(self._trt))
        parser = self._trt.OnnxParserRefitter(refitter, logger(self._trt))
        if not parser.refit_from_bytes(graph) or not refitter.refit_cuda_engine():
            raise errors.EngineLoadError(
                f"the engine was built without weights, and {self.library.title} cannot put the "
                f"graph's into it ({last_error()}); {self._file.rebuild}"
            )

    def _profile(self, engine: trt.ICudaEngine, index: int) -> ProfileInfo:
        """The batch sizes that the profile allows, which all inputs share."""
        bounds = [
            [shape[0] for shape in engine.get_tensor_profile_shape(spec.name, index)]
            for spec in self.inputs
            if has_free_batch(spec)
        ]
        if not bounds:
            rows = next((s.shape[0] for s in self.inputs if s.shape), 1)
            assert isinstance(rows, int)
            return ProfileInfo(rows, rows, rows)
        low, best, high = (list(column) for column in zip(*bounds, strict=True))
        return ProfileInfo(max(low), best[0], min(high))

    def _runtime_config(self, engine: trt.ICudaEngine) -> Any:
        """TensorRT-RTX's settings for contexts, None for TensorRT, which has none of them."""
        strategies = getattr(self._trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is None:
            return None
        config: Any = engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = getattr(
            strategies, self.options.specialization.upper()
        )
        if self.library.captures_itself and self.options.cuda_graphs:
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if self.options.runtime_cache and hasattr(config, "create_runtime_cache"):
            self._cache = config.create_runtime_cache()
            kernels = read_cache(self._kernels_path, self._file.sha256)
            # The library compares the file with GPU, driver and its own version, and says no.
            if kernels is not None and self._cache.deserialize(kernels):
                self._cached = kernels
            config.set_runtime_cache(self._cache)
        return config

    def _make_lane(self, index: int) -> Lane:
        engine = self._engine
        assert engine is not None
        config = () if self._config is None else (self._config,)
        with self._making:  # an engine's own methods are not said to be safe in several threads
            context = engine.create_execution_context(*config)
        if context is None:  # for want of memory, as a rule
            raise errors.DeviceMemoryError(
                f"{self.library.title} makes no execution context ({last_error()}); free memory on "
                f"the device, or build with a smaller largest batch: {self._file.rebuild}"
            )
        tensors, largest = (self.inputs, self.outputs), self.profiles[index].max
        timed = self.options.timed
        return Lane(self._cuda, context, index, tensors, largest, self._policy, timed=timed)

    @property
    def timings(self) -> Timings | None:
        """Of this thread's last run; None before the first, and unless ``options.timed``."""
        return getattr(self._last, "timings", None)

    def chunk(self, count: int) -> int | None:
        if any(p.min <= count <= p.max for p in self.profiles):
            return None
        return max(p.max for p in self.profiles)

    def run(self, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return self._run(feed, None)

    def run_on_device(
        self, feed: Mapping[str, Any], check: Callable[[Mapping[str, Any]], None]
    ) -> list[DeviceArray]:
        """As ``run``, with device arrays among the inputs and as outputs.

        ``check`` gets what stands for the arrays to numpy, name by name: same shapes and
        dtypes. Raises :class:`InputTypeError` for an array of another device.
        """
        views: dict[str, NDArray[Any] | DeviceView] = {}
        for name, value in feed.items():
            if not is_device_array(value):
                views[name] = value
                continue
            if (device := device_of(value)) not in (None, self._cuda.device):
                raise errors.InputTypeError(
                    f"input {name!r} lies on cuda:{device}, the engine is on "
                    f"{self.device}; copy it there"
                )
            with self._lanes.enter():  # torch shares only what lies on the current device
                views[name] = view(value)
        check(views)
        return self._run(views, self._memory.array)

    def _run(self, feed: Mapping[str, Any], fresh: Any) -> list[Any]:
        begin()
        batch = self.profiles[0].max if self._counted is None else feed[self._counted].shape[0]
        index = self._choose_profile(batch)
        capturing = self._policy.on and self._pads
        rows = self._bucket(self.profiles[index], batch) if capturing else batch
        with self._lanes.take(index, rows, self._policy.on) as (lane, is_new):
            outputs = lane.run(feed, batch, rows, fresh)
            self._last.timings = lane.timings
            if is_new and self._cache is not None:
                self._save_cache()
        return outputs

    def _choose_profile(self, batch: int) -> int:
        fitting = [i for i, p in enumerate(self.profiles) if p.min <= batch <= p.max]
        if not fitting:
            known = ", ".join(
                f"{p.min} to {p.max}" if p.min < p.max else str(p.min) for p in self.profiles
            )
            raise errors.BatchSizeError(
                f"the engine takes batches of {known}, got {batch}; give such, or build it with "
                f"others: {self._file.rebuild} --shapes min,opt,max"
            )
        return min(fitting, key=lambda i: (abs(self.profiles[i].opt - batch), self.profiles[i].max))

    @staticmethod
    def _bucket(profile: ProfileInfo, batch: int) -> int:
        """The smallest size at least ``batch`` of those that graphs are captured for."""
        power = 1 << (batch - 1).bit_length()
        candidates = (power, profile.min, profile.opt, profile.max)
        return min(size for size in candidates if batch <= size <= profile.max)

    def _save_cache(self) -> None:
        kernels = bytes(self._cache.serialize())
        if kernels != self._cached and write_cache(self._kernels_path, self._file.sha256, kernels):
            self._cached = kernels

    def interrupt(self) -> None:
        """Nothing: what a GPU was given, it runs to its end."""

    def close(self) -> None:
        self._lanes.close()

    def _dispose(self) -> None:
        """Called once, when the last lane is closed, with the device current."""
        try:
            if self._cache is not None:
                self._save_cache()
        finally:
            self._cache = self._config = self._engine = self._runtime = None
            self._memory.close()


def _spec(engine: trt.ICudaEngine, name: str) -> TensorSpec:
    kind = engine.get_tensor_dtype(name).name
    if kind not in _DTYPES:
        raise errors.ModelLoadError(
            f"{name!r} of the engine is {kind}, which numpy cannot hold; export with --io fp32"
        )
    found = sizes(engine.get_tensor_shape(name))
    shape: tuple[int | str, ...] = tuple(
        size if size >= 0 else "batch" if axis == 0 else f"{name}_{axis}"
        for axis, size in enumerate(found)
    )
    if any(isinstance(size, str) for size in shape[1:]):
        raise errors.ModelLoadError(
            f"{name!r} of the engine has shape {found}; only its first dimension may be free"
        )
    return TensorSpec(name, _DTYPES[kind], shape)
