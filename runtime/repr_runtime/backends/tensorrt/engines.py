"""From an artifact to a running TensorRT engine: which one, may it be trusted, does it load."""

import hashlib
import os
import warnings
from pathlib import Path

from repr_runtime import errors
from repr_runtime.artifact import bounds
from repr_runtime.artifact.manifest import EngineInfo, Manifest
from repr_runtime.artifact.reading import read_file
from repr_runtime.backends.tensorrt.backend import EngineFile, TensorRTBackend, TensorRTOptions
from repr_runtime.backends.tensorrt.checks import (
    Subject,
    rebuild_command,
    require_fresh,
    require_runnable,
)
from repr_runtime.backends.tensorrt.library import EDITIONS, edition_of, open_library
from repr_runtime.cuda.driver import cuda_status
from repr_runtime.cuda.opening import open_cuda
from repr_runtime.files import read_bounded


class ForeignEngineWarning(UserWarning):
    """An engine runs of which nothing says who made it."""


def engines_of(manifest: Manifest, precision: str) -> list[EngineInfo]:
    """The artifact's engines of that precision, in the order in which they are tried."""
    order = {name: place for place, name in enumerate(EDITIONS)}
    found = [info for info in manifest.engines if info.precision == precision]
    return sorted(found, key=lambda info: order.get(info.flavour, len(order)))


def open_engine(
    root: Path, manifest: Manifest, precision: str, options: TensorRTOptions
) -> tuple[TensorRTBackend, str]:
    """The first engine of that precision that passes every check, and a sentence about it.

    Raises :class:`EngineNotFoundError` if there is none, and else what speaks against the
    last one: :class:`ArtifactError`, :class:`BackendError` or :class:`MissingExtraError`.
    """
    found = engines_of(manifest, precision)
    if not found:
        others = ", ".join(dict.fromkeys(info.precision for info in manifest.engines))
        has = f"its engines are {others}" if others else "it has none"
        raise errors.EngineNotFoundError(
            f"{root} has no {precision} engine ({has}); build one: "
            f"{rebuild_command(manifest, precision, 'auto')}"
        )
    failures: list[str] = []
    for info in found:
        subject = Subject(root, manifest, info, options.gpu)
        try:
            require_runnable(subject)
            content = read_file(root, subject.file)  # the bytes that run are those hashed
            file = _listed(subject, content, root / info.path)
            backend = TensorRTBackend(file, subject.library, open_cuda(options.gpu), options)
        except errors.ReproError as error:
            if info is found[-1]:
                if failures:
                    error.add_note(f"and before that, {'; '.join(failures)}")
                raise
            failures.append(f"{info.path}: {error}")
            continue
        before = f"; not {'; not '.join(failures)}" if failures else ""
        return backend, f"{backend.library.title} on {backend.device}, engine {info.path}{before}"
    raise AssertionError("the last engine returns or raises")


def _listed(subject: Subject, content: bytes, path: Path) -> EngineFile:
    """An engine whose content the manifest vouches for, and the weights that it lacks, if any."""
    graph = None
    if subject.info.options.get("refit_before_use"):
        entry = subject.manifest.graph(subject.info.precision, "tensorrt")
        assert entry is not None, "a fresh engine has its graph"
        graph = read_file(subject.root, entry)
    return EngineFile(
        content=content,
        path=path,
        sha256=subject.file.sha256,
        rebuild=subject.rebuild,
        graph=graph,
        host_code=bool(subject.info.options.get("version_compatible")),
    )


def open_engine_file(
    root: Path,
    manifest: Manifest,
    precision: str,
    engine: str | os.PathLike[str],
    trust: bool,
    options: TensorRTOptions,
) -> tuple[TensorRTBackend, str]:
    """The engine in a file of the user's choice.

    One that the manifest lists, wherever it lies now, is as good as the artifact's own. Any
    other is refused with :class:`ForeignEngineError`, or with ``trust`` run after a warning.
    """
    path = Path(engine)
    try:
        content = read_bounded(path, bounds.FILE_BYTES)
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a name that no file can have
        why = getattr(error, "strerror", None) or errors.words_of(error)
        raise errors.MissingFileError(
            f"the engine {path} cannot be read ({why}); give its path"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    for info in manifest.engines:
        entry = manifest.file(info.path)
        if entry is not None and entry.sha256 == digest:
            if info.precision != precision:
                raise errors.EngineNotFoundError(
                    f"{path} is the artifact's {info.precision} engine, asked for was {precision}; "
                    f"load with precision={info.precision!r}"
                )
            subject = Subject(root, manifest, info, options.gpu)
            require_fresh(subject)
            return _open_content(_listed(subject, content, path), options, "")
    rebuild = rebuild_command(manifest, precision, edition_of(content).engines)
    danger = (
        f"{path} is not listed in the manifest of {root}: an engine is executable code, and nothing "
        f"says who made this one, or that it computes this network"
    )
    if not trust:
        raise errors.ForeignEngineError(
            f"{danger}; build one: {rebuild}, or load with trust=True if you made it yourself"
        )
    warnings.warn(f"{danger}; it runs because of trust=True", ForeignEngineWarning, stacklevel=3)
    file = EngineFile(content, path, digest, rebuild, host_code=True)
    return _open_content(file, options, ", a foreign engine")


def _open_content(
    file: EngineFile, options: TensorRTOptions, remark: str
) -> tuple[TensorRTBackend, str]:
    library = open_library(edition_of(file.content))
    for gpu in cuda_status().gpus[options.gpu :][:1]:
        library.require_gpu(gpu)
    backend = TensorRTBackend(file, library, open_cuda(options.gpu), options)
    where = f"{library.title} on {backend.device}"
    return backend, f"{where}, engine {file.path}{remark}, as asked for"
