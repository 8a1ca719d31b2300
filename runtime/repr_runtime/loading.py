"""Which library runs an artifact here, on what, and why not the others."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from repr_runtime.artifact.manifest import FileEntry, Manifest
from repr_runtime.artifact.onnx_file import external_tensors
from repr_runtime.artifact.reading import read_consistently, read_file, read_manifest
from repr_runtime.backends.base import Backend
from repr_runtime.backends.tensorrt.backend import TensorRTOptions
from repr_runtime.backends.tuning import Setting, resolve
from repr_runtime.errors import (
    DeviceUnavailableError,
    ExternalDataError,
    PrecisionNotFoundError,
)

DEVICES = ("auto", "tensorrt", "cuda", "onnxruntime-tensorrt", "cpu")
"""``tensorrt`` runs the artifact's engines; the others give its graphs to ONNX Runtime."""

# Where a precision has several graphs, which of them: the first that there is. A graph made for
# another target computes the same, more slowly.
_TARGETS = {
    "cpu": ("cpu", "tensorrt"),
    "cuda": ("tensorrt", "cpu"),
    "onnxruntime-tensorrt": ("tensorrt",),
}


_LITTLE = 1_000_000
"""Multiply-adds of a batch up to which one CPU thread is faster than several."""


class Opened:
    """An artifact's backend: ``graph`` is the file that it runs, or that its engine came from."""

    def __init__(self, manifest: Manifest, graph: FileEntry, backend: Backend, choice: str) -> None:
        self.manifest, self.graph, self.backend, self.choice = manifest, graph, backend, choice


def open_backend(
    root: Path,
    device: str,
    precision: str,
    threads: int | None,
    instances: int | None,
    options: TensorRTOptions,
    engine: str | os.PathLike[str] | None,
    trust: bool,
    tuned: str | Setting | None = None,
) -> Opened:
    """The artifact in ``root``, all of one export, on ``device``; ``auto`` takes the best there is.

    That is a TensorRT engine that passes all checks, else ONNX Runtime on CUDA, else on the
    CPU; ``choice`` says which, and why not those before it. ``instances`` are the runs that go
    on side by side: an engine's contexts, or instances of ONNX Runtime (None: as ``options``
    say, and one). Raises :class:`ArtifactError`, :class:`BackendError` and
    :class:`MissingExtraError`.
    """
    if instances is not None:
        options = replace(options, contexts=instances)
    return read_consistently(
        root,
        lambda: _open(root, device, precision, threads, instances, options, engine, trust, tuned),
    )


def _open(
    root: Path,
    device: str,
    precision: str,
    threads: int | None,
    instances: int | None,
    options: TensorRTOptions,
    engine: str | os.PathLike[str] | None,
    trust: bool,
    tuned: str | Setting | None,
) -> Opened:
    # Imported here, since each looks for libraries and drivers.
    from repr_runtime.backends import onnxruntime as ort
    from repr_runtime.backends.tensorrt import engines

    manifest = read_manifest(root)
    if engine is not None:
        graph = _graph(root, manifest, precision, "onnxruntime-tensorrt")
        return Opened(
            manifest,
            graph,
            *engines.open_engine_file(root, manifest, precision, engine, trust, options),
        )
    if device == "tensorrt":
        graph = _graph(root, manifest, precision, "onnxruntime-tensorrt")
        backend, choice = engines.open_engine(root, manifest, precision, options)
        return Opened(manifest, graph, backend, f"{choice}, as asked for")
    if device != "auto":
        graph = _graph(root, manifest, precision, device)
        backend_, title = _onnxruntime(
            root, manifest, graph, device, threads, instances, options.gpu, tuned
        )
        return Opened(manifest, graph, backend_, f"{title}, as asked for")
    graph = _graph(root, manifest, precision, "cpu")
    got = engines.attempt(root, manifest, precision, options)
    if not isinstance(got, str):
        graph = _graph(root, manifest, precision, "onnxruntime-tensorrt")
        return Opened(manifest, graph, got[0], f"{got[1]}, the fastest that works here")
    no_engine = f"not on tensorrt: {got}"
    reason = ort.why_not("cuda")
    if reason is None:
        graph_ = _graph(root, manifest, precision, "cuda")
        try:
            on_cuda, title = _onnxruntime(
                root, manifest, graph_, "cuda", threads, instances, options.gpu, tuned
            )
        except DeviceUnavailableError as error:
            reason = str(error)
        else:
            choice = f"{title}, the fastest that works here; {no_engine}"
            return Opened(manifest, graph_, on_cuda, choice)
    on_cpu, title = _onnxruntime(
        root, manifest, graph, "cpu", threads, instances, options.gpu, tuned
    )
    choice = f"{title}; not on cuda: {reason}; {no_engine}"
    return Opened(manifest, graph, on_cpu, choice)


