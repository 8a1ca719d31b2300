"""The requests that wait for a batch: in order of arrival, together with those that fit beside them."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from enum import Enum
from typing import Any

from numpy.typing import NDArray

from repr_runtime.batching.arrays import Key, Sample
from repr_runtime.process.interrupts import SafeCondition

Answer = dict[str, NDArray[Any]]


class State(Enum):
    """Where a request is; it is settled exactly once, by whoever puts it there."""

    WAITING = 0
    RUNNING = 1
    SETTLED = 2


class Request(Future[Answer]):
    """A future that can be cancelled as long as nobody has started to run it.

    ``deadline`` and ``start_by`` are moments of ``time.monotonic()``; ``start_by`` is when it
    is to be run at the latest, alone if need be. ``state``, and the ``outcome`` of what is settled,
    belong to the batcher's lock.
    """

    def __init__(
        self,
        sample: Sample,
        arrived: float,
        deadline: float,
        max_delay: float,
        withdraw: Callable[[Request], bool],
    ) -> None:
        super().__init__()
        self._condition: SafeCondition = SafeCondition()
        self.sample: Sample | None = sample
        self.rows, self.key = sample.rows, sample.key
        self.arrived, self.deadline = arrived, deadline
        # At least half of the time to its deadline is left for the run.
        self.start_by = arrived + min(max_delay, max(0.0, deadline - arrived) / 2)
        self.state, self.outcome = State.WAITING, ""
        self._withdraw = withdraw

    def cancel(self) -> bool:
        """Withdraw the request; False if it is run already, or done."""
        if not self._withdraw(self):
            return self.cancelled()
        super().cancel()
        self.set_running_or_notify_cancel()  # wakes those in concurrent.futures.wait
        return True

    def result(self, timeout: float | None = None) -> Answer:
        """The answer; waits for it, for ``timeout`` seconds at most."""
        try:
            self._wait(timeout)
            return super().result(0)
        finally:
            del self  # which the error that it raises would otherwise hold in a circle

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error, or None if there is an answer; waits as :meth:`result`."""
        self._wait(timeout)
        return super().exception(0)

    def _wait(self, timeout: float | None) -> None:
        self._condition.wait_outside(self.done, timeout)
        if not self.done():
            raise TimeoutError

    def orphan(self, error: Exception) -> None:
        """In a forked child: nobody answers it here. Its callbacks are the parent's to call."""
        self._condition = SafeCondition()  # the other may be held by a thread that is not here
        vars(self)["_done_callbacks"].clear()
        if not self.done():
            self.set_exception(error)


class _Group:
    """Requests of one shape; a request anywhere among them is removed in constant time."""

    def __init__(self) -> None:
        self.requests: OrderedDict[Request, None] = OrderedDict()
        self.rows = 0


class WaitingRequests:
    """Not thread-safe: the batcher's lock is held around each call.

    ``rows`` counts the samples that wait, in ``count`` requests. Whoever takes the lock calls
    :meth:`mend` first: where a signal's handler raised half-way through a change, not all is
    ``sound``.
    """

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._groups: dict[Key, _Group] = {}
        self._next_deadline = math.inf  # none that waits has an earlier one
        self.rows = self.count = 0
        self.sound = True

    def mend(self) -> None:
        """What all counts follow from is which requests stand in the groups, and wait."""
        if self.sound:
            return
        for key, group in list(self._groups.items()):
            for request in [r for r in group.requests if r.state is not State.WAITING]:
                del group.requests[request]
            group.rows = sum(request.rows for request in group.requests)
            if not group.requests:  # there may be any number of shapes in time
                del self._groups[key]
        waiting = self.all()
        self.rows, self.count = sum(request.rows for request in waiting), len(waiting)
        self._next_deadline = min((request.deadline for request in waiting), default=math.inf)
        self.sound = True

    def drop_settled(self) -> None:
        """Removes those that wait no more."""
        self.sound = False
        self.mend()

    def all(self) -> list[Request]:
        """Those of one shape in order of arrival."""
        return [request for group in self._groups.values() for request in group.requests]

    def changes_due(self, request: Request) -> bool:
        """Whether ``due`` may be another once that has been added."""
        group = self._groups.get(request.key)
        before = group.rows if group else 0
        becomes_full = before < self._max_batch <= before + request.rows
        return not before or becomes_full or request.deadline < math.inf

    def add(self, request: Request) -> None:
        self.sound = False
        group = self._groups.setdefault(request.key, _Group())
        group.requests[request] = None
        group.rows += request.rows
        self.rows += request.rows
        self.count += 1
        self._next_deadline = min(self._next_deadline, request.deadline)
        self.sound = True

    def remove(self, request: Request) -> None:
        self.sound = False
        group = self._groups[request.key]
        del group.requests[request]
        group.rows -= request.rows
        self.rows -= request.rows
        self.count -= 1
        if not group.requests:
            del self._groups[request.key]
        self.sound = True

    def expired(self, now: float) -> list[Request]:
        """Those whose deadline has passed."""
        if now < self._next_deadline:
            return []
        return [request for request in self.all() if request.deadline <= now]

    def due(self) -> tuple[float, Key] | None:
        """When to start the next batch at the earliest, and of which shape; None if nothing waits.

        A full batch is due since its oldest request came, so that one shape that fills batch
        after batch does not keep another from its turn.
        """
        return min(
            ((self._when(group), key) for key, group in self._groups.items()),
            key=lambda due: due[0],
            default=None,
        )

    def _when(self, group: _Group) -> float:
        if group.rows >= self._max_batch:
            return next(iter(group.requests)).arrived
        return min(request.start_by for request in group.requests)

    def take(
        self, key: Key, now: float, expected: Callable[[int], float]
    ) -> tuple[list[Request], list[Request]]:
        """Removes the oldest requests of that shape, as many as fit into a batch.

        ``expected`` says how many seconds a batch of so many samples takes: no more are taken than
        are answered in time. Those that cannot be any more, not even alone, are given apart; if
        none can be, the newest is run all the same, since what is expected may have changed.
        """
        batch: list[Request] = []
        late: list[Request] = []
        rows, until = 0, math.inf
        for request in self._groups[key].requests:
            together = rows + request.rows
            if together > self._max_batch:
                break
            if request.deadline < math.inf and now + expected(request.rows) > request.deadline:
                late.append(request)
                continue
            earliest = min(until, request.deadline)
            if batch and earliest < math.inf and now + expected(together) > earliest:
                break
            batch.append(request)
            rows, until = together, earliest
        if not batch:
            batch.append(late.pop())
        for request in (*batch, *late):
            self.remove(request)
        return batch, late
