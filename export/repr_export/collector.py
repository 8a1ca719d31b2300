"""Python's collector of cycles, paused where all that is made stays: it would read it again and again."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused(*, keep: bool = False) -> Iterator[None]:
    """Without collections, which take a quarter of the time of imports and of a capture.

    ``keep`` is for a command, whose imports stay until its end: no later collection reads them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if keep and not gc.get_freeze_count():
            gc.freeze()
        if was_enabled:
            gc.enable()


# Nor are they looked for where the process ends: Python would three times.
atexit.register(gc.freeze)
