"""Ours as a runner: a session, and as many callers as it has instances; what is held to it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from repr_bench.inputs import make_feed
from repr_bench.measuring.measure import Call, Clock, Plan, Timing, took
from repr_bench.peers.base import Arrays, Prepared
from repr_bench.peers.check import Logits, check_inputs, compare_top1, in_batches
from repr_bench.results.peers import Measure, PeerRow, SameAnswers

if TYPE_CHECKING:
    from repr_models.data.images import Images
    from repr_runtime import Session
    from repr_runtime.artifact.manifest import FileEntry

BURST_SECONDS = 0.1
LEAST_BATCHES = 4
"""Batches of a burst for each lane, so that the last one running alone costs little."""

CHUNK = 50
"""Images at a time, where only answers are compared and the graph leaves the batch free."""


class Given(NamedTuple):
    """What all get that run a graph: inputs by batch size, and samples with the answers of ours."""

    graph: FileEntry
    inputs: Mapping[int, Arrays]
    samples: Arrays
    answers: NDArray[np.float64]

    def same_answers(self, logits: Logits, batch: int) -> SameAnswers:
        """How many of ``logits``' answers, ``batch`` samples at a time, are those of ours."""
        return compare_top1(self.answers, in_batches(logits, self.samples, batch))


class OursRunner:
    """A session of this project's runtime; as many callers as it has instances."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.chunk = session.batch_size or CHUNK
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

    def given(self, images: Images | None, batches: Iterable[int]) -> Given:
        """What the others are to run, and are held to."""
        graph = self._session.manifest.file(self._session.graph)
        assert graph is not None, "the session was loaded from it"
        samples = check_inputs(self._session, images)
        return Given(
            graph,
            {batch: make_feed(self._session, images, batch)[0] for batch in batches},
            samples,
            in_batches(self.logits, samples, self.chunk),
        )

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
    turn = max(1, took(partial(prepared.burst, prepared.lanes), clock))
    return prepared.lanes * max(LEAST_BATCHES, -(-round(seconds * 1e9) // turn))


def timed_call(prepared: Prepared, which: Measure, plan: Plan, clock: Clock) -> tuple[Call, int]:
    """What is timed, and how many batches it runs: one, or for throughput a burst of many."""
    if which == "latency":
        return prepared.call, 1
    times = burst_length(prepared, min(BURST_SECONDS, plan.slice_ns / 2e9), clock)
    return partial(prepared.burst, times), times


def plan_for(which: Measure, plan: Plan) -> Plan:
    """``plan`` with as many samples as the measure needs: a burst is as good as many calls."""
    return plan if which == "latency" else replace(plan, samples=plan.rounds)


def timed_row(row: PeerRow, timing: Timing, plan: Plan) -> PeerRow:
    """``row`` with what was seen of its call, timed by ``plan``."""
    status, reason = timing.outcome(plan)
    rounds = tuple(map(tuple, timing.rounds))
    return replace(row, status=status, reason=reason, steady=timing.steady, rounds_ns=rounds)
