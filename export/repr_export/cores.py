"""One function on many values, a core to each: many small runs scale better than the threads of one."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from repr_runtime.machine import usable_cores

A = TypeVar("A")
B = TypeVar("B")


def on_cores(function: Callable[[A], B], values: Iterable[A]) -> Iterator[B]:
    """What ``function`` gives for each of ``values``, in their order, as many at once as there are cores.

    One value for each core waits, so that ``values`` are made no earlier than they are needed. The
    first error in their order is raised, and those not begun are left out.
    """
    cores = usable_cores()
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
