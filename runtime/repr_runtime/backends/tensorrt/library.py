"""`tensorrt` and `tensorrt_rtx` behind one face, for running engines: what differs stands here."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import re
import threading
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repr_runtime.errors import (
    BackendError,
    EngineLoadError,
    EngineVersionError,
    MissingExtraError,
    WrongGpuError,
)

if TYPE_CHECKING:
    import tensorrt as trt

_KEPT = 20  # messages of the library, the last ones


@dataclass(frozen=True)
class Flavour:
    """One of the two libraries, and what the other does differently.

    ``exact_gpu``: an engine runs on GPUs of its compute capability alone, and not on those
    that the builder listed. ``distributions`` are the names of its package by the CUDA major
    version that it needs.
    """

    name: str
    module: str
    title: str
    extra: str
    exact_gpu: bool
    distributions: tuple[tuple[str, int], ...]

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


FLAVOURS: dict[str, Flavour] = {
    flavour.name: flavour
    for flavour in (
        Flavour(
            *("tensorrt", "tensorrt", "TensorRT", "tensorrt", True),
            (("tensorrt_cu13", 13), ("tensorrt_cu12", 12)),
        ),
        Flavour(
            *("tensorrt-rtx", "tensorrt_rtx", "TensorRT-RTX", "tensorrt-rtx", False),
            (("tensorrt_rtx_cu13", 13), ("tensorrt_rtx_cu12", 12)),
        ),
    )
}
"""In the order in which ``device="tensorrt"`` and ``"auto"`` try them."""


def flavour_of(content: bytes) -> Flavour:
    """Whose engine it is: those of TensorRT-RTX open with ``vtrt``."""
    return FLAVOURS["tensorrt-rtx" if content.startswith(b"vtrt") else "tensorrt"]


@dataclass(frozen=True)
class Library:
    """A library that was imported; ``trt`` is the module, with the API of ``tensorrt``."""

    flavour: Flavour
    trt: Any

    @property
    def version(self) -> str:
        """As the library states it, such as ``10.13.0.35`` or ``1.7.1.116``."""
        return str(self.trt.__version__)

    @property
    def title(self) -> str:
        return f"{self.flavour.title} {self.version}"

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
        validity, bits = self.trt.Runtime(logger(self)).get_engine_validity(content)
        known = self.trt.EngineInvalidityDiagnostics.__members__.items()
        found = tuple(name for name, flag in known if int(bits) & int(flag.value))
        if validity == self.trt.EngineValidity.INVALID:
            return found or None  # without a GPU: invalid, and no diagnosis
        return ()

    def deserialize(self, runtime: trt.Runtime, content: bytes) -> trt.ICudaEngine:
        """The engine in ``content``, whose origin the caller answers for: it is executable code.

        Raises :class:`EngineVersionError`, :class:`WrongGpuError` or :class:`EngineLoadError`
        with what the library said of it.
        """
        _said.clear()
        engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise self.refusal(content)
        return engine

    def refusal(self, content: bytes) -> EngineLoadError:
        """Why the library just refused ``content``, from its header and the library's messages."""
        said = said_last()
        # The header is asked first: what the library says in words differs between versions.
        found = self.invalid(content) or tuple(
            kind for kind, words in _COMPLAINTS if re.search(words, said, re.IGNORECASE)
        )
        text = f"{self.title} refuses the engine"
        reason = f" ({said})" if said else ""
        if "VERSION_MISMATCH" in found:
            return EngineVersionError(
                f"{text}: another version built it{reason}; build it again with this one"
            )
        if "UNSUPPORTED_CC" in found:
            return WrongGpuError(f"{text}: it was built for another GPU{reason}; build it here")
        if {"OLD_CUDA_DRIVER", "OLD_CUDA_RUNTIME", "CUDA_ERROR"} & {*found}:
            return EngineLoadError(
                f"{text}: it needs a GPU and a driver that is new enough{reason}; install NVIDIA's "
                f"driver, or use device='cpu'"
            )
        if "MALFORMED_ENGINE" in found:
            return EngineLoadError(
                f"{text}, which is damaged or no engine at all{reason}; build it again"
            )
        return EngineLoadError(f"{text}{reason}; build it again here")


# What the messages of a library mean that cannot say it otherwise, or not without a GPU.
_COMPLAINTS = (
    ("VERSION_MISMATCH", r"version.*(mismatch|tag|differ)|not compatible with this version"),
    ("UNSUPPORTED_CC", r"compute capabilit|incompatible device"),
    ("OLD_CUDA_DRIVER", r"driver"),
    ("MALFORMED_ENGINE", r"serialization|magic|corrupt"),
)


def open_library(flavour: Flavour) -> Library:
    """Import the library.

    Raises :class:`MissingExtraError` if it is not installed and :class:`BackendError` if it is
    and cannot be loaded.
    """
    missing = MissingExtraError(f"running {flavour.title} engines", flavour.extra, flavour.module)
    try:
        module = importlib.import_module(flavour.module)
    except Exception as error:  # whatever a package with shared libraries raises
        if isinstance(error, ModuleNotFoundError) and error.name == flavour.module:
            raise missing from error
        raise BackendError(
            f"{flavour.module} is installed but cannot be loaded ({error!r:.200}); install it "
            f"again: pip install --force-reinstall 'repr-deploy[{flavour.extra}]'"
        ) from error
    if not hasattr(module, "Runtime"):  # type stubs alone make an empty namespace package
        raise missing
    return Library(flavour, module)


def sizes(dims: trt.Dims) -> tuple[int, ...]:
    """A shape of the library as a tuple; -1 stands for what is free."""
    return tuple(dims[axis] for axis in range(len(dims)))


_said: list[str] = []
_lock = threading.Lock()


def said_last() -> str:
    """What the library complained of last, the first sentence of it; "" if it was silent."""
    return _said[0].split("\n")[0][:300] if _said else ""


def logger(library: Library) -> Any:
    """The process's one logger for the library, which keeps the first that it gets."""
    return _logger(library.trt)


@functools.cache
def _logger(module: Any) -> Any:
    def log(_: Any, severity: Any, text: str) -> None:
        if severity.name in ("ERROR", "INTERNAL_ERROR"):
            with _lock:
                _said.append(text)
                del _said[:-_KEPT]

    def init(self: Any) -> None:
        module.ILogger.__init__(self)  # C++ wants its own called, not super()'s

    methods = {"log": log, "__init__": init}
    kind = types.new_class("Logger", (module.ILogger,), exec_body=lambda n: n.update(methods))
    return kind()
