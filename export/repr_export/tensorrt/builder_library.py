"""`tensorrt` and `tensorrt_rtx` behind one face: all that differs between them stands here."""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
import signal
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from repr_export.errors import EngineBuildError, OptionError, first_line
from repr_runtime.cuda.driver import cuda_status
from repr_runtime.errors import MissingExtraError

Progress = Callable[[str, int, int], None]
"""Gets a phase's name, the steps of it that are done, and how many there are."""

_PURPOSE = "building TensorRT engines"


@dataclass(frozen=True)
class Flavour:
    """One of the two libraries, and what the other does differently.

    ``needs_gpu`` is about building; running needs one always. ``keeps_timing_cache``: the
    RTX builder times nothing, and its timing-cache calls do nothing. ``honours_opt_level``:
    the RTX builder takes all levels and writes the same engine. ``default_targets`` are the
    compute capabilities of an engine built for none in particular; such an engine runs on
    later ones too (NVIDIA, TensorRT-RTX documentation, "CPU-Only AOT"). Empty: the GPU's own.
    """

    name: str
    module: str
    title: str
    extra: str
    needs_gpu: bool
    keeps_timing_cache: bool
    honours_opt_level: bool
    default_targets: tuple[str, ...]


FLAVOURS: dict[str, Flavour] = {
    flavour.name: flavour
    for flavour in (
        Flavour("tensorrt", "tensorrt", "TensorRT", "tensorrt", True, True, True, ()),
        Flavour(
            "tensorrt-rtx",
            "tensorrt_rtx",
            "TensorRT-RTX",
            "tensorrt-rtx",
            False,
            False,
            False,
            ("8.0", "8.6", "8.9", "12.0"),
        ),
    )
}
"""In the order in which ``auto`` tries them."""


@dataclass(frozen=True)
class Library:
    """A library that was imported: ``trt`` is the module, with the API of `tensorrt`.

    ``choice`` is why ``auto`` took it, and empty where it was asked for by name.
    """

    flavour: Flavour
    trt: Any
    choice: str = ""

    @property
    def version(self) -> str:
        """As the library states it, such as ``10.13.0.35`` or ``1.7.1.116``."""
        return str(self.trt.__version__)

    @property
    def title(self) -> str:
        """Its name and version, for messages."""
        return f"{self.flavour.title} {self.version}"

    @property
    def targets(self) -> dict[str, Any]:
        """The compute capabilities that can be chosen, such as ``"8.6"``; empty if none can."""
        known = getattr(self.trt, "ComputeCapability", None)
        if known is None or not hasattr(self.trt.IBuilderConfig, "set_compute_capability"):
            return {}
        targets = {}
        for name, member in known.__members__.items():
            if match := re.fullmatch(r"SM(\d+)(\d)", name):
                targets[f"{match[1]}.{match[2]}"] = member
        return targets

    def strongly_typed(self) -> int:
        """The flags of a network whose types are those of the graph, and no others.

        A library without the flag knows only such networks (TensorRT 11) or, where it still
        has precision flags, is too old; the latter raises :class:`EngineBuildError`.
        """
        flags = getattr(self.trt, "NetworkDefinitionCreationFlag", None)
        if (flag := getattr(flags, "STRONGLY_TYPED", None)) is not None:
            return 1 << int(flag)
        if hasattr(self.trt.BuilderFlag, "FP16"):
            raise EngineBuildError(
                f"{self.title} cannot build strongly typed networks, so that the engine would not "
                f"have the types of the graph; update it: "
                f"pip install -U 'repr-deploy[{self.flavour.extra}]'"
            )
        return 0

    def builder_flag(self, name: str, option: str) -> Any:
        """The builder's flag of that name; :class:`EngineBuildError` names the ``option``."""
        flag = getattr(self.trt.BuilderFlag, name, None)
        if flag is None:
            raise EngineBuildError(
                f"{self.title} has no builder flag {name}; leave out {option}, or build with "
                f"another version"
            )
        return flag


def open_library(flavour: str = "auto") -> Library:
    """Import the library called ``flavour``, or for ``auto`` the first one that can build here.

    ``auto`` is ``tensorrt`` where it is installed and a GPU is there, else ``tensorrt-rtx``.
    Raises :class:`MissingExtraError` if it is not installed, :class:`OptionError` for an
    unknown name and :class:`EngineBuildError` if it cannot be loaded or lacks a GPU.
    """
    if flavour == "auto":
        return _choose()
    if flavour not in FLAVOURS:
        raise OptionError(
            f"--engine must be {', '.join(FLAVOURS)} or auto, got {flavour!r}",
        )
    return _open(FLAVOURS[flavour])


def _choose() -> Library:
    reasons, broken = [], []
    for flavour in FLAVOURS.values():
        try:
            library = _open(flavour)
        except MissingExtraError:
            reasons.append(f"{flavour.title} is not installed")
        except EngineBuildError as error:
            reasons.append(str(error).split(";")[0])
            if cuda_status().devices or not flavour.needs_gpu:
                broken.append(error)
        else:
            reason = "; ".join(reasons) or "a GPU is there"
            return Library(flavour, library.trt, f"auto took {library.title}: {reason}")
    # Without a GPU, the library that needs none is the one to install.
    raise broken[0] if broken else MissingExtraError(_PURPOSE, "tensorrt-rtx", "tensorrt_rtx")


