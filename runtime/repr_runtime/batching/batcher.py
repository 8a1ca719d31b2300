"""A dynamic batcher for services: samples in from many threads, run together, answered alone."""

import math
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Self

from repr_runtime import errors
from repr_runtime.batching.arrays import Given, Joiner, Sample
from repr_runtime.batching.classifying import Classifying
from repr_runtime.batching.deadlines import deadline_of, seconds_to
from repr_runtime.batching.delivery import deliver, hand_over, may_be_one_sample, own_copy
from repr_runtime.batching.pace import Pace
from repr_runtime.batching.queue import Answer, Request, State
from repr_runtime.batching.requests import Requests
from repr_runtime.batching.stats import BatcherStats
from repr_runtime.machine import no_thread, step_back
from repr_runtime.options import require_seconds, require_whole
from repr_runtime.process import lifetime
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
        self._requests = Requests(self.max_batch)
        self._pace = Pace(session.instances)  # with the lock, too
        self._workers: list[threading.Thread] = []
        for index in range(session.instances):
            name = f"repr-batcher-{index}"
            worker = threading.Thread(target=self._work, name=name, daemon=True)
            try:
                worker.start()
            except (RuntimeError, MemoryError) as error:
                self.close()
                raise no_thread(index, session.instances, error) from error
            self._workers.append(worker)
        lifetime.register(self, runs=False)

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
                self._requests.expire(request)  # unless the error is the request's own
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
        timer = None if left is None else loop.call_later(left, self._requests.expire, request)
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
        held = self._requests
        request = Request(sample, now, until, self.max_delay, held.withdraw)
        with held.lock:
            held.waiting.mend()
            if held.waiting.rows + sample.rows > self.queue_limit:
                held.retire(held.waiting.expired(now), "expired")
            refusal = self._refusal(sample.rows, deadline, now)
            if refusal is None:
                # First: if a signal's handler raises in between, nothing waits that none was told of.
                if held.waiting.changes_due(request):
                    held.ring()
                held.waiting.add(request)
        held.tell_apart()
        if refusal is not None:
            raise refusal
        return request

    def require_room(self, rows: int = 1, *, deadline: float | None = None) -> None:
        """Raise what :meth:`submit` would for a request of so many samples, whatever they are.

        For a service that refuses before it reads: :class:`QueueFullError`, if the queue is full
        or the answer may come after ``deadline``, and :class:`BatcherClosedError`.
        """
        with self._requests.lock:
            self._requests.waiting.mend()
            refusal = self._refusal(rows, deadline, time.monotonic())
        if refusal is not None:
            raise refusal

    def _refusal(self, rows: int, deadline: float | None, now: float) -> BaseException | None:
        waiting = self._requests.waiting.rows
        refusal: BaseException | None = None
        if self._requests.closed:
            refusal = lifetime.closed(errors.BatcherClosedError(self._requests.closed))
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
        self._requests.counts["refused"] += refusal is not None
        return refusal

    def stats(self) -> BatcherStats:
        """What happened up to now; a copy that does not change any more."""
        return self._requests.stats()

    def close(self, *, drain: bool = True) -> None:
        """Take no more requests, and return when none is left.

        ``drain`` runs those that wait; without it they fail with :class:`BatcherClosedError`,
        also if another thread is draining. What is being run comes to its end either way.
        Called again it does no harm.
        """
        self._close(drain)
        for worker in self._workers:
            if worker is not threading.current_thread():  # a callback may close, too
                worker.join()

    def _close(self, drain: bool) -> None:
        held = self._requests
        with held.lock:
            held.closed = held.closed or "the batcher is closed; make a new one"
            if not drain:
                held.waiting.mend()
                held.retire(held.waiting.all(), "failed")
            held.ring()
        held.tell_apart()

    def end(self) -> None:
        """The process ends: as ``close(drain=False)``, without waiting for what is being run."""
        self._close(drain=False)
        self._requests.tell()

    def forked(self, _: str) -> None:
        """Called in a forked child, where the threads are not."""
        self._workers = []
        self._requests.orphan(
            "the batcher was made before this process was forked, and its threads are not here; "
            "make one after the fork"
        )

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

    def _work(self) -> None:
        step_back(self._nice)
        while batch := self._next_batch():
            self._answer(batch)
            with self._requests.lock:
                self._pace.ended()
                self._requests.ended()
            del batch  # which would keep its requests while this waits for others

    def _next_batch(self) -> list[Request]:
        held, waiting = self._requests, self._requests.waiting
        while True:
            batch: list[Request] = []
            with held.lock:
                waiting.mend()
                now = time.monotonic()
                held.retire(waiting.expired(now), "expired")
                when, key = waiting.due() or (None, ())
                if when is not None and (held.closed or when <= now):
                    batch, late = waiting.take(key, now, self._expected)
                    held.retire(late, "expired")
                    self._pace.begun(self._size(sum(request.rows for request in batch)), now)
                    held.begun(batch, now)
                if waiting.count if batch else held.closed:
                    held.ring()  # for another worker
            held.tell()
            if batch or (held.closed and when is None):
                return batch
            held.wait(None if when is None else when - now)

    def _size(self, rows: int) -> int:
        try:
            return self.session.runnable_batch(rows)
        except errors.SessionClosedError:  # which the run will tell its requests
            return rows

    def _expected(self, rows: int) -> float:
        return self._pace.expected(self._size(rows))

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
        with self._requests.lock:
            self._requests.counts["retried"] += 1
        for request in batch:
            if request.deadline <= time.monotonic():
                self._requests.expire(request)
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
        with self._requests.lock:
            self._requests.run_total += seconds
            self._requests.counts["padding"] += size - rows
            self._pace.ran(size, seconds)
        return self._joiner.split(outputs, samples, size)

    def _finish(self, batch: Sequence[Request], answers: Sequence[Answer | BaseException]) -> None:
        with self._requests.lock:
            mine = [
                self._requests.settle(
                    request, "failed" if isinstance(answer, BaseException) else "answered"
                )
                for request, answer in zip(batch, answers, strict=True)
            ]
        for request, answer, is_mine in zip(batch, answers, mine, strict=True):
            request.sample = None  # the future may be kept for long
            if is_mine:
                deliver(request, answer)
