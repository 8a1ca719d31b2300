"""Sessions and batchers in a process that ends, or is forked, while they are open.

A daemon thread that comes back from native code once the interpreter is being taken down is ended
in the midst of it, which the C++ libraries underneath answer with an abort. And a forked child has
none of the threads, and locks as they happened to be. So both are told before it is too late.
"""

import atexit
import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

_NATIVE = ("repr_runtime.backends", "repr_runtime.cuda")
"""The packages whose calls leave the interpreter."""

_GRACE, _PATIENCE = 1.0, 30.0
"""Seconds that runs are given at exit: to come to their end, and then to stop half-way."""

T = TypeVar("T")


class Runs(Protocol):
    """What a thread may be inside of."""

    def interrupt(self) -> None:
        """Let the runs that go on end with an error as soon as they can."""


class Living(Protocol):
    """What must be told."""

    def end(self) -> Runs | None:
        """The process ends: take nothing more on, and wait for nothing."""

    def forked(self, reason: str) -> None:
        """This is a forked child; ``reason`` says why nothing at all can be run in it, or is ""."""


_batchers: WeakSet[Living] = WeakSet()
_sessions: WeakSet[Living] = WeakSet()
_ending = False
_reason = ""


def register(living: Living, *, runs: bool) -> None:
    """Tell ``living`` of the end and of forks; ``runs``: it is what the others run on."""
    (_sessions if runs else _batchers).add(living)


def ends() -> BaseException | None:
    """What ends a daemon thread silently, if the process ends."""
    return SystemExit() if _ending else None


def closed(error: BaseException) -> BaseException:
    """``error``, that something is closed; to a daemon thread of a process that ends, :func:`ends`."""
    return (threading.current_thread().daemon and ends()) or error


def leak(thing: object) -> None:
    """Never destroy ``thing``, not even at exit: its destructor would wait for threads of the parent."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _all(living: Iterable[T]) -> list[T]:
    while True:
        try:
            return list(living)
        except RuntimeError:  # another thread has just made one
            continue


def _end() -> None:
    global _ending
    _ending = True
    for batcher in _all(_batchers):
        batcher.end()
    ended = [session.end() for session in _all(_sessions)]
    if not _wait(_GRACE):
        for runs in ended:
            if runs is not None:
                runs.interrupt()
        _wait(_PATIENCE)


def _wait(seconds: float) -> bool:
    """Whether all threads came back from native code by then."""
    until = time.monotonic() + seconds
    while _in_native_code():
        if time.monotonic() > until:
            return False
        time.sleep(0.002)
    return True


def _in_native_code() -> bool:
    """Whether a thread, other than this one, may be in a library of a backend."""
    mine = threading.get_ident()
    for thread, top in sys._current_frames().items():
        frame: Any = top
        while frame is not None and thread != mine:
            if str(frame.f_globals.get("__name__")).startswith(_NATIVE):
                return True
            frame = frame.f_back
    return False


def _before_fork() -> None:
    global _reason
    busy = bool(_sessions) and _in_native_code()  # which may hold locks, for ever in the child
    _reason = "another thread was running a network when this process was forked" if busy else ""


def _after_fork() -> None:
    for living in (*_all(_batchers), *_all(_sessions)):
        living.forked(_reason)


atexit.register(_end)
_on_fork: Callable[..., None] | None = getattr(os, "register_at_fork", None)
if _on_fork is not None:
    _on_fork(before=_before_fork, after_in_child=_after_fork)
