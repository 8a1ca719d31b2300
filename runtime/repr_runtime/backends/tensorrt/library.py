"""`tensorrt`, its lean runtime and `tensorrt_rtx` behind one face: all that differs stands here."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repr_runtime import errors
from repr_runtime.backends.tensorrt.messages import Messages, first_sentence, listen, logger
from repr_runtime.cuda.driver import Gpu, cuda_status
from repr_runtime.process.lifetime import leak

if TYPE_CHECKING:
    import tensorrt as trt


def _is_there(module: str) -> bool:
    try:
        found = importlib.util.find_spec(module)
    except ValueError:  # it was imported in an unusual way
        return module in sys.modules
    return found is not None and found.origin is not None  # type stubs alone have no origin


def _numbers(capability: str) -> tuple[int, ...]:
    return tuple(map(int, capability.split(".")))


@dataclass(frozen=True)
class Edition:
    """TensorRT, its lean runtime or TensorRT-RTX, and what the others do differently.

    ``name`` is also that of the extra of ``repr-deploy`` that installs it. ``engines`` names the
    edition whose engines it runs; one that builds none of its own is *lean*: it runs
    version-compatible engines alone, can put no weights into them, and makes the process crash
    where there is no GPU. ``modules`` are its names in Python: of the second, the first is but
    another name, in a package of its own.
    ``just_in_time``: kernels are compiled on the GPU that runs the engine. So an engine suits
    more GPUs than one, and its builder needs none, times nothing, and writes the same engine at
    every optimization level. ``default_targets`` are the compute capabilities of an engine built
    for none in particular; such an engine runs on later ones too (NVIDIA, TensorRT-RTX
    documentation, "CPU-Only AOT"). Empty: the GPU's own. ``runs_on`` are those that run any
    engine of it, and so do later ones (its own words, when it refuses others). Empty: all.
    ``distributions`` are the names of its package by the CUDA major version that it needs.
    """

    name: str
    engines: str
    modules: tuple[str, ...]
    title: str
    just_in_time: bool
    default_targets: tuple[str, ...]
    runs_on: tuple[str, ...]
    distributions: tuple[tuple[str, int], ...]

    @property
    def lean(self) -> bool:
        return self.engines != self.name

    @property
    def module(self) -> str:
        """The first of its modules that is there, else the first."""
        return next(filter(_is_there, self.modules), self.modules[0])

    @property
    def installed(self) -> bool:
        """Whether its module is there; it is not imported, and may be broken."""
        return _is_there(self.module)

    def takes(self, compute_capability: str) -> bool:
        """Whether it is known to run on such GPUs."""
        here, known = _numbers(compute_capability), [*map(_numbers, self.runs_on)]
        return not known or here in known or here > max(known)

    def wrong_gpu(self, gpu: str, runs_on: str = "") -> errors.UnsupportedGpuError:
        """The error for a GPU that runs none of its engines; ``runs_on`` in the library's words."""
        known = runs_on or f"{', '.join(self.runs_on)} and later"
        other = next(each for each in EDITIONS.values() if not each.runs_on)
        return errors.UnsupportedGpuError(
            f"{self.title} does not run on {gpu}, but on compute capability {known}; use "
            f"device='cuda', or {other.title} itself (--engine {other.name})"
        )

    @property
    def cuda_major(self) -> int | None:
        """The CUDA version that the installed build needs of the driver; None if unknown."""
        for name, major in self.distributions:
            try:
                importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError:
                continue
            return major
        return None


RUNNERS: dict[str, Edition] = {
    edition.name: edition
    for edition in (
        Edition(
            name="tensorrt",
            engines="tensorrt",
            modules=("tensorrt",),
            title="TensorRT",
            just_in_time=False,
            default_targets=(),
            runs_on=(),
            distributions=(("tensorrt_cu13", 13), ("tensorrt_cu12", 12)),
        ),
        Edition(
            name="tensorrt-lean",
            engines="tensorrt",
            modules=("tensorrt_lean_bindings",),
            title="TensorRT's lean runtime",
            just_in_time=False,
            default_targets=(),
            runs_on=(),
            distributions=(("tensorrt_lean_cu13_libs", 13), ("tensorrt_lean_cu12_libs", 12)),
        ),
        Edition(
            name="tensorrt-rtx",
            engines="tensorrt-rtx",
            modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
            title="TensorRT-RTX",
            just_in_time=True,
            default_targets=("8.0", "8.6", "8.9", "12.0"),
            runs_on=("8.0", "8.6", "8.9", "12.0", "12.1"),
            distributions=(("tensorrt_rtx_cu13_bindings", 13), ("tensorrt_rtx_cu12_bindings", 12)),
        ),
    )
}
"""In the order in which ``auto`` tries them."""

