"""Every request of a batcher, from when it is taken on until its future is completed."""

import threading
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

from repr_runtime import errors
from repr_runtime.batching.deadlines import missed
from repr_runtime.batching.delivery import deliver
from repr_runtime.batching.queue import Request, State, WaitingRequests
from repr_runtime.batching.stats import BatcherStats
from repr_runtime.process import lifetime

_OUTCOMES = ("answered", "failed", "expired", "cancelled")


class Requests:
    """Those that wait, those that are run, and what became of the others.

    A request is settled with ``lock`` held, once, by whoever finds it not settled yet; its
    future is completed afterwards, without it, since that calls the user's callbacks. The threads
    that run batches, in which no signal is handled, complete what another thread has settled: it
    stands in a queue for them before it is settled.
    """

    def __init__(self, max_batch: int) -> None:
        self.lock = threading.Lock()
        self._bell: SimpleQueue[None] = SimpleQueue()
        self.waiting = WaitingRequests(max_batch)  # this and what follows: with ``lock`` held
        self.closed = ""  # why, once it is
        self.counts, self.batches = Counter[str](), Counter[int]()
        self.wait_total = self.wait_longest = self.run_total = 0.0
        self._running: dict[int, Sequence[Request]] = {}  # by thread
        self.untold: deque[Request] = deque()

    def ring(self) -> None:
        """Wake a thread that waits for what to run, or the next that will.

        One is enough: it wakes another where it leaves something. (A condition of the library may
        lose the thread that it wakes, if a signal's handler raises meanwhile.)
        """
        if self._bell.empty():
            self._bell.put(None)

    def wait(self, seconds: float | None) -> None:
        """Until somebody rings, or so many seconds; called without ``lock``."""
        with suppress(Empty):
            self._bell.get(timeout=seconds)

    def begun(self, batch: Sequence[Request], now: float) -> None:
        """This thread runs ``batch``."""
        self._running[threading.get_ident()] = batch
        self.counts["started"] += len(batch)
        self.batches[sum(request.rows for request in batch)] += 1
        for request in batch:
            request.state = State.RUNNING
            request.set_running_or_notify_cancel()
            self.wait_total += now - request.arrived
            self.wait_longest = max(self.wait_longest, now - request.arrived)

    def ended(self) -> None:
        """What this thread has run is done with."""
        self._running.pop(threading.get_ident(), None)

    def settle(self, request: Request, outcome: str) -> bool:
        """Whether it is the caller now who has to complete the request's future."""
        if request.state is State.SETTLED:
            return False
        if request.state is State.WAITING:
            self.waiting.sound = False  # until it is taken out
            request.sample = None  # of one that runs, the thread that runs it still needs it
        request.outcome = outcome
        request.state = State.SETTLED
        self.counts[outcome] += 1
        return True

    def retire(self, requests: Iterable[Request], outcome: str) -> None:
        """Settle what is not run any more, for :meth:`tell`."""
        mine = [request for request in requests if request.state is not State.SETTLED]
        for request in mine:
            request.outcome = outcome
        self.untold.extend(mine)
        for request in mine:
            self.settle(request, outcome)
        if mine:
            self.waiting.drop_settled()

    def tell(self) -> None:
        """Complete the futures of those that were retired; called without ``lock``."""
        for request in tuple(self.untold):
            with self.lock:
                if self.settle(request, request.outcome):  # as a signal kept another thread from it
                    self.waiting.drop_settled()
            late = request.outcome == "expired"
            deliver(request, missed(request.deadline - request.arrived) if late else self._gone())
            with suppress(ValueError):  # another thread may have been faster
                self.untold.remove(request)

    def tell_apart(self) -> None:
        """:meth:`tell`, in a thread where no signal is handled."""
        if self.untold and threading.current_thread() is not threading.main_thread():
            self.tell()
        elif self.untold:
            with suppress(RuntimeError):  # no thread to be had: those that run batches will
                teller = threading.Thread(target=self.tell, daemon=True)
                teller.start()
                teller.join()

    def _gone(self) -> BaseException:
        closed = errors.BatcherClosedError("the batcher was closed before the request was begun")
        return lifetime.ends() or closed

    def withdraw(self, request: Request) -> bool:
        """Cancel ``request``, if nobody has started to run it; whether it was so."""
        with self.lock:
            self.waiting.mend()
            if request.state is not State.WAITING:
                return False
            settled = self.settle(request, "cancelled")
            self.waiting.remove(request)
            return settled

    def expire(self, request: Request) -> None:
        """The deadline of ``request`` has passed, also if it is being run."""
        with self.lock:
            self.waiting.mend()
            waits = request.state is State.WAITING
            mine = self.settle(request, "expired")
            if waits:
                self.waiting.remove(request)
        if mine:
            deliver(request, missed(request.deadline - request.arrived))
        self.tell_apart()

    def orphan(self, closed: str) -> None:
        """In a forked child, where nobody runs them: ``closed`` says so."""
        self.lock = threading.Lock()
        self.closed = closed
        left = (*self.waiting.all(), *(r for batch in self._running.values() for r in batch))
        for request in (*left, *self.untold):
            request.orphan(errors.BatcherClosedError(closed))
            request.state = State.SETTLED
        self._running.clear()
        self.untold.clear()
        self.waiting.drop_settled()

    def stats(self) -> BatcherStats:
        """What happened up to now."""
        with self.lock:
            self.waiting.mend()
            running = sum(
                request.state is State.RUNNING
                for batch in self._running.values()
                for request in batch
            )
            waiting = self.waiting.count
            return BatcherStats(
                **self.counts,
                accepted=waiting + running + sum(self.counts[outcome] for outcome in _OUTCOMES),
                waiting=waiting,
                running=running,
                batches=dict(sorted(self.batches.items())),
                wait_total=self.wait_total,
                wait_longest=self.wait_longest,
                run_total=self.run_total,
            )
