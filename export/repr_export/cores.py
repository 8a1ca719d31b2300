"""One function on many values, a core to each: many small runs scale better than the threads of one."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from repr_runtime.machine import usable_cores

A = TypeVar("A")
B = TypeVar("B")


def on_cores(
    function: Callable[[A], B], values: Iterable[A], at_most: int | None = None
) -> Iterator[B]:
    """What ``function`` gives for each of ``values``, in their order, as many at once as there are cores.

    Where each takes much memory, ``at_most`` so many. One value for each core waits, so that they
    are made no earlier than needed. The first error in their order is raised, and those not begun
    are left out.
    """
    cores = min(usable_cores(), at_most or usable_cores())
    pool = ThreadPoolExecutor(cores)
    begun: deque[Future[B]] = deque()
    try:
        for value in values:
            begun.append(pool.submit(function, value))
            if len(begun) >= 2 * cores:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
