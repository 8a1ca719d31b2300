"""Will this TensorRT engine run here? One question after the other, each with the way out."""

import math
import platform
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from repr_runtime import errors
from repr_runtime.artifact.manifest import EngineInfo, FileEntry, Manifest
from repr_runtime.artifact.reading import check_size, read_file
from repr_runtime.backends.tensorrt.library import (
    EDITIONS,
    ONLY_COMPATIBLE,
    Edition,
    Library,
    open_library,
    runner,
)
from repr_runtime.cuda.device import Cuda
from repr_runtime.cuda.driver import Gpu, cuda_status
from repr_runtime.cuda.opening import open_cuda


@dataclass(frozen=True)
class Check:
    """One question, whether it was answered well, and the answer in a sentence."""

    name: str
    passed: bool
    detail: str


def rebuild_command(manifest: Manifest, precision: str, edition: str) -> str:
    """The command that builds the engine anew on this machine."""
    known = manifest.network.source == "registry"
    network = manifest.name if known else "YOUR-NETWORK"
    lower = "" if precision == "fp32" else f" --{precision}"
    return f"repr-export {network}{lower} --engine {edition}"


@dataclass(frozen=True)
class Subject:
    """The engine in question: the artifact's folder and manifest, the GPU's index, a batch size."""

    root: Path
    manifest: Manifest
    info: EngineInfo
    gpu: int = 0
    batch: int | None = None

    @property
    def edition(self) -> Edition:
        if self.info.flavour not in EDITIONS:
            raise errors.EngineLoadError(
                f"{self.info.path} is for {self.info.flavour!r}, known are {', '.join(EDITIONS)}; "
                f"update repr-deploy, or {self.rebuild.replace(self.info.flavour, 'auto')}"
            )
        return runner(self.info.flavour)

    @cached_property
    def library(self) -> Library:
        """The library that runs it, imported at the first question that needs it."""
        return open_library(self.edition)

    @property
    def rebuild(self) -> str:
        flavour = self.info.flavour
        lean = flavour in EDITIONS and runner(flavour).lean
        command = rebuild_command(self.manifest, self.info.precision, flavour)
        return f"{command} --version-compatible" if lean else command

    @property
    def file(self) -> FileEntry:
        entry = self.manifest.file(self.info.path)
        assert entry is not None, "a manifest that lists an engine lists its file"
        return entry

    @property
    def device(self) -> Gpu:
        status = cuda_status()
        if self.gpu >= status.devices:
            reason = status.reason or f"there is no GPU {self.gpu}, only {status.devices}"
            gpus = [*self.info.compute_capabilities] or ["the builder's"]
            if self.info.options.get("later_compute_capabilities"):
                gpus.append("later")
            cuda = self.edition.cuda_major
            driver = f"a driver for CUDA {cuda}.0 or later" if cuda else "its driver"
            raise errors.DeviceUnavailableError(
                f"{reason}; the engine needs an NVIDIA GPU of compute capability "
                f"{' or '.join(gpus)}, and {driver}"
            )
        return status.gpus[self.gpu]


def require_fresh(subject: Subject) -> str:
    """Raises :class:`StaleEngineError` unless the engine was built from the artifact's graph."""
    info = subject.info
    graph = subject.manifest.graph(info.precision, "tensorrt")
    if graph is None or graph.sha256 != info.graph_sha256:
        now = f"now it is {graph.sha256[:12]}…" if graph else "now there is none"
        raise errors.StaleEngineError(
            f"{info.path} is stale: it was built from the {info.precision} graph {info.graph_sha256[:12]}…, "
            f"{now}; {subject.rebuild}"
        )
    return f"built from {graph.path} as it is"


def _file(subject: Subject) -> str:
    check_size(subject.root, subject.file)
    return f"{subject.file.bytes / 1e6:.1f} MB, as exported"


def _precision(subject: Subject) -> str:
    kept = "; TF32 in fp32 layers" if subject.info.options.get("tf32") else ""
    return f"{subject.info.precision}{kept}"


def _gpu(subject: Subject) -> str:
    """Before the library is missed, or its version found wrong: none would run there."""
    gpu, edition = subject.device, subject.edition
    if not edition.takes(gpu.compute_capability):
        if not edition.installed:
            raise edition.wrong_gpu(str(gpu))
        subject.library.require_gpu(gpu)
    return gpu.name


