"""Locks for code that a signal's handler may raise in.

CPython runs handlers in the main thread, after any call, at the start of a function and at the end
of a loop's round; what they raise (KeyboardInterrupt, a time limit's error) is raised there.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter
from typing import Any


class SafeCondition(threading.Condition):
    """A condition whose lock is never left taken by an exception that a handler raises.

    ``with`` calls the lock's own methods, which are C. The library's condition has methods in
    Python there, and a handler may raise in them once the lock is taken.
    """

    __enter__: Any = property(attrgetter("_lock.__enter__"))
    __exit__: Any = property(attrgetter("_lock.__exit__"))

    def wait_outside(self, over: Callable[[], bool], timeout: float | None) -> None:
        """Wait until the next ``notify_all``, at most ``timeout`` seconds, unless it is ``over``.

        For threads that do not hold the lock, and so need not take it again, come what may.
        """
        waiters: Any = vars(self)["_waiters"]  # notify releases each
        waiter = threading.Lock()
        waiter.acquire()
        waiters.append(waiter)
        if not over() and not waiter.acquire(timeout=-1 if timeout is None else timeout):
            with suppress(ValueError):
                waiters.remove(waiter)
