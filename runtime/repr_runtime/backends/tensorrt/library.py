"""`tensorrt` and `tensorrt_rtx` behind one face: what differs between them, and what they say."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import re
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from repr_runtime.errors import (
    BackendError,
    EngineLoadError,
    EngineVersionError,
    MissingExtraError,
    WrongGpuError,
)

if TYPE_CHECKING:
    import tensorrt as trt

_KEPT = 100  # messages of a kind, the last ones


@dataclass(frozen=True)
class Product:
    """One of the two libraries, and what the other does differently.

    ``name`` is that of the extra too. ``just_in_time``: kernels are compiled on the GPU that
    runs the engine. So an engine suits many GPUs, and building it needs none, times nothing and
    comes out the same at every optimization level. ``distributions`` are the names of its
    package by the CUDA major version that it needs.
    """

    name: str
    module: str
    title: str
    just_in_time: bool
    distributions: Mapping[str, int]

    @property
    def cuda_major(self) -> int | None:
        """The CUDA version that the installed build needs of the driver; None if unknown."""
        for name, major in self.distributions.items():
            try:
                importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError:
                continue
            return major
        return None


PRODUCTS: dict[str, Product] = {
    product.name: product
    for product in (
        Product(
            name="tensorrt",
            module="tensorrt",
            title="TensorRT",
            just_in_time=False,
            distributions={"tensorrt_cu13": 13, "tensorrt_cu12": 12},
        ),
        Product(
            name="tensorrt-rtx",
            module="tensorrt_rtx",
            title="TensorRT-RTX",
            just_in_time=True,
            distributions={"tensorrt_rtx_cu13": 13, "tensorrt_rtx_cu12": 12},
        ),
    )
}
"""In the order in which ``device="tensorrt"`` and ``"auto"`` try them, to run and to build."""


def product_of(content: bytes) -> Product:
    """Whose engine it is: those of TensorRT-RTX open with ``vtrt``."""
    return PRODUCTS["tensorrt-rtx" if content.startswith(b"vtrt") else "tensorrt"]


@dataclass(eq=False)
class Messages:
    """What a library said while something was done: errors and warnings, each once."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, severity: str, text: str) -> None:
        """Keep ``text`` if ``severity`` is a warning or worse; what is said again comes last."""
        if severity in ("WARNING", "ERROR", "INTERNAL_ERROR"):
            kept = self.warnings if severity == "WARNING" else self.errors
            if text in kept:
                kept.remove(text)
            kept.append(text)
            del kept[:-_KEPT]

    @property
    def last_error(self) -> str:
        """The first line of the last complaint; "" if there was none."""
        return self.errors[-1].split("\n")[0][:300] if self.errors else ""


@dataclass(frozen=True)
class Library:
    """A library that was imported; ``trt`` is the module, with the API of ``tensorrt``."""

    product: Product
    trt: Any

    @property
    def version(self) -> str:
        """As the library states it, such as ``10.13.0.35`` or ``1.7.1.116``."""
        return str(self.trt.__version__)

    @property
    def title(self) -> str:
        return f"{self.product.title} {self.version}"

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
        with collect() as messages:
            engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise self._refusal(content, messages.last_error)
        return engine

    def _refusal(self, content: bytes, said: str) -> EngineLoadError:
        """Why the library refused ``content``, from its header and what it ``said``."""
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


def open_library(product: Product, purpose: Literal["running", "building"] = "running") -> Library:
    """Import the library.

    Raises :class:`MissingExtraError` if it is not installed and :class:`BackendError` if it is
    and cannot be loaded.
    """
    missing = MissingExtraError(f"{purpose} {product.title} engines", product.name, product.module)
    try:
        module = importlib.import_module(product.module)
    except Exception as error:  # whatever a package with shared libraries raises
        if isinstance(error, ModuleNotFoundError) and error.name == product.module:
            raise missing from error
        raise BackendError(
            f"{product.module} is installed but cannot be loaded ({error!r:.200}); install it "
            f"again: pip install --force-reinstall 'repr-deploy[{product.name}]'"
        ) from error
    # Type stubs alone make an empty namespace package.
    if not hasattr(module, "Runtime" if purpose == "running" else "Builder"):
        raise missing
    return Library(product, module)


def sizes(dims: trt.Dims) -> tuple[int, ...]:
    """A shape of the library as a tuple; -1 stands for what is free."""
    return tuple(dims[axis] for axis in range(len(dims)))


class _Collecting(threading.local):
    def __init__(self) -> None:
        self.stack: list[Messages] = []


_here = _Collecting()
_everywhere: list[Messages] = []


@contextmanager
def collect(*, all_threads: bool = False) -> Iterator[Messages]:
    """What the libraries say meanwhile in this thread, to the innermost who collects.

    With ``all_threads`` also what they say in threads where nobody collects, such as those
    that a builder starts; one at a time may ask for that.
    """
    messages = Messages()
    _here.stack.append(messages)
    if all_threads:
        _everywhere.append(messages)
    try:
        yield messages
    finally:
        _here.stack.pop()
        if all_threads:
            _everywhere.remove(messages)


def last_error() -> str:
    """The last complaint to whoever collects in this thread, one line; "" if there was none."""
    return _here.stack[-1].last_error if _here.stack else ""


@functools.cache
def _logger(module: Any) -> Any:
    def log(_: Any, severity: Any, text: str) -> None:
        for messages in (_here.stack or _everywhere)[-1:]:
            messages.add(severity.name, text)

    return implement(module.ILogger, log=log)


def logger(library: Library) -> Any:
    """The process's one logger for the library, for runtimes and builders alike.

    The library keeps the first that it gets as long as anything made with it lives, and
    answers any other with a warning.
    """
    return _logger(library.trt)


def implement(base: Any, **methods: Callable[..., Any]) -> Any:
    """An object of a class below ``base``, which is C++ and wants its own ``__init__`` called."""
    methods["__init__"] = lambda self: base.__init__(self)
    return types.new_class(base.__name__, (base,), exec_body=lambda space: space.update(methods))()
