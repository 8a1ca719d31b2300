"""The most memory that this process has had, as Linux counts it.

Not `ru_maxrss`, which a child inherits of the process that started it, however large that is.
"""

import os
from pathlib import Path

_PATHS = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
CHILD_ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, _PATHS))}
"""For a child that imports this."""


def peak_memory() -> int:
    """In bytes, since the process began or :func:`forget_peak`."""
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def forget_peak() -> None:
    """Begin anew with what the process has now."""
    Path("/proc/self/clear_refs").write_text("5")