EDITIONS = {name: edition for name, edition in RUNNERS.items() if not edition.lean}
"""Those that build engines; their names are the engines' flavours."""


def runner(flavour: str) -> Edition:
    """Whose library runs engines of a flavour here: the first that is installed, else the whole one."""
    able = [edition for edition in RUNNERS.values() if edition.engines == flavour]
    return next((edition for edition in able if edition.installed), able[0])


def edition_of(content: bytes) -> Edition:
    """Whose library runs an engine here: those of TensorRT-RTX open with ``vtrt``."""
    return runner("tensorrt-rtx" if content.startswith(b"vtrt") else "tensorrt")


@dataclass(frozen=True)
class Library:
    """A library that was imported; ``trt`` is the module, with the API of ``tensorrt``."""

    edition: Edition
    trt: Any

    @property
    def version(self) -> str:
        """As the library states it, such as ``10.13.0.35`` or ``1.7.1.116``."""
        return str(self.trt.__version__)

    @property
    def title(self) -> str:
        return f"{self.edition.title} {self.version}"

    def builds_for(self, compute_capability: str) -> bool:
        """Whether it builds engines for such GPUs; TensorRT builds for the one that it finds."""
        known = getattr(self.trt, "ComputeCapability", None)
        return known is None or f"SM{compute_capability.replace('.', '')}" in known.__members__

    def require_gpu(self, gpu: Gpu) -> None:
        """Raises :class:`UnsupportedGpuError` if no engine of this library runs on ``gpu``.

        What it builds for it runs on, whatever is known of its edition.
        """
        here = gpu.compute_capability
        if not self.edition.takes(here) and not self.builds_for(here):
            raise self.edition.wrong_gpu(str(gpu))

    @property
    def captures_itself(self) -> bool:
        """Whether the library captures CUDA graphs on its own, which own capture would disturb."""
        return hasattr(self.trt, "CudaGraphStrategy")

    def invalid(self, content: bytes) -> tuple[str, ...] | None:
        """Why the engine's header says that it will not run here; None if nobody can tell.

        Names of ``EngineInvalidityDiagnostics``, such as ``VERSION_MISMATCH``. An empty tuple
        says that the engine is likely to run: the header alone is looked at.
        """
        if not hasattr(self.trt.Runtime, "get_engine_validity"):
            return None
        validity, bits = self.trt.Runtime(logger(self.trt)).get_engine_validity(content)
        known = self.trt.EngineInvalidityDiagnostics.__members__.items()
        found = tuple(name for name, flag in known if int(bits) & int(flag.value))
        if validity == self.trt.EngineValidity.INVALID:
            return found or None  # without a GPU: invalid, and no diagnosis
        return ()

    def runtime(self) -> trt.Runtime:
        """A runtime, for the device that is current.

        Raises :class:`DeviceUnavailableError` where the lean library's would end the process, at
        the first engine or when it goes: without a GPU, or with a driver that is too old.
        """
        if not self.edition.lean:
            return self.trt.Runtime(logger(self.trt))
        if not cuda_status().devices:
            raise errors.DeviceUnavailableError(
                f"{self.title} needs an NVIDIA GPU: {cuda_status().reason}; use device='cpu'"
            )
        with listen(self.trt) as messages:
            runtime: trt.Runtime = self.trt.Runtime(logger(self.trt))
        if messages.errors:
            leak(runtime)
            raise errors.DeviceUnavailableError(
                f"{self.title} cannot use the GPU ({first_sentence(messages.errors[0])}); update "
                f"NVIDIA's driver, or use device='cuda' or 'cpu'"
            )
        return runtime

    def deserialize(self, runtime: trt.Runtime, content: bytes) -> trt.ICudaEngine:
        """The engine in ``content``, whose origin the caller answers for: it is executable code.

        Raises :class:`EngineVersionError`, :class:`WrongGpuError` or :class:`EngineLoadError`
        with what the library said of it.
        """
        with listen(self.trt) as messages:
            engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise self.refusal(content, messages)
        return engine

    def refusal(self, content: bytes, messages: Messages) -> errors.EngineLoadError:
        """Why the library refused ``content``, from its header and its ``messages`` of that."""
        # The first error is the cause, those after it what came of it.
        said = " ".join(messages.errors[0].split())[:400] if messages.errors else ""
        # The header is asked first: what the library says in words differs between versions.
        found = self.invalid(content) or tuple(
            kind for kind, words in _COMPLAINTS if re.search(words, said, re.IGNORECASE)
        )
        text = f"{self.title} refuses the engine"
        reason = f" ({said})" if said else ""
        if "NOT_COMPATIBLE" in found:
            return errors.EngineVersionError(f"{text}{reason}: {ONLY_COMPATIBLE}")
        if "VERSION_MISMATCH" in found:
            return errors.EngineVersionError(
                f"{text}: another version built it{reason}; build it again with this one"
            )
        if "UNSUPPORTED_CC" in found:
            if "not support this compute capability" in said:
                here = re.search(r"has (compute capability \d+\.\d+)", said)
                listed = re.search(r"Supported compute capabilities: ((?:>?\d+\.\d+ ?)+)", said)
                gpu = f"this GPU ({here[1]})" if here else "this GPU"
                known = ", ".join(listed[1].split()) if listed else ""
                return self.edition.wrong_gpu(gpu, known)
            return errors.WrongGpuError(
                f"{text}: it was built for another GPU{reason}; build it here"
            )
        if {"OLD_CUDA_DRIVER", "OLD_CUDA_RUNTIME", "CUDA_ERROR"} & {*found}:
            return errors.EngineLoadError(
                f"{text}: it needs a GPU and a driver that is new enough{reason}; install NVIDIA's "
                f"driver, or use device='cpu'"
            )
        if "MALFORMED_ENGINE" in found:
            return errors.EngineLoadError(
                f"{text}, which is damaged or no engine at all{reason}; build it again"
            )
        return errors.EngineLoadError(f"{text}{reason}; build it again here")


