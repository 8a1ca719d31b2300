"""What loading and running a session takes of memory: the process's peak, which Linux can say."""

import contextlib
import ctypes
import gc
import re
from pathlib import Path

_STATUS, _RESTART = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """The peak of this process's resident memory, above what it was when this was made.

    Memory that Python and the C library had freed by then, but not given back, is given back
    first, as far as they can: else a session would seem to need none where it takes that.
    """

    def __init__(self) -> None:
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # glibc's alone
            ctypes.CDLL(None).malloc_trim(0)
        self._before = _peak()[1] if _restart() else None

    def read(self) -> int | None:
        """The peak in bytes since it was read last; None where the system does not say."""
        if self._before is None:
            return None
        peak, _ = _peak()
        _restart()
        return max(0, peak - self._before)


def _restart() -> bool:
    """Let the peak be what there is now (proc(5), clear_refs); whether that was possible."""
    try:
        _RESTART.write_text("5")
    except OSError:
        return False
    return True


def _peak() -> tuple[int, int]:
    """The peak of resident memory, and what is resident now, in bytes."""
    found = dict(re.findall(r"^(VmHWM|VmRSS):\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE))
    return 1024 * int(found["VmHWM"]), 1024 * int(found["VmRSS"])
