"""Which library runs an artifact here, on what, and why not the others."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from repr_runtime import errors
from repr_runtime.artifact.limits import Limits
from repr_runtime.artifact.manifest import FileEntry, Manifest
from repr_runtime.artifact.onnx_file import cost_of
from repr_runtime.artifact.reading import read_consistently, read_file, read_manifest
from repr_runtime.backends.base import Backend
from repr_runtime.backends.tensorrt.backend import TensorRTOptions
from repr_runtime.backends.tuning import GOALS, Setting, resolve, tuning_subject
from repr_runtime.machine import cpu_flags, usable_cores
from repr_runtime.options import MANY, require_one_of, require_path, require_whole

DEVICES = ("auto", "tensorrt", "cuda", "onnxruntime-tensorrt", "openvino", "cpu")
"""``tensorrt`` runs the artifact's engines; the others give its graphs to OpenVINO or ONNX Runtime."""

NONFINITE = ("error", "allow")

# Where a precision has several graphs, which of them: the first that there is. A graph made for
# another target computes the same, more slowly.
_TARGETS = {
    "cpu": ("cpu", "tensorrt"),
    "openvino": ("cpu", "tensorrt"),
    "cuda": ("tensorrt", "cpu"),
    "onnxruntime-tensorrt": ("tensorrt",),
    "tensorrt": ("tensorrt",),  # the graph that the engine was built from
}

_MANY = 8
"""Images at once from which OpenVINO is the faster one for int8 with AVX512-VNNI, too."""

_LITTLE = 1_000_000
"""Multiply-adds of a batch up to which one CPU thread is faster than several."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadOptions:
    """What :func:`~repr_runtime.session.load` is asked for; it says what each field means.

    Raises :class:`OptionError` for what none may be, and :class:`DeviceUnavailableError` for a
    device that there is not.
    """

    device: str = "auto"
    precision: str = "fp32"
    threads: int | None = None
    instances: int | None = None
    nonfinite: str = "error"
    tensorrt: TensorRTOptions = field(default_factory=TensorRTOptions)
    engine: str | os.PathLike[str] | None = None
    trust: bool = False
    tuned: str | Setting | None = None
    batch: int | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise errors.DeviceUnavailableError(
                f"there is no device {self.device!r}; known are {', '.join(DEVICES)}"
            )
        require_one_of(NONFINITE, nonfinite=self.nonfinite)
        for name in ("threads", "instances", "batch"):
            if (value := getattr(self, name)) is not None:
                require_whole(1, MANY, **{name: value})
        if self.engine is not None:
            require_path(engine=self.engine)
        if self.tuned is not None and not isinstance(self.tuned, Setting):
            require_one_of(GOALS, tuned=self.tuned)
        if not isinstance(self.tensorrt, TensorRTOptions):
            raise errors.OptionError(f"options must be TensorRTOptions, got {self.tensorrt!r:.60}")
        if not isinstance(self.limits, Limits):
            raise errors.OptionError(f"limits must be Limits, got {self.limits!r:.60}")
        if self.engine is not None and self.device not in ("auto", "tensorrt"):
            raise errors.OptionError(f"an engine runs with device='tensorrt', not {self.device!r}")


@dataclass(frozen=True)
class Opened:
    """An artifact's backend: ``graph`` is the file that it runs, or that its engine came from."""

    manifest: Manifest
    graph: FileEntry
    backend: Backend
    choice: str


def open_backend(root: Path, options: LoadOptions) -> Opened:
    """The artifact in ``root``, all of one export, on the device of ``options``.

    ``auto`` takes the best there is: a TensorRT engine that passes all checks, else ONNX Runtime
    on CUDA, else on the CPU; there the library that was the fastest when it was tuned here, else
    the one that usually is. ``choice`` says which, and why not those before it. ``instances``
    are the runs that go on side by side: an engine's contexts, or instances of ONNX Runtime
    (None: as the TensorRT options say, and one). Raises :class:`ArtifactError`,
    :class:`BackendError` and :class:`MissingExtraError`.
    """
    if options.instances is not None:
        contexts = replace(options.tensorrt, contexts=options.instances)
        options = replace(options, tensorrt=contexts)
    opened = read_consistently(root, lambda: _Artifact(root, read_manifest(root), options).open())
    _log.info("%s, %s: %s", root, opened.graph.path, opened.choice)
    return opened


