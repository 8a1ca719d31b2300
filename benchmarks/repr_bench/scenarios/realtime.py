"""A load generator that wakes on time: real-time priority for one thread, where the system lets it.

In a service's life the clients have machines of their own. Here the generator shares the CPUs with
what it loads, and an ordinary thread that wakes waits milliseconds for its turn behind busy ones.
"""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def realtime_priority() -> Iterator[bool]:
    """Let the calling thread go before all ordinary ones; says whether it does.

    Linux lets root do so, and whoever has ``CAP_SYS_NICE`` or a limit on ``rtprio``. Threads that
    are started meanwhile are ordinary ones.
    """
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        least = os.sched_param(os.sched_get_priority_min(os.SCHED_RR))
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, least)
    except (AttributeError, OSError):  # not Linux; not allowed
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, *before)
