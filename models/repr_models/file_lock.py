"""A lock between processes on a file, which the system lets go of when its holder dies."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_POLL = 0.1  # seconds


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Hold the lock ``path``, a file that is made and left there; False where none can be had.

    Waits for another process as long as that lives, and calls ``waiting`` once if it must.
    Some network file systems know no locks. Raises ``OSError`` if the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        held = _acquire(descriptor, waiting)
        try:
            yield held
        finally:
            if held and sys.platform == "win32":
                _unlock(descriptor)
    finally:
        os.close(descriptor)  # elsewhere this lets go of it


def _acquire(descriptor: int, waiting: Callable[[], None]) -> bool:
    told = False
    while True:
        try:
            _lock(descriptor)
            return True
        except (BlockingIOError, PermissionError):  # another process has it
            if not told:
                waiting()
                told = True
            time.sleep(_POLL)
        except OSError:
            return False


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