@dataclass(frozen=True)
class _Artifact:
    root: Path
    manifest: Manifest
    options: LoadOptions

    def open(self) -> Opened:
        if self.options.engine is not None:
            return self._engine()
        device = self.options.device
        if device == "auto":
            return self._best()
        opened = self._engine() if device == "tensorrt" else self._graph_on(device)
        return replace(opened, choice=f"{opened.choice}, as asked for")

    def _best(self) -> Opened:
        """The first candidate that can be had."""
        from repr_runtime.backends import onnxruntime as ort

        self._graph("cpu")  # without one there is nothing to choose
        precision, remark = self.options.precision, ", the fastest that works here"
        has_engine = any(info.precision == precision for info in self.manifest.engines)
        refused: list[str] = []
        level = logging.WARNING
        bearable: dict[str, type[errors.ReproError]] = {"tensorrt": errors.ReproError}
        bearable["cuda"] = errors.DeviceUnavailableError
        for device, kind in bearable.items():
            if device == "cuda":
                reason = ort.why_not("cuda")
            else:
                reason = None if has_engine else f"the artifact has no {precision} engine"
            if reason is None:
                try:
                    opened = self._engine() if device == "tensorrt" else self._graph_on(device)
                    break
                except kind as error:
                    reason = str(error)
                    if isinstance(error, errors.UnsupportedGpuError):
                        level = logging.INFO  # nothing here is wrong, or could be mended
            _log.debug("%s: not on %s: %s", self.root, device, reason)
            refused.insert(0, f"not on {device}: {reason}")
        else:
            opened, remark = self._on_cpu(refused), ""
            device = "cpu"
        if device != "tensorrt" and has_engine:
            _log.log(level, "%s runs on %s; %s", self.root, device, refused[-1])
        return replace(opened, choice="; ".join([opened.choice + remark, *refused]))

    def _engine(self) -> Opened:
        """The artifact's best engine, or the one in the file that was asked for."""
        from repr_runtime.backends.tensorrt import engines

        graph, asked = self._graph("tensorrt"), self.options
        which = (self.root, self.manifest, asked.precision)
        if asked.engine is None:
            return Opened(self.manifest, graph, *engines.open_engine(*which, asked.tensorrt))
        got = engines.open_engine_file(*which, asked.engine, asked.trust, asked.tensorrt)
        return Opened(self.manifest, graph, *got)

    def _on_cpu(self, refused: list[str]) -> Opened:
        """The graph in the library that is the fastest here; ``refused`` gets why not the other."""
        plan = CpuPlan.of(self.options, self.manifest)
        if plan.library == "openvino":
            try:
                return self._openvino(plan)
            except (errors.DeviceUnavailableError, errors.ModelLoadError) as error:
                if self.options.precision == "bf16":  # the other one has no kernels of it
                    raise
                refused.insert(0, f"not on openvino: {error}")
                plan = CpuPlan.of(self.options, self.manifest, "onnxruntime")
        return self._onnxruntime("cpu", plan)

    def _graph_on(self, device: str) -> Opened:
        if device == "openvino":
            return self._openvino(CpuPlan.of(self.options, self.manifest, "openvino"))
        plan = CpuPlan.of(self.options, self.manifest, "onnxruntime") if device == "cpu" else None
        return self._onnxruntime(device, plan)

    def _openvino(self, plan: CpuPlan) -> Opened:
        """The graph in OpenVINO, of which each instance has a stream of its own."""
        from repr_runtime.backends.openvino.backend import open_openvino
        from repr_runtime.backends.openvino.compiling import version

        if self.options.limits.load_seconds is not None:
            raise errors.DeviceUnavailableError(
                "OpenVINO cannot give up loading (Limits.load_seconds); use device='cpu'"
            )
        graph = self._graph("openvino", plan.target)
        content, _ = self._content(graph)
        backend = open_openvino(
            content,
            graph.sha256,
            self.options.precision,
            (self.manifest.inputs, self.manifest.outputs),
            threads=plan.threads,
            instances=plan.instances,
            batch=plan.batch,
            run_seconds=self.options.limits.run_seconds,
        )
        choice = f"OpenVINO {version()} on cpu, {backend.computed}{plan.words}"
        return Opened(self.manifest, graph, backend, choice)

    def _onnxruntime(self, device: str, plan: CpuPlan | None) -> Opened:
        """The graph in ONNX Runtime; the cores are shared by instances."""
        from repr_runtime.backends import onnxruntime as ort
        from repr_runtime.backends.instances import Instances

        graph = self._graph(device, plan.target if plan else None)
        content, constant_bytes = self._content(graph)
        count = plan.instances if plan else self.options.instances or 1
        threads = plan.threads if plan else self.options.threads or _threads(count)
        words = plan.words if plan else self._words_of_gpu(count, threads)

        def one() -> ort.OnnxRuntimeBackend:
            return ort.OnnxRuntimeBackend(
                content,
                device,
                threads,
                gpu=self.options.tensorrt.gpu,
                setting=plan.setting if plan else None,
                single_thread_batch=plan.single_thread_batch if plan else 0,
                constant_bytes=constant_bytes,
                load_seconds=self.options.limits.load_seconds,
                run_seconds=self.options.limits.run_seconds,
                tf32=self.options.precision in ("fp16", "bf16"),
            )

        choice = f"ONNX Runtime {ort.version()} on {device}{words}"
        if count == 1:
            backend = one()
            return Opened(self.manifest, graph, backend, choice + backend.remark)
        # On one CPU thread the caller's own runs the graph: any number of them share a session.
        sharing = count if device == "cpu" and threads == 1 else 1
        with ExitStack() as unless_all_open:
            opened = []
            for _ in range(count // sharing):
                opened.append(one())
                unless_all_open.callback(opened[-1].close)
            unless_all_open.pop_all()
        choice += opened[0].remark
        return Opened(self.manifest, graph, Instances(opened * sharing), choice)

    def _words_of_gpu(self, count: int, threads: int | None) -> str:
        """What is to be said of ONNX Runtime on a GPU."""
        words = ""
        if count > 1:
            words += (
                f", {count} instances of {'1 thread' if threads == 1 else f'{threads} threads'}"
            )
        if self.options.tuned is not None:
            about = "tuned settings are the CPU's"
            _log.warning("%s: %s", self.manifest.name, about)
            words += f", {about}"
        if self.options.precision == "int8" and self.options.device != "onnxruntime-tensorrt":
            words += ", what is int8 in the graph computed in float32"  # it has no kernels of int8
        return words

    def _content(self, graph: FileEntry) -> tuple[bytes, int]:
        """A graph within the limits, and the bytes that one of its constants may become."""
        limits, path = self.options.limits, self.root / graph.path
        if graph.bytes > limits.size:
            raise errors.LimitError(
                f"{path} has {graph.bytes:,} bytes, the limit is {limits.size:,} (Limits.size)"
            )
        content = read_file(self.root, graph)
        try:
            cost = cost_of(content, limits)
        except errors.LimitError as error:
            raise errors.LimitError(f"{path}: {error}; raise it if you know who made it") from error
        if cost.external:
            raise errors.ExternalDataError(
                f"{path} keeps tensors in other files, which no hash covers; "
                f"export it again from a model with its weights inside"
            )
        return content, (len(content) + limits.constants) // max(cost.constant, 1)

    def _graph(self, device: str, target: str | None = None) -> FileEntry:
        precision = self.options.precision
        for each in (target, *_TARGETS[device]) if target else _TARGETS[device]:
            entry = self.manifest.graph(precision, each)
            if entry is not None:
                return entry
        raise errors.PrecisionNotFoundError(
            f"{self.root} has no {precision} graph; it has {', '.join(self.manifest.precisions)}. "
            f"Choose one of them, or export the network again with that precision"
        )


@dataclass(frozen=True)
class CpuPlan:
    """How a graph is run on the CPU; what was asked for by name comes before what was tuned.

    ``target`` is which of a precision's graphs is run (None: the one for CPUs), ``setting`` what
    ONNX Runtime is set to, and batches of up to ``single_thread_batch`` samples run on the calling
    thread. ``words`` are what is to be said of it all.
    """

    library: str
    target: str | None
    threads: int | None
    instances: int
    batch: int | None
    setting: Setting | None
    single_thread_batch: int
    words: str

    @classmethod
    def of(cls, options: LoadOptions, manifest: Manifest, library: str | None = None) -> Self:
        """The plan for ``library``; for None, for the one that is the fastest here."""
        subject = tuning_subject(manifest, options.precision)
        tuned, why = options.tuned, ""
        if tuned is None and library is None:  # what was tuned here is what is fastest here
            tuned = "latency" if (options.instances or 1) == 1 else "throughput"
        if isinstance(tuned, Setting) and library not in (None, tuned.library):
            raise errors.OptionError(
                f"the setting is one of {tuned.library} ({tuned}), and the device another library's; "
                f"use device='auto'"
            )
        setting, about = resolve(tuned, subject, options.batch, library)
        if setting is None and options.tuned is None:
            about = ""
        if options.tuned is not None and setting is None:
            _log.warning("%s: %s", manifest.name, about)
        if library is None:
            library, why = usual_library(options.precision, options.batch)
            library, why = (library, why) if setting is None else (setting.library, "")
        threads, instances = options.threads, options.instances
        asked = threads is not None or instances is not None
        if setting is not None and asked:
            about += ", but for the threads and instances that were asked for"
        elif setting is not None:
            threads, instances = setting.threads, setting.instances
        count, cores = instances or 1, usable_cores()
        single = 0
        if threads is None and setting is None and count == 1 and cores > 1:
            of_one = manifest.network.multiply_adds
            batched = all(spec.shape and isinstance(spec.shape[0], str) for spec in manifest.inputs)
            single = _LITTLE // of_one if of_one and batched else 0
        threads = threads or _threads(count)
        words = "".join(f", {part}" for part in (why, about) if part)
        if count > 1 and (setting is None or asked):  # else its words have said it
            each = "1 thread" if threads == 1 else f"{threads} threads"
            words = f", {count} instances of {each}{words}"
        target = setting.target if setting is not None else None
        batch = options.batch or (setting.batch if setting is not None else None)
        return cls(library, target, threads, count, batch, setting, single, words)


def usual_library(precision: str, batch: int | None = None) -> tuple[str, str]:
    """The library that is the faster one on this CPU where nothing was tuned, and why.

    ``batch`` is the size that it is to be fastest at, if any. Measured over the bundled networks:
    benchmarks/README.md has the ratios.
    """
    if precision == "bf16":
        return "openvino", "which alone computes bf16 on a CPU"
    if precision == "int8" and "amx_int8" in cpu_flags():
        return "openvino", "the faster one for int8 on CPUs with AMX"
    if precision == "int8" and "avx512_vnni" in cpu_flags() and (batch or 1) >= _MANY:
        return "openvino", f"the faster one for int8 from {_MANY} images at once"
    return "onnxruntime", ""


def _threads(instances: int) -> int | None:
    """Of each instance; None where the library may take its own choice.

    Left to itself, it binds threads to cores that a pinned process may not use.
    """
    cores = usable_cores()
    if instances == 1 and cores >= (os.cpu_count() or 1):
        return None
    return max(1, cores // instances)