def _open(flavour: Flavour) -> Library:
    again = f"pip install --force-reinstall 'repr-deploy[{flavour.extra}]'"
    try:
        module = importlib.import_module(flavour.module)
    except Exception as error:  # whatever a package with shared libraries raises
        if isinstance(error, ModuleNotFoundError) and error.name == flavour.module:
            raise MissingExtraError(_PURPOSE, flavour.extra, flavour.module) from error
        raise EngineBuildError(
            f"{flavour.module} is installed but cannot be loaded: {first_line(error)}; install it "
            f"again: {again}"
        ) from error
    if not hasattr(module, "Builder"):  # type stubs alone make an empty namespace package
        raise MissingExtraError(_PURPOSE, flavour.extra, flavour.module)
    status = cuda_status()
    if flavour.needs_gpu and not status.devices:
        raise EngineBuildError(
            f"the builder of {flavour.title} needs a GPU: {status.reason}; use --engine "
            f"tensorrt-rtx, whose builder needs none"
        )
    return Library(flavour, module)


@dataclass
class Messages:
    """What the library said while something was built: errors and warnings, each once."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, severity: str, text: str) -> None:
        """Keep ``text`` if ``severity`` is a warning or worse."""
        kept = self.warnings if severity == "WARNING" else self.errors
        if severity in ("WARNING", "ERROR", "INTERNAL_ERROR") and text not in kept:
            kept.append(text)


_listening = threading.RLock()
_listener: list[Messages] = []


@contextlib.contextmanager
def listen(library: Library) -> Iterator[tuple[Any, Messages]]:
    """The logger to make a builder with, and the messages that come while the context lasts.

    The library keeps the first logger of the process as long as anything made with it lives,
    and ignores all others; so there is one, and one build at a time listens to it.
    """
    with _listening:
        messages = Messages()
        _listener.append(messages)
        try:
            yield _logger(library.trt), messages
        finally:
            _listener.pop()


@functools.cache
def _logger(trt: Any) -> Any:
    def log(_: Any, severity: Any, text: str) -> None:
        for messages in _listener[-1:]:
            messages.add(severity.name, text)

    return _implement(trt.ILogger, log=log)


def _implement(base: Any, **methods: Callable[..., Any]) -> Any:
    """An object of a class below ``base``, which is C++ and wants its own ``__init__`` called."""
    methods["__init__"] = lambda self: base.__init__(self)
    return types.new_class(base.__name__, (base,), exec_body=lambda space: space.update(methods))()


class BuildMonitor:
    """Hands a builder's progress on, and tells the builder to stop when asked to.

    The builder calls from C++, where an exception would end the process: whatever
    ``progress`` raises is kept in ``stopped_by``, and the build is cancelled.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._steps: dict[str, int] = {}
        self._lock = threading.Lock()  # builders may call from several threads
        self.stopped_by: BaseException | None = None

    def stop(self, reason: BaseException) -> None:
        """Cancel the build at its next step; ``reason`` is raised when it has ended."""
        self.stopped_by = self.stopped_by or reason

    def phase_start(self, name: str, parent: str | None, steps: int) -> None:  # noqa: ARG002
        """A phase of ``steps`` steps begins."""
        with self._lock:
            self._steps[name] = steps
            self._tell(name, 0)

    def step_complete(self, name: str, step: int) -> bool:
        """Step ``step``, from 0, is done; False cancels the build."""
        with self._lock:
            self._tell(name, step + 1)
        return self.stopped_by is None

    def phase_finish(self, name: str) -> None:
        """The phase is over, with all steps done or without."""
        with self._lock:
            self._steps.pop(name, None)

    def _tell(self, name: str, done: int) -> None:
        if self._progress is None or self.stopped_by is not None:
            return
        total = self._steps.get(name, done)
        try:
            self._progress(name, min(done, total), total)
        except BaseException as error:
            self.stop(error)

    def implement(self, library: Library) -> Any:
        """This monitor as the library's ``IProgressMonitor``."""
        return _implement(
            library.trt.IProgressMonitor,
            phase_start=lambda _, *args: self.phase_start(*args),
            step_complete=lambda _, *args: self.step_complete(*args),
            phase_finish=lambda _, *args: self.phase_finish(*args),
        )

    @contextlib.contextmanager
    def stopping(self) -> Iterator[None]:
        """Raises the reason to stop at its end, if there is one.

        While it lasts, Ctrl-C is such a reason and does not raise in the middle of a callback.
        """
        usual = signal.getsignal(signal.SIGINT)
        # Ctrl-C goes to the main thread, and may be ignored, or handled by other than Python.
        mine = threading.current_thread() is threading.main_thread() and callable(usual)
        if mine:
            signal.signal(signal.SIGINT, lambda *_: self.stop(KeyboardInterrupt()))
        try:
            yield
        finally:
            if mine:
                signal.signal(signal.SIGINT, usual)
            if self.stopped_by is not None:
                raise self.stopped_by
