"""A dynamic batcher for services: samples in from many threads, run together, answered alone."""

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Self

from repr_runtime import errors
from repr_runtime.batching.arrays import Given, Joiner, Sample
from repr_runtime.batching.classifying import Classifying
from repr_runtime.batching.deadlines import deadline_of, missed, seconds_to
from repr_runtime.batching.delivery import deliver, hand_over, may_be_one_sample, own_copy
from repr_runtime.batching.pace import Pace
from repr_runtime.batching.queue import Answer, Request, State, WaitingRequests
from repr_runtime.batching.stats import BatcherStats
from repr_runtime.machine import step_back
from repr_runtime.options import require_seconds, require_whole
from repr_runtime.session import Session


class Batcher(Classifying):
    """Answers requests from any number of threads and event loops, through one session.

    Requests that arrive close together are run as one batch, and each gets its own rows of the
    outputs, in memory of its own. A batch is started as soon as an instance of the session is
    free (as many are in flight as it has ``instances``) and there are ``max_batch`` samples, or
    the oldest request has waited ``max_delay`` seconds, or half of the time to its deadline.
    Requests are run in the order in which they came, those of unlike shapes apart. By how long the
    last runs took, a deadline that may not be held is refused at once, a batch is no larger than
    its deadlines allow, and what cannot be in time any more is not run.

    A request is one sample, without the batch dimension, or with it several samples, which stay
    together. Inputs are checked when they are given, so that a mistake is its maker's alone;
    the arrays must not be changed until there is an answer. A network that does not treat the
    samples of a batch apart from one another is refused.

    If a batch fails, its requests are run again one by one, so that one of them does not spoil
    the others; not if the session was closed or the GPU is lost. Each gets an error of its own.

    Graphs of a fixed batch size are run at that size, and engines at one they were built for:
    batches are filled up with copies of a sample (``stats().padding``), and ``max_batch`` is
    lowered to the largest there is. ``close`` it, or use it as a context manager; the session
    stays open, and must until then.

    By default, as ``repr-bench --scenario server`` measures, no request waits where an instance
    is idle, and what comes during a run goes together: the load makes the batches.
    """

    def __init__(
        self,
        session: Session,
        *,
        max_batch: int = 32,
        max_delay: float = 0.0,
        queue_limit: int | None = None,
        nice: int = 0,
    ) -> None:
        """``max_delay`` is in seconds; ``queue_limit`` samples may wait, beside those that are run.

        None is 16 times ``max_batch``: whoever is taken on waits for 16 full batches at most.
        ``nice``, 0 to 19, lets the threads that run batches step back behind those that read
        requests and refuse them, where the system is Linux.
        Raises :class:`NotBatchableError` for a network with an input or output that has not a
        row for each sample, or whose outputs for a sample depend on the others of its batch, and
        :class:`OptionError` for settings that make no sense.
        """
        require_whole(1, max_batch=max_batch)
        require_seconds(0, threading.TIMEOUT_MAX, max_delay=max_delay)
        require_whole(0, 19, nice=nice)
        if isinstance(session, str | os.PathLike):
            raise errors.OptionError(f"a Batcher needs a session: Batcher(load({str(session)!r}))")
        if session.inseparable:
            raise errors.NotBatchableError(
                f"requests to {session.path} cannot be joined: {session.inseparable}; use Session.run"
            )
        images = session.manifest.preprocessing is not None
        self._joiner = Joiner(session.inputs, session.outputs, session.nonfinite == "error", images)
        self.session = session
        self.max_batch = min(max_batch, session.runnable_batch(max_batch))
        queue_limit = 16 * self.max_batch if queue_limit is None else queue_limit
        require_whole(self.max_batch, queue_limit=queue_limit)  # else no batch would be full
        self.max_delay, self.queue_limit, self._nice = max_delay, queue_limit, nice
        self._changed = threading.Condition(threading.Lock())
        self._waiting = WaitingRequests(self.max_batch)  # this and what follows: with the lock
        self._closed = False
        self._pace = Pace(session.instances)
        self._counts, self._batches = Counter[str](), Counter[int]()
        self._wait_total = self._wait_longest = self._run_total = 0.0
        self._workers = [
            threading.Thread(target=self._work, name=f"repr-batcher-{index}", daemon=True)
            for index in range(session.instances)
        ]
        for worker in self._workers:
            worker.start()

    def run(
        self, sample: Given, *, timeout: float | None = None, deadline: float | None = None
    ) -> Answer:
        """The outputs for ``sample``, by name; waits for them.

        For not longer than ``timeout`` seconds, or until ``deadline``, a moment of
        ``time.monotonic()``: then :class:`DeadlineExceededError` is raised, and the request is
        not run if it was not begun. Raises what :meth:`submit` raises, and the session's errors.
        """
        deadline = deadline_of(timeout, deadline)
        request = self._submit(sample, deadline)
        try:
            try:
                return request.result(seconds_to(deadline))
            except TimeoutError:
                self._expire(request)  # unless the error is the request's own
            return request.result()
        except BaseException:
            request.cancel()  # an interrupt in the midst of waiting leaves nothing behind
            raise
        finally:
            del request  # which its error would otherwise hold in a circle

    async def run_async(
        self, sample: Given, *, timeout: float | None = None, deadline: float | None = None
    ) -> Answer:
        """As :meth:`run`, in any event loop. If its task is cancelled, so is the request.

        One that is being run by then is run to its end, and counts as answered.
        """
        import asyncio  # whoever calls this has imported it

        deadline = deadline_of(timeout, deadline)
        request = self._submit(sample, deadline)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        request.add_done_callback(partial(hand_over, loop, answer))
        left = seconds_to(deadline)
        timer = None if left is None else loop.call_later(left, self._expire, request)
        try:
            return await answer
        except BaseException:
            request.cancel()
            raise
        finally:
            if timer is not None:
                timer.cancel()
            del request, answer, timer

    def submit(self, sample: Given, *, deadline: float | None = None) -> Future[Answer]:
        """The future outputs for ``sample``, by name.

        If ``deadline``, a moment of ``time.monotonic()``, passes before the request is begun,
        it is never run and the future raises :class:`DeadlineExceededError`, when the next
        batch is put together at the latest. ``cancel()`` withdraws a request that is not begun.
        Callbacks are called by a thread that runs batches, and should be short.

        Raises the subclass of :class:`InputError` that says what is wrong with ``sample``,
        :class:`QueueFullError`, and :class:`BatcherClosedError`.
        """
        return self._submit(sample, deadline_of(None, deadline))

    def _submit(self, given: Given, deadline: float | None) -> Request:
        sample = self._joiner.check(given, self.max_batch)
        now = time.monotonic()
        until = math.inf if deadline is None else deadline
        request = Request(sample, now, until, self.max_delay, self._withdraw)
        expired: list[Request] = []
        with self._changed:
            if self._waiting.rows + sample.rows > self.queue_limit:
                expired = self._take_expired(now)
            refusal = self._refusal(sample.rows, deadline, now)
            if refusal is None:
                self._counts["accepted"] += 1
                if self._waiting.add(request):
                    self._changed.notify()
        self._fail_expired(expired)
        if refusal is not None:
            raise refusal
        return request

    def require_room(self, rows: int = 1, *, deadline: float | None = None) -> None:
        """Raise what :meth:`submit` would for a request of so many samples, whatever they are.

        For a service that refuses before it reads: :class:`QueueFullError`, if the queue is full
        or the answer may come after ``deadline``, and :class:`BatcherClosedError`.
        """
        with self._changed:
            refusal = self._refusal(rows, deadline, time.monotonic())
        if refusal is not None:
            raise refusal

    def _refusal(self, rows: int, deadline: float | None, now: float) -> Exception | None:
        waiting = self._waiting.rows
        refusal: Exception | None = None
        if self._closed:
            refusal = errors.BatcherClosedError("the batcher is closed; make a new one")
        elif waiting + rows > self.queue_limit:
            refusal = errors.QueueFullError(
                f"{waiting} samples wait, and {self.queue_limit} may; try again later, with more "
                f"instances, or allow more with queue_limit"
            )
        elif deadline is not None:
            takes = self._pace.takes(self._size(rows), waiting, now)
            if takes and now + takes > deadline:
                refusal = errors.QueueFullError(
                    f"{waiting} samples wait, and an answer may take {takes:.2g} s, longer than the "
                    f"{max(0.0, deadline - now):.2g} s left; try again later, or allow more time"
                )
        self._counts["refused"] += refusal is not None
        return refusal

    def stats(self) -> BatcherStats:
        """What happened up to now; a copy that does not change any more."""
        with self._changed:
            return BatcherStats(
                **self._counts,
                waiting=self._waiting.count,
                batches=dict(sorted(self._batches.items())),
                wait_total=self._wait_total,
                wait_longest=self._wait_longest,
                run_total=self._run_total,
            )

    def close(self, *, drain: bool = True) -> None:
        """Take no more requests, and return when none is left.

        ``drain`` runs those that wait; without it they fail with :class:`BatcherClosedError`,
        also if another thread is draining. What is being run comes to its end either way.
        Called again it does no harm.
        """
        with self._changed:
            self._closed = True
            left = [] if drain else self._waiting.take_expired(math.inf)
            for request in left:
                self._settle(request, "failed")
            self._changed.notify_all()
        for request in left:
            deliver(
                request,
                errors.BatcherClosedError("the batcher was closed before the request was begun"),
            )
        for worker in self._workers:
            if worker is not threading.current_thread():  # a callback may close, too
                worker.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        size = self.session.batch_size
        padded = f", padded to {size}" if size is not None else ""
        return (
            f"<Batcher of {self.session!r}: up to {self.max_batch} samples{padded}, {self.max_delay:g} s, "
            f"{self.queue_limit} may wait>"
        )

    # A request is settled with the lock held, once, by whoever finds it not settled yet; its
    # future is completed afterwards, without the lock, since that calls the user's callbacks.

    def _settle(self, request: Request, outcome: str) -> bool:
        """Whether it is the caller now who has to complete the request's future."""
        if request.state is State.SETTLED:
            return False
        if request.state is State.RUNNING:
            self._counts["running"] -= 1
        else:
            request.sample = None  # of one that runs, the worker still needs it
        request.state = State.SETTLED
        self._counts[outcome] += 1
        return True

    def _withdraw(self, request: Request) -> bool:
        with self._changed:
            if request.state is not State.WAITING:
                return False
            self._waiting.remove(request)
            return self._settle(request, "cancelled")

    def _expire(self, request: Request) -> None:
        """The request's deadline has passed, also if it is being run."""
        with self._changed:
            if request.state is State.WAITING:
                self._waiting.remove(request)
            expired = self._settle(request, "expired")
        if expired:
            self._fail_expired([request])

    def _take_expired(self, now: float) -> list[Request]:
        expired = self._waiting.take_expired(now)
        for request in expired:
            self._settle(request, "expired")
        return expired

    def _fail_expired(self, requests: Iterable[Request]) -> None:
        for request in requests:
            deliver(request, missed(request.deadline - request.arrived))

    def _work(self) -> None:
        step_back(self._nice)
        while batch := self._next_batch():
            self._answer(batch)
            with self._changed:
                self._pace.ended()
            del batch  # which would keep its requests while this waits for others

    def _next_batch(self) -> list[Request]:
        while True:
            batch: list[Request] = []
            with self._changed:
                now = time.monotonic()
                expired = self._take_expired(now)
                when, key = self._waiting.due() or (None, ())
                if when is not None and (self._closed or when <= now):
                    batch, late = self._waiting.take(key, now, self._expected)
                    expired += [request for request in late if self._settle(request, "expired")]
                    self._start(batch, now)
                    if self._waiting.count:  # another worker's, unless it comes to nothing
                        self._changed.notify()
                elif not expired:  # else their owners are told first
                    if self._closed and when is None:
                        return batch
                    self._changed.wait(None if when is None else when - now)
            self._fail_expired(expired)
            if batch:
                return batch

    def _size(self, rows: int) -> int:
        try:
            return self.session.runnable_batch(rows)
        except errors.SessionClosedError:  # which the run will tell its requests
            return rows

    def _expected(self, rows: int) -> float:
        return self._pace.expected(self._size(rows))

    def _start(self, batch: Sequence[Request], now: float) -> None:
        samples = sum(request.rows for request in batch)
        self._batches[samples] += 1
        self._pace.begun(self._size(samples), now)
        self._counts.update(running=len(batch), started=len(batch))
        for request in batch:
            request.state = State.RUNNING
            request.set_running_or_notify_cancel()
            self._wait_total += now - request.arrived
            self._wait_longest = max(self._wait_longest, now - request.arrived)

    def _answer(self, batch: Sequence[Request]) -> None:
        samples = [request.sample for request in batch if request.sample is not None]
        try:
            answers: Sequence[Answer | BaseException] = self._run(samples)
        except BaseException as error:
            if len(batch) > 1 and may_be_one_sample(error):
                self._answer_one_by_one(batch)
                return
            answers = [own_copy(error) if len(batch) > 1 else error for _ in batch]
        self._finish(batch, answers)

    def _answer_one_by_one(self, batch: Sequence[Request]) -> None:
        with self._changed:
            self._counts["retried"] += 1
        for request in batch:
            if request.deadline <= time.monotonic():
                self._expire(request)
            if request.state is State.SETTLED:
                request.sample = None
            else:
                self._answer([request])

    def _run(self, samples: Sequence[Sample]) -> list[Answer]:
        rows = sum(sample.rows for sample in samples)
        size = self.session.runnable_batch(rows)
        begin = time.monotonic()
        outputs = self.session.run(self._joiner.join(samples, size))
        seconds = time.monotonic() - begin
        with self._changed:
            self._run_total += seconds
            self._pace.ran(size, seconds)
            self._counts["padding"] += size - rows
        return self._joiner.split(outputs, samples, size)

    def _finish(self, batch: Sequence[Request], answers: Sequence[Answer | BaseException]) -> None:
        with self._changed:
            mine = [
                self._settle(request, "failed" if isinstance(answer, BaseException) else "answered")
                for request, answer in zip(batch, answers, strict=True)
            ]
        for request, answer, is_mine in zip(batch, answers, mine, strict=True):
            request.sample = None  # the future may be kept for long
            if is_mine:
                deliver(request, answer)
