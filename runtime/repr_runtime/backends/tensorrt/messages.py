"""What TensorRT says: one logger a process for each library, heard by whoever is at work."""

import contextlib
import functools
import logging
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Messages:
    """What the library said while something was done: errors and warnings, each once."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, severity: str, text: str) -> None:
        """Keep ``text`` if ``severity`` is a warning or worse."""
        kept = self.warnings if severity == "WARNING" else self.errors
        if severity in ("WARNING", *_ERRORS) and text not in kept:
            kept.append(text)


_log = logging.getLogger(__name__)
_ERRORS = ("ERROR", "INTERNAL_ERROR")
_lock = threading.Lock()
_listeners: list[tuple[int, Messages]] = []
_call = threading.local()
_strays: tuple[int, str] = (0, "")  # complaints that nobody heard: how many, and the newest


@contextlib.contextmanager
def listen(trt: Any) -> Iterator[Messages]:
    """What ``trt`` says from now on, in this thread or one of the library's own.

    A thread that listens gets its own messages; those of a thread that does not, such as a
    builder's workers, go to the listener that came last.
    """
    logger(trt)
    listener = (threading.get_ident(), Messages())
    with _lock:
        _listeners.append(listener)
    try:
        yield listener[1]
    finally:
        with _lock:
            # By identity: two listeners that heard the same are equal.
            _listeners[:] = [other for other in _listeners if other is not listener]


def begin() -> None:
    """A call to the library begins in this thread: what :func:`last_error` then tells is of it."""
    _call.newest, _call.strays = "", _strays[0]


def last_error() -> str:
    """What the library complained of since ``begin``, outside of ``listen``; "" if it did not.

    In this thread, or else in one of the library's own, to which nobody listened: whose run
    that was cannot be told. The first sentence of the newest complaint; one's own is told once.
    """
    own, _call.newest = _call.newest, ""
    return first_sentence(own or (_strays[1] if _strays[0] > _call.strays else ""))


def first_sentence(text: str) -> str:
    """The first line, of which 300 characters at most."""
    return text.split("\n")[0][:300]


@functools.cache
def logger(trt: Any) -> Any:
    """The process's one logger for the library ``trt``, for runtimes and builders alike.

    The library keeps the first logger that it gets as long as anything made with it lives,
    complains of others, and ignores them.
    """

    def log(_: Any, severity: Any, text: str) -> None:
        global _strays
        if severity.name != "VERBOSE":
            _log.debug("%s: %s", severity.name, text)
        with _lock:
            own = [m for thread, m in _listeners if thread == threading.get_ident()]
            for messages in (own or [m for _, m in _listeners])[-1:]:
                messages.add(severity.name, text)
            if severity.name in _ERRORS and not own:
                if hasattr(_call, "newest"):
                    _call.newest = text
                elif not _listeners:
                    _strays = (_strays[0] + 1, text)

    return implement(trt.ILogger, log=log)


def implement(base: Any, **methods: Callable[..., Any]) -> Any:
    """An object of a class below ``base``, which is C++ and wants its own ``__init__`` called."""
    methods["__init__"] = lambda self: base.__init__(self)
    return types.new_class(base.__name__, (base,), exec_body=lambda space: space.update(methods))()
