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
from repr_bench.measuring.sessions import one_a_batch
from repr_bench.peers.base import Arrays, Prepared
from repr_bench.peers.check import (
    ROUNDED_TIE,
    TIE,
    Logits,
    check_inputs,
    compare_top1,
    in_batches,
)
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
    tie: float = TIE

    def same_answers(self, logits: Logits, batch: int) -> SameAnswers:
        """How many of ``logits``' answers, ``batch`` samples at a time, are those of ours."""
        return compare_top1(self.answers, in_batches(logits, self.samples, batch), self.tie)


class OursRunner:
    """A session of this project's runtime; as many callers as it has instances.

    ``again`` opens another one that is to be fastest at a batch size, for each of them where that
    makes a difference: on a CPU, and where changing the size costs.
    """

    def __init__(self, session: Session, again: Callable[[int], Session] | None = None) -> None:
        self._session = session
        self._by_batch: dict[int, Session] = {}
        each = session.device == "cpu" or one_a_batch(session)
        self._again = again if each else None
        self.chunk = session.runnable_batch(CHUNK)
        self._pools: list[ThreadPoolExecutor] = []

    def prepare(self, arrays: Arrays) -> Prepared:
        session = self._session_for(len(arrays[0]))
        settings = session.choice
        if self._again is not None:
            settings += ", a session for each batch size"
        call = partial(session.run, *arrays)
        lanes = getattr(session.backend, "instances", 1)
        self._pools.append(ThreadPoolExecutor(lanes))
        at_once = partial(burst_of_callers, self._pools[-1], lanes, call)
        logits = partial(first_output, session)
        on_gpu = None if session.device == "cpu" else call_on_gpu(session, arrays)
        return Prepared(logits, call, settings, at_once, lanes, on_gpu=on_gpu)

    def _session_for(self, batch: int) -> Session:
        if self._again is None:
            return self._session
        if batch not in self._by_batch:
            self._by_batch[batch] = self._again(batch)
        return self._by_batch[batch]

    def logits(self, arrays: Arrays) -> NDArray[Any]:
        """The first output."""
        return first_output(self._session, arrays)

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
            TIE if self._session.precision == "fp32" else ROUNDED_TIE,
        )

    def close(self) -> None:
        for pool in self._pools:
            pool.shutdown()
        for session in (self._session, *self._by_batch.values()):
            session.close()


def first_output(session: Session, arrays: Arrays) -> NDArray[Any]:
    """Of a run of the batch."""
    found: NDArray[Any] = next(iter(session.run(*arrays).values()))
    return found


def call_on_gpu(session: Session, arrays: Arrays) -> Call | None:
    """A run of the batch that lies on the GPU; None where no torch is there that can put it there.

    It is put there by the first call, so that what fails then is the failure of that row alone.
    """
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    there: list[torch.Tensor] = []

    def call() -> object:
        if not there:
            there.extend(torch.from_numpy(array).cuda() for array in arrays)
        return session.run(*there)

    return call


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
    if which == "on-gpu":
        assert prepared.on_gpu is not None, "it has such a row"
        return prepared.on_gpu, 1
    times = burst_length(prepared, min(BURST_SECONDS, plan.slice_ns / 2e9), clock)
    return partial(prepared.burst, times), times


def plan_for(which: Measure, plan: Plan) -> Plan:
    """``plan`` with as many samples as the measure needs: a burst is as good as many calls."""
    return plan if which != "throughput" else replace(plan, samples=plan.rounds)


def timed_row(row: PeerRow, timing: Timing, plan: Plan) -> PeerRow:
    """``row`` with what was seen of its call, timed by ``plan``."""
    status, reason = timing.outcome(plan)
    rounds = tuple(map(tuple, timing.rounds))
    return replace(row, status=status, reason=reason, steady=timing.steady, rounds_ns=rounds)
