"""Ours as a runner beside the peers: a session, and as many callers as it has instances."""

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from numpy.typing import NDArray

from repr_bench.measuring.measure import Clock
from repr_bench.peers.base import Arrays, Prepared
from repr_runtime import Session

BURST_SECONDS = 0.1
LEAST_BATCHES = 4
"""Batches of a burst for each lane, so that the last one running alone costs little."""

CHUNK = 50
"""Images at a time, where only answers are compared and the graph leaves the batch free."""


class OursRunner:
    """A session of this project's runtime; as many callers as it has instances."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lanes = getattr(session.backend, "instances", 1)
        self._pool = ThreadPoolExecutor(self._lanes)

    def prepare(self, arrays: Arrays) -> Prepared:
        call = partial(self._session.run, *arrays)
        at_once = partial(burst_of_callers, self._pool, self._lanes, call)
        return Prepared(self.logits, call, self._session.choice, at_once, self._lanes)

    def logits(self, arrays: Arrays) -> NDArray[Any]:
        """The first output."""
        found: NDArray[Any] = next(iter(self._session.run(*arrays).values()))
        return found

    def close(self) -> None:
        self._pool.shutdown()
        self._session.close()


def burst_of_callers(
    pool: ThreadPoolExecutor, lanes: int, call: Callable[[], object], times: int
) -> None:
    """Call ``times`` times, from ``lanes`` threads that each take the next as they are done."""
    tickets = itertools.count()

    def lane() -> None:
        while next(tickets) < times:
            call()

    for future in [pool.submit(lane) for _ in range(lanes)]:
        future.result()


def burst_length(prepared: Prepared, seconds: float, clock: Clock = time.perf_counter_ns) -> int:
    """How many batches last about ``seconds``: whole turns of all lanes, and four turns at least."""
    prepared.burst(prepared.lanes)  # the first one is slow
    before = clock()
    prepared.burst(prepared.lanes)
    turn = max(1, clock() - before)
    return prepared.lanes * max(LEAST_BATCHES, -(-round(seconds * 1e9) // turn))
