"""Python's collector of cycles, paused where all that is made stays: it would read it again and again."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

_kept = False


@contextmanager
def kept() -> Iterator[None]:
    """Within a command, which ends soon: what each pause makes is read by no later collection."""
    global _kept
    _kept = True
    atexit.register(gc.freeze)  # nor are cycles looked for at its end: Python would three times
    try:
        yield
    finally:
        _kept = False
        gc.unfreeze()


@contextmanager
def paused() -> Iterator[None]:
    """Without collections, which take a quarter of the time of imports and of a capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if _kept:
            gc.freeze()
        if was_enabled:
            gc.enable()
