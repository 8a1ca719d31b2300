"""A session for the batcher's tests, whose answers say which request they belong to."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_runtime import Batcher
from repr_runtime.artifact.manifest import TensorSpec


class FakeSession:
    """Takes x (batch, 2) and gives twice of it, and a scalar a sample: the sum of its row.

    ``fail`` is called with each batch and may raise. With ``gate``, each run waits until it is
    opened; ``entered`` counts the runs that have begun. Each takes up to ``jitter`` seconds.
    ``seen`` are the batches, padding and all, in the order in which their runs began.
    """

    def __init__(
        self,
        *,
        batch_size: int | None = None,
        sizes: tuple[int, ...] = (),
        instances: int = 1,
        width: int | str = 2,
        fail: Callable[[NDArray[Any]], None] | None = None,
        jitter: float = 0.0,
    ) -> None:
        rows = "batch" if batch_size is None else batch_size
        self.inputs = (TensorSpec("x", "float32", (rows, width)),)
        self.outputs = (
            TensorSpec("twice", "float32", (rows, width)),
            TensorSpec("sum", "float32", (rows,)),
        )
        self.batch_size, self.instances, self.nonfinite = batch_size, instances, "error"
        self.inseparable, self.path = "", "an artifact"
        self.manifest = SimpleNamespace(preprocessing=None)
        self.sizes, self.fail, self.jitter = sizes, fail, jitter
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.seen: list[NDArray[Any]] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def runnable_batch(self, count: int) -> int:
        if self.batch_size is not None:
            return self.batch_size
        fitting = [size for size in self.sizes if size >= count]
        return min(fitting) if fitting else max(self.sizes, default=count)

    def run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        x = feed["x"].copy()
        with self._lock:
            self.seen.append(x)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.entered.release()
        try:
            assert self.gate.wait(20), "the test forgot to open the gate"
            if self.jitter:
                time.sleep(random.random() * self.jitter)
            if self.fail is not None:
                self.fail(x)
        finally:
            with self._lock:
                self.at_once -= 1
        if self.sizes or self.batch_size:
            assert len(x) in (*self.sizes, self.batch_size), len(x)
        return {"twice": x * 2, "sum": x.sum(axis=1)}


def sample(identity: float) -> NDArray[np.float32]:
    """One sample, which ``is_answer`` recognizes the answer of."""
    return np.array([identity, -3 * identity], np.float32)


def is_answer(answer: Mapping[str, NDArray[Any]], identity: float) -> bool:
    """Whether ``answer`` is that of ``sample(identity)``."""
    return (
        list(answer) == ["twice", "sum"]
        and np.array_equal(answer["twice"], [2 * identity, -6 * identity])
        and answer["sum"].shape == ()
        and float(answer["sum"]) == -2 * identity
    )


LONG = 30.0
"""A delay that no test waits for: what comes before it was not started by it."""


def batcher(session: Any, **changes: Any) -> Batcher:
    """A batcher of batches of up to four, which waits for company without end."""
    return Batcher(session, **{"max_batch": 4, "max_delay": LONG, "queue_limit": 100, **changes})


@contextmanager
def occupied(session: FakeSession, made: Batcher) -> Iterator[Future[Any]]:
    """Keeps the only worker busy with a full batch, so that what is submitted meanwhile waits."""
    session.gate.clear()
    first = made.submit(np.zeros((made.max_batch, 2), np.float32))
    assert session.entered.acquire(timeout=10)
    try:
        yield first
    finally:
        session.gate.set()


def sizes(session: FakeSession) -> list[int]:
    """The sizes of the batches that were run, padding and all."""
    return [len(batch) for batch in session.seen]