def _version(subject: Subject) -> str:
    info, installed, edition = subject.info, subject.library.version, subject.edition
    built, here = _numbers(info.version), _numbers(installed)
    compatible = info.options.get("version_compatible")
    if edition.lean and not compatible:
        raise errors.EngineVersionError(
            f"{info.path} was built to run with TensorRT {info.version} alone, here is "
            f"{subject.library.title}: {ONLY_COMPATIBLE}"
        )
    if edition.lean and info.options.get("refit_before_use"):
        raise errors.MissingExtraError(
            f"{info.path} was built without its weights: putting them in", "tensorrt"
        )
    if built == here:
        return f"built by {info.version}, which is installed"
    if compatible and built <= here:
        return f"built by {info.version} to run with later ones, such as {installed}"
    other, package = "no other", f"'{edition.name}=={info.version}'"
    if compatible:
        other, package = "none before it", f"--upgrade 'repr-deploy[{edition.name}]'"
    raise errors.EngineVersionError(
        f"{info.path} was built by {EDITIONS[info.flavour].title} {info.version} and runs with "
        f"{other}, installed is {installed}; {subject.rebuild}, or pip install {package}"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d{1,18}", version)[:4]))  # more digits are no version's


def _system(subject: Subject) -> str:
    here = f"{sys.platform}-{platform.machine().lower()}"
    if subject.info.platform != here:
        raise errors.EngineVersionError(
            f"{subject.info.path} was built for {subject.info.platform}, this is {here}; "
            f"{subject.rebuild}"
        )
    return here


def _driver(subject: Subject) -> str:
    driver, needed = cuda_status().driver, subject.edition.cuda_major
    known = ".".join(map(str, driver)) if driver else "unknown"
    if driver and needed and driver[0] < needed:
        raise errors.DeviceUnavailableError(
            f"the driver speaks CUDA {known}, {subject.library.title} needs {needed}.0; update "
            f"NVIDIA's driver"
        )
    return f"speaks CUDA {known}"


def _capability(subject: Subject) -> str:
    info, gpu = subject.info, subject.device
    here, listed = gpu.compute_capability, info.compute_capabilities
    if here in listed:
        return f"built for {here}, which {gpu.name} has"
    if subject.edition.just_in_time:
        later = info.options.get("later_compute_capabilities")
        if later and listed and _numbers(here) > max(map(_numbers, listed)):
            return f"built for {', '.join(listed)} and later; {gpu.name} has {here}"
        # Between those listed only the library knows.
        content = read_file(subject.root, subject.file)
        with _current(subject):
            invalid = subject.library.invalid(content)
        if invalid == ():
            return f"{gpu.name} has {here}, and the library says that it will run"
        if invalid is None:
            return f"{gpu.name} has {here}; whether it runs there shows when it is loaded"
    way_out = f"{subject.rebuild} on this machine"
    if not subject.library.builds_for(here):
        way_out = f"{subject.library.title} builds for none such, use device='cuda' or 'cpu'"
    raise errors.WrongGpuError(
        f"{info.path} was built for compute capability {', '.join(listed)}, {gpu.name} has {here}; "
        f"{way_out}"
    )


def _batch(subject: Subject) -> str:
    profiles = subject.info.profiles
    known = ", ".join(f"{p.min} to {p.max} (fastest at {p.opt})" for p in profiles)
    if subject.batch is not None and not any(p.min <= subject.batch <= p.max for p in profiles):
        raise errors.BatchSizeError(
            f"{subject.info.path} takes batches of {known}, not {subject.batch}; "
            f"{subject.rebuild} --shapes 1,{subject.batch},{subject.batch}"
        )
    return f"batches of {known}"


@contextmanager
def _current(subject: Subject) -> Iterator[Cuda]:
    cuda = open_cuda(subject.gpu)
    try:
        with cuda.current():
            yield cuda
    finally:
        cuda.close()


def _memory(subject: Subject) -> str:
    """At least the weights and one set of buffers; what layers need besides, nobody knows yet."""
    manifest, largest = subject.manifest, max((p.max for p in subject.info.profiles), default=1)
    buffers = sum(
        math.prod(largest if isinstance(size, str) else size for size in spec.shape)
        * np.dtype(spec.dtype).itemsize
        for spec in manifest.inputs + manifest.outputs
    )
    needed = subject.file.bytes + buffers
    with _current(subject) as cuda:
        free, _ = cuda.memory_info()
    if free < needed:
        raise errors.DeviceMemoryError(
            f"{free / 2**20:,.0f} MiB are free on {subject.device.name}, {subject.info.path} needs "
            f"{needed / 2**20:,.0f} MiB at least; end what else runs there, or build with a smaller "
            f"largest batch: {subject.rebuild} --shapes 1,1,{max(1, largest // 4)}"
        )
    return f"{free / 2**20:,.0f} MiB free, {needed / 2**20:,.0f} MiB needed at least"


QUESTIONS: tuple[tuple[str, Callable[[Subject], str]], ...] = (
    ("precision", _precision),
    ("graph", require_fresh),
    ("file", _file),
    ("batch", _batch),
    ("system", _system),
    ("GPU", _gpu),
    ("library", lambda s: f"{s.library.title} is installed"),
    ("version", _version),
    ("driver", _driver),
    ("compute capability", _capability),
    ("memory", _memory),
)
"""In this order: libraries take a while to import, and without a GPU there is no need to.

Each returns its answer or raises what ``load`` raises.
"""

# An answer that another question needs: without a library there is no version to compare.
_NEEDS = {
    "version": {"library"},
    "driver": {"library", "GPU"},
    "compute capability": {"file", "library", "GPU"},
    "memory": {"file", "GPU"},
}


def check_engine(subject: Subject) -> tuple[Check, ...]:
    """Ask everything; never raises for an unfit engine. Questions without sense are left out."""
    checks: list[Check] = []
    failed: set[str] = set()
    for name, question in QUESTIONS:
        if _NEEDS.get(name, set()) & failed:
            continue
        try:
            checks.append(Check(name, True, question(subject)))
        except errors.ReproError as error:
            failed.add(name)
            checks.append(Check(name, False, str(error)))
    return tuple(checks)


def require_runnable(subject: Subject) -> None:
    """Raise what the first question that fails raises."""
    for _, question in QUESTIONS:
        question(subject)
