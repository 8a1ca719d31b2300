"""Requests of a network whose samples must not be joined: each is run as it came, by itself."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

from repr_runtime import BatcherStats, Session, errors
from repr_runtime.batching.deadlines import missed, seconds_to
from repr_runtime.batching.pace import Pace
from repr_runtime.batching.queue import Answer
from repr_runtime.machine import step_back


class Alone:
    """What a ``Batcher`` is to other networks: a bounded queue, deadlines, cancellation, counts.

    As many requests are run side by side as the session has ``instances``, and ``queue_limit``
    may wait beside them.
    """

    max_batch: int | None = None
    """Samples of one request: whatever the network takes."""

    def __init__(self, session: Session, queue_limit: int, nice: int = 0) -> None:
        self.session, self.queue_limit = session, queue_limit
        self._instances = session.instances
        self._pool = ThreadPoolExecutor(self._instances, "repr-alone", step_back, (nice,))
        self._lock = threading.Lock()
        self._pace = Pace(session.instances)
        self._closed = False
        self._counts = Counter[str]()
        self._wait_total = self._wait_longest = self._run_total = 0.0

    async def run_async(
        self, sample: Mapping[str, NDArray[Any]], *, deadline: float | None = None
    ) -> Answer:
        """As ``Batcher.run_async``; raises what that does."""
        arrived = time.monotonic()
        with self._lock:
            self._refuse(deadline, arrived)
            self._counts.update(accepted=1, waiting=1)
            request = self._pool.submit(self._run, sample, arrived, deadline)
        answer = asyncio.wrap_future(request)
        try:
            async with asyncio.timeout(seconds_to(deadline)):
                return await answer
        except TimeoutError as error:
            if isinstance(error, errors.DeadlineExceededError) or deadline is None:
                raise
            raise missed(deadline - arrived) from None
        finally:
            if request.cancel():  # it was never begun, and will not be
                self._count(waiting=-1, cancelled=1)

    def require_room(self, *, deadline: float | None = None) -> None:
        """As ``Batcher.require_room``."""
        with self._lock:
            self._refuse(deadline, time.monotonic())

    def _refuse(self, deadline: float | None, now: float) -> None:
        waiting = self._counts["waiting"]
        takes = 0.0 if deadline is None else self._pace.takes(1, waiting, now)
        late = takes > 0 and deadline is not None and now + takes > deadline
        if not (self._closed or late or waiting >= self.queue_limit):
            return
        self._counts["refused"] += 1
        if self._closed:
            raise errors.BatcherClosedError("the model is closed; ask for the one in its place")
        if late:
            raise errors.QueueFullError(
                f"{waiting} requests wait, and an answer may take {takes:.2g} s, longer than is left; "
                f"try again later, or allow more time"
            )
        raise errors.QueueFullError(
            f"{self.queue_limit} requests wait, and no more may; try again later"
        )

    def _run(
        self, sample: Mapping[str, NDArray[Any]], arrived: float, deadline: float | None
    ) -> Answer:
        now = time.monotonic()
        self._count(waiting=-1, running=1, started=1)
        with self._lock:
            self._wait_total += now - arrived
            self._wait_longest = max(self._wait_longest, now - arrived)
            self._pace.begun(1, now)
        outcome = "failed"
        try:
            if deadline is not None and deadline <= now:
                outcome = "expired"
                raise missed(deadline - arrived)
            answer = self.session.run(sample)
            outcome = "answered"
            return answer
        finally:
            self._count(running=-1, **{outcome: 1})
            with self._lock:
                seconds = time.monotonic() - now
                self._run_total += seconds
                self._pace.ended()
                if outcome == "answered":
                    self._pace.ran(1, seconds)

    def _count(self, **changes: int) -> None:
        with self._lock:
            self._counts.update(changes)

    def stats(self) -> BatcherStats:
        """What happened up to now; each request is a batch of its own."""
        with self._lock:
            return BatcherStats(
                **self._counts,
                batches={1: self._counts["started"]} if self._counts["started"] else {},
                wait_total=self._wait_total,
                wait_longest=self._wait_longest,
                run_total=self._run_total,
            )

    def close(self, *, drain: bool = True) -> None:
        """Take no more, and return when what was taken is done; without ``drain`` fail what waits."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=not drain)
