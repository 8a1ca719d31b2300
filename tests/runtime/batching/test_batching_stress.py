"""The batcher under load: nothing is lost, answered twice, or answered with what is another's."""

import asyncio
import itertools
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import pytest
from fake_session import FakeSession, is_answer, sample
from numpy.typing import NDArray

from repr_runtime import Batcher, errors

THREADS = 64
SEEDS = range(4)
EACH = max(30, int(os.environ.get("REPR_REQUESTS", "0")) // (THREADS * len(SEEDS)))
"""Requests of a thread; with REPR_REQUESTS=1500000 there are so many in all."""
SETTLED = ("answered", "failed", "expired", "cancelled")


@pytest.fixture(autouse=True)
def _switch_threads_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Ledger:
    """What became of each request, by its identity; written to by many threads."""

    def __init__(self) -> None:
        self.outcomes: dict[int, list[str]] = {}
        self.completions: Counter[int] = Counter()
        self._next = itertools.count(1)
        self._lock = threading.Lock()

    def identity(self, poison: bool = False) -> int:
        """A number of its own for a request; the session fails on those that 7 divides."""
        while True:
            with self._lock:
                identity = next(self._next)
            if (identity % 7 == 0) == poison:
                return identity

    def write(self, identity: int, outcome: str) -> None:
        with self._lock:
            self.outcomes.setdefault(identity, []).append(outcome)

    def completed(self, identity: int) -> None:
        with self._lock:
            self.completions[identity] += 1

    def count(self) -> Counter[str]:
        """How many ended in what; each must have ended once."""
        assert all(len(found) == 1 for found in self.outcomes.values())
        return Counter(found[0] for found in self.outcomes.values())

    def ending_in(self, *outcomes: str) -> set[int]:
        return {i for i, found in self.outcomes.items() if found[0] in outcomes}


ENDS: dict[type[BaseException], str] = {
    CancelledError: "cancelled",
    asyncio.CancelledError: "cancelled",
    errors.DeadlineExceededError: "expired",
    errors.QueueFullError: "refused",
    errors.ExecutionError: "failed",
    errors.BatcherClosedError: "failed",
}


def outcome(answer: Any, identity: int) -> str:
    """What became of the request ``identity``: ``answer`` is what came, or what was raised."""
    if isinstance(answer, BaseException):
        return ENDS[type(answer)]
    return "answered" if is_answer(answer, identity) else "another's answer"


def outcome_of(future: Future[Any], identity: int) -> str:
    try:
        return outcome(future.result(30), identity)
    except BaseException as error:
        return outcome(error, identity)


def together(work: Callable[[int], object], count: int = THREADS) -> None:
    """``work`` in so many threads, each with a number, which begin at once."""
    start = threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda number: (start.wait(), work(number)), range(count), timeout=60 + EACH))


def poisoned(batch: NDArray[Any]) -> None:
    if (batch[:, 0] % 7 == 0).any():
        raise errors.ExecutionError(f"poison in {batch[:, 0].tolist()}")


def ask(made: Batcher, ledger: Ledger, dice: random.Random) -> None:
    """One request in one of many manners, and what became of it."""
    manner = dice.choice(("run", "run", "timeout", "submit", "cancel", "cancel", "deadline"))
    identity = ledger.identity(poison=dice.random() < 0.05)
    soon = dice.uniform(0, 0.004)
    try:
        if manner in ("run", "timeout"):
            answer: Any
            try:
                answer = made.run(sample(identity), timeout=soon if manner == "timeout" else 30)
            except errors.ReproError as error:
                if ENDS[type(error)] == "refused" or "make a new one" in str(error):
                    raise
                answer = error
            ledger.completed(identity)
            ledger.write(identity, outcome(answer, identity))
            return
        deadline = time.monotonic() + soon if manner == "deadline" else None
        future = made.submit(sample(identity), deadline=deadline)
        future.add_done_callback(lambda _: ledger.completed(identity))
        if manner == "cancel":
            time.sleep(soon / 4)
            assert future.cancel() == (outcome_of(future, identity) == "cancelled")
        ledger.write(identity, outcome_of(future, identity))
    except (errors.QueueFullError, errors.BatcherClosedError):
        ledger.write(identity, "refused")


def agree(ledger: Ledger, made: Batcher, session: FakeSession) -> Counter[str]:
    """The ledger, the statistics and what the session saw tell the same."""
    counts, stats = ledger.count(), made.stats()
    assert set(counts) <= {*SETTLED, "refused"}
    assert {name: counts[name] for name in (*SETTLED, "refused")} == {
        name: getattr(stats, name) for name in (*SETTLED, "refused")
    }
    assert (stats.waiting, stats.running) == (0, 0)
    assert stats.accepted == sum(counts[name] for name in SETTLED)
    refused = ledger.ending_in("refused")
    assert set(ledger.completions) == set(ledger.outcomes) - refused
    assert set(ledger.completions.values()) <= {1}  # no future is completed twice

    runs = Counter(int(identity) for batch in session.seen for identity in batch[:, 0])
    assert not runs.keys() & ledger.ending_in("cancelled", "refused")
    assert runs.keys() >= ledger.ending_in("answered")
    alone = Counter(int(batch[0, 0]) for batch in session.seen if len(batch) == 1)
    assert all(times == 1 or (times == 2 and alone[i]) for i, times in runs.items())
    assert sum(size * times for size, times in stats.batches.items()) == stats.started
    assert max(map(len, session.seen), default=0) <= made.max_batch
    return counts


