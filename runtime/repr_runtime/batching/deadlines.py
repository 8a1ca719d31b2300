"""Until when an answer is wanted: moments of ``time.monotonic()``, which timeouts are turned into."""

import math
import threading
import time

from repr_runtime.errors import DeadlineExceededError, OptionError
from repr_runtime.options import require_seconds


def deadline_of(timeout: float | None, deadline: float | None) -> float | None:
    """The moment that either of the two means; None for no end.

    Raises :class:`OptionError` if both are given, or one is no number.
    """
    for name, value in (("timeout", timeout), ("deadline", deadline)):
        if value is not None:
            require_seconds(-math.inf, math.inf, **{name: value})
    if timeout is None:
        return deadline
    if deadline is not None:
        raise OptionError("timeout and deadline say the same; give one of them")
    return time.monotonic() + timeout


def seconds_to(deadline: float | None) -> float | None:
    """For how long to wait until then, as the system takes it; None for no end."""
    if deadline is None or deadline == math.inf:
        return None
    return min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)


def missed(given: float) -> DeadlineExceededError:
    """The error of a request that came ``given`` seconds before its deadline."""
    return DeadlineExceededError(
        f"no answer within {given:.3g} s; allow more time, or take on less at once"
        if given > 0
        else f"the deadline had passed {-given:.3g} s before the request came; deadlines are "
        f"moments of time.monotonic()"
    )