ONLY_COMPATIBLE = (
    "it runs those alone that were built to run with later versions; build it so (repr-export … "
    "--engine tensorrt --version-compatible), or pip install 'repr-deploy[tensorrt]'"
)

# What the messages of a library mean that cannot say it otherwise, or not without a GPU.
_COMPLAINTS = (
    (
        "NOT_COMPATIBLE",
        r"call to stub",
    ),  # of the lean library, which lacks what such an engine calls
    ("VERSION_MISMATCH", r"version.*(mismatch|tag|differ)|not compatible with this version"),
    ("UNSUPPORTED_CC", r"compute capabilit|incompatible device"),
    ("OLD_CUDA_DRIVER", r"driver"),
    ("MALFORMED_ENGINE", r"serialization|magic|corrupt"),
)


def open_library(edition: Edition) -> Library:
    """Import the library, for running engines.

    Raises :class:`MissingExtraError` if it is not installed and :class:`BackendError` if it is
    and cannot be loaded.
    """
    return Library(edition, import_library(edition, f"running {edition.title} engines", "Runtime"))


def import_library(edition: Edition, purpose: str, needed: str) -> Any:
    """The library's module, which must have ``needed``; raises as :func:`open_library`."""
    missing = errors.MissingExtraError(purpose, edition.name, edition.module)
    try:
        module = importlib.import_module(edition.module)
    except Exception as error:  # whatever a package with shared libraries raises
        if isinstance(error, ModuleNotFoundError) and error.name == edition.module:
            raise missing from error
        raise errors.BackendError(
            f"{edition.module} is installed but cannot be loaded ({error!r:.200}); install it "
            f"again: pip install --force-reinstall 'repr-deploy[{edition.name}]'"
        ) from error
    if not hasattr(module, needed):  # type stubs alone make an empty namespace package
        raise missing
    return module


def sizes(dims: trt.Dims) -> tuple[int, ...]:
    """A shape of the library as a tuple; -1 stands for what is free."""
    return tuple(dims[axis] for axis in range(len(dims)))
