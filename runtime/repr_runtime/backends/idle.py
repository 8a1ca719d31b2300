"""Things of which each is one run's at a time: a run takes an idle one, or waits for it."""

from collections.abc import Callable, Sequence
from itertools import islice
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Idle(Generic[T]):
    """Lends each of ``every`` to one caller at a time; what is listed twice, to two."""

    def __init__(self, every: Sequence[T]) -> None:
        self._every = tuple(every)
        self.refill()

    def refill(self) -> None:
        """In a forked child: those that had taken some are threads of the parent."""
        self._queue: SimpleQueue[T] = SimpleQueue()
        for each in self._every:
            self._queue.put(each)

    def lend(self, use: Callable[[T], R]) -> R:
        """What ``use`` gives, of the first that is idle.

        A signal's handler may raise after any call. So what is lent goes from the queue into
        ``taken``, and back, in one call each, with no line of Python between: it is never in
        neither of them.
        """
        queue = self._queue
        taken: list[T] = []
        take, give_back = islice(iter(queue.get, None), 1), map(queue.put, taken)
        try:
            taken.extend(take)
            return use(taken[0])
        finally:  # also after close, for those that wait: each is then told
            any(give_back)
