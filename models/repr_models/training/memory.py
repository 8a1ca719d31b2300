"""The process keeps the memory that a step gives back, for the next one."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_MOST = 2**31 - 1


def keep_freed() -> bool:
    """Tell glibc's malloc not to return memory to the system; whether it is there to be told.

    By default what is larger than 32 MB is mapped for each tensor anew, and the system has to clear
    each of its pages: up to half of a step's time on a CPU. It holds until the process ends, whose
    memory does not shrink then.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _MOST))