JITTER = 0.002


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.timeout(600 + EACH)
def test_every_request_of_64_threads_ends_once_and_rightly(seed: int) -> None:
    session, ledger = FakeSession(instances=1 + seed % 3, fail=poisoned, jitter=JITTER), Ledger()

    def work(number: int) -> None:
        dice = random.Random(1000 * seed + number)
        for _ in range(EACH):
            ask(made, ledger, dice)

    with Batcher(session, max_batch=8, max_delay=0.001, queue_limit=40) as made:  # type: ignore[arg-type]
        together(work)
        made.close()
        counts = agree(ledger, made, session)
    assert sum(counts.values()) == EACH * THREADS
    assert all(counts[name] > 0 for name in (*SETTLED, "refused")), counts
    assert session.most_at_once == session.instances


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("drain", [True, False])
def test_closing_in_the_midst_of_it(drain: bool, seed: int) -> None:
    """Several threads close, all the others ask on until they are refused."""
    session, ledger = FakeSession(instances=2, fail=poisoned, jitter=JITTER), Ledger()
    made = Batcher(session, max_batch=4, max_delay=0.001, queue_limit=100)  # type: ignore[arg-type]

    def work(number: int) -> None:
        dice = random.Random(1000 * seed + number)
        if number < 3:
            time.sleep(0.02 + dice.random() * 0.01)
            made.close(drain=drain)
            assert made.stats().waiting == made.stats().running == 0
            return
        for _ in range(15):
            ask(made, ledger, dice)

    together(work)
    made.close()
    counts = agree(ledger, made, session)
    assert counts["refused"] > 0
    if drain:  # nothing but poison failed
        assert all(identity % 7 == 0 for identity in ledger.ending_in("failed"))


def test_cancelling_races_with_starting() -> None:
    """``cancel`` says True for those that are never run, False for those that are answered."""
    session, seen = FakeSession(), Counter[bool]()
    made = Batcher(session, max_batch=1, max_delay=0, queue_limit=10)  # type: ignore[arg-type]
    with made, ThreadPoolExecutor(2) as pool:
        for identity in range(1, 1500):
            future = made.submit(sample(identity))
            for _ in range(identity % 40):
                pass
            both = [pool.submit(future.cancel) for _ in range(2)] if identity % 3 == 0 else []
            cancelled = future.cancel()
            assert outcome_of(future, identity) == (
                "cancelled" if future.cancelled() else "answered"
            )
            assert not cancelled or future.cancelled()
            assert all(one.result(10) in (True, False) for one in both)
            seen[future.cancelled()] += 1
    ran = {int(batch[0, 0]) for batch in session.seen}
    assert len(ran) == len(session.seen) == seen[False]
    assert (made.stats().cancelled, made.stats().answered) == (seen[True], seen[False])
    assert seen[True] > 0


def test_event_loops_with_random_cancellations_and_timeouts() -> None:
    session, ledger = FakeSession(instances=2, fail=poisoned, jitter=JITTER), Ledger()

    async def one(made: Batcher, dice: random.Random) -> None:
        identity = ledger.identity(poison=dice.random() < 0.05)
        timeout = dice.choice((None, dice.uniform(0, 0.005)))
        task = asyncio.create_task(made.run_async(sample(identity), timeout=timeout))
        if dice.random() < 0.3:
            await asyncio.sleep(dice.uniform(0, 0.004))
            task.cancel()
        (answer,) = await asyncio.gather(task, return_exceptions=True)
        ledger.write(identity, outcome(answer, identity))

    async def many(made: Batcher, seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(10):
            await asyncio.gather(*(one(made, dice) for _ in range(30)))

    with Batcher(session, max_batch=8, max_delay=0.001, queue_limit=60) as made:  # type: ignore[arg-type]
        together(lambda seed: asyncio.run(many(made, seed)), 4)
        made.close()
        counts, stats = ledger.count(), made.stats()
    assert sum(counts.values()) == 1200
    assert set(counts) <= {*SETTLED, "refused"}
    # A task that is cancelled in the midst of its run hears nothing of how that ends; one that is
    # cancelled before it has begun has never asked.
    asked = stats.accepted + stats.refused
    assert 1200 - counts["cancelled"] <= asked <= 1200
    assert stats.refused == counts["refused"]
    assert stats.accepted == stats.answered + stats.failed + stats.expired + stats.cancelled
    assert (stats.waiting, stats.running) == (0, 0)
    assert stats.cancelled <= counts["cancelled"]
    for name in ("answered", "failed", "expired"):
        assert counts[name] <= getattr(stats, name) <= counts[name] + counts["cancelled"]
    assert all(counts[name] > 0 for name in ("answered", "cancelled", "expired", "failed"))