def _onnxruntime(
    root: Path,
    manifest: Manifest,
    graph: FileEntry,
    device: str,
    threads: int | None,
    instances: int | None,
    gpu: int,
    tuned: str | Setting | None,
) -> tuple[Backend, str]:
    """The graph in ONNX Runtime, and a sentence about it; the cores are shared by instances.

    What was asked for by name comes before what was ``tuned``.
    """
    from repr_runtime.backends import onnxruntime as ort
    from repr_runtime.backends.instances import Instances

    content = _content(root, graph)
    title = f"ONNX Runtime {ort.version()} on {device}"
    asked = threads is not None or instances is not None
    setting, words = None, "tuned settings are the CPU's" if tuned is not None else ""
    if device == "cpu":
        setting, words = resolve(tuned, graph.sha256, ort.version())
    if setting is not None:
        if asked:
            words += ", but for the threads and instances that were asked for"
        else:
            threads, instances = setting.threads, setting.instances
    count, cores = instances or 1, usable_cores()
    alone = 0
    if device == "cpu" and threads is None and setting is None and count == 1 and cores > 1:
        alone = _little(manifest)
    if threads is None and (count > 1 or cores < (os.cpu_count() or 1)):
        # Left to itself, the library binds threads to cores that a pinned process may not use.
        threads = max(1, cores // count)

    def one() -> ort.OnnxRuntimeBackend:
        return ort.OnnxRuntimeBackend(content, device, threads, gpu, setting, alone)

    words = f", {words}" if words else ""
    if count == 1:
        return one(), f"{title}{words}"
    opened = [one()]
    try:
        # On one CPU thread the caller's own runs the graph: any number of them share a session.
        while not (device == "cpu" and threads == 1) and len(opened) < count:
            opened.append(one())
    except BaseException:
        for backend in opened:
            backend.close()
        raise
    if setting is None or asked:  # else its words have said it
        title += f", {count} instances of {'1 thread' if threads == 1 else f'{threads} threads'}"
    backends = opened if len(opened) == count else opened * count
    return Instances(backends), f"{title}{words}"


def _little(manifest: Manifest) -> int:
    """The largest batch that is little work; 0 where even one sample is more, or none can tell."""
    work = manifest.network.multiply_adds
    batched = all(spec.shape and isinstance(spec.shape[0], str) for spec in manifest.inputs)
    return _LITTLE // work if work and batched else 0


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _graph(root: Path, manifest: Manifest, precision: str, device: str) -> FileEntry:
    for target in _TARGETS[device]:
        entry = manifest.graph(precision, target)
        if entry is not None:
            return entry
    raise PrecisionNotFoundError(
        f"{root} has no {precision} graph; it has {', '.join(manifest.precisions)}. Choose one of them, "
        f"or export the network again with that precision"
    )


def _content(root: Path, entry: FileEntry) -> bytes:
    content = read_file(root, entry)
    if external_tensors(content):
        raise ExternalDataError(
            f"{root / entry.path} keeps tensors in other files, which no hash covers; "
            f"export it again from a model with its weights inside"
        )
    return content
