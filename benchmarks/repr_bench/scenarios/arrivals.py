"""Poisson arrivals: the schedule by seed, and queries sent by it to a service, on time or said so.

An open loop: a query comes when it is due, however many are still being answered, and its
latency counts from when it was due. A closed loop, or a clock that starts when the query is
sent, leaves out the waiting that a stall causes ("coordinated omission": G. Tene, "How NOT to
Measure Latency", 2013).
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repr_bench.errors import sentence
from repr_bench.measuring.measure import Clock
from repr_bench.results.trials import UNANSWERED
from repr_runtime.errors import DeadlineExceededError, QueueFullError

if TYPE_CHECKING:
    from repr_bench.remote.protocol import OpenLoop
    from repr_runtime import Batcher

Sleep = Callable[[float], None]
Sample = NDArray[Any] | Mapping[str, NDArray[Any]]

SPIN_NS = 200_000
"""A sleep ends up to about this late; so long before a query is due, the clock is watched."""

REALTIME_SPIN_NS = 20_000
"""Likewise of a thread with real-time priority, whose watching would keep others from a CPU."""

LEAD_NS = 1_000_000
"""Between the start and the first moment that may be due."""

GRACE_SECONDS = 2.0
"""How long the next answer is waited for, once all queries are sent."""


def poisson_schedule(
    rate: float, seconds: float, seed: int, *, at_least: int = 1
) -> NDArray[np.int64]:
    """When each query is due, in ns from the start: exponential gaps of ``1 / rate`` s on average.

    As many as ``rate`` brings in ``seconds``, and no fewer than ``at_least``. The same seed
    gives the same pattern at every rate, stretched.
    """
    count = max(at_least, math.ceil(rate * seconds))
    gaps = np.random.default_rng(seed).exponential(1.0, count)
    return (np.cumsum(gaps) * (1e9 / rate)).astype(np.int64)


@contextlib.contextmanager
def realtime_priority() -> Iterator[bool]:
    """Let the calling thread go before all ordinary ones; says whether it does.

    In a service's life the clients have machines of their own. Here the generator shares the CPUs
    with what it loads, and an ordinary thread that wakes waits milliseconds for its turn.
    Linux lets root do so, and whoever has ``CAP_SYS_NICE`` or a limit on ``rtprio``. Threads that
    are started meanwhile are ordinary ones.
    """
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        least = os.sched_param(os.sched_get_priority_min(os.SCHED_RR))
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, least)
    except (AttributeError, OSError):  # not Linux; not allowed
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, *before)


@dataclass(frozen=True)
class Driven:
    """What became of the queries that were sent, in the order of the schedule.

    ``latency_ns`` counts from the scheduled arrival, ``UNANSWERED`` where no answer came;
    ``lateness_ns`` is how late each was sent. ``refusals_ns`` has, by their place, those that were
    turned away, and how long after they were due they were told. ``hopeless`` says
    that more than the allowed number had missed the bound, and no further ones were sent.
    ``error`` is what a query failed with, after which none was sent. ``seconds`` passed from
    the start of the schedule to the last answer, or to the end.
    """

    latency_ns: tuple[int, ...]
    lateness_ns: tuple[int, ...]
    refusals_ns: Mapping[int, int]
    hopeless: bool
    error: BaseException | None
    seconds: float

    @property
    def refused(self) -> int:
        """How many were turned away."""
        return len(self.refusals_ns)

    @property
    def reason(self) -> str:
        """What a query failed with, in words; empty if none did."""
        if isinstance(self.error, Exception):
            return sentence(self.error)
        return type(self.error).__name__ if self.error else ""


def drive(
    schedule: Sequence[int] | NDArray[np.int64],
    samples: Sequence[Sample],
    service: Batcher | OpenLoop,
    *,
    bound_ns: float = math.inf,
    allowed: int | None = None,
    spin_ns: int = SPIN_NS,
    clock: Clock = time.perf_counter_ns,
    sleep: Sleep = time.sleep,
) -> Driven:
    """Send a query to ``service`` at each moment of ``schedule``, with ``samples`` in turn.

    No more are sent as soon as more than ``allowed`` of them (None: any number) have missed
    ``bound_ns``, refused ones among them: then the bound is lost, whatever comes. It ends when
    all that were sent are answered, or no answer came for long. For ``spin_ns`` before a query is
    due the clock is watched.
    """
    start = clock() + LEAD_NS
    due = [start + int(offset) for offset in schedule]
    done = [UNANSWERED] * len(due)
    errors: list[BaseException] = []
    refusals: dict[int, int] = {}
    ended: list[int] = []  # appended to by the service's threads, which needs no lock

    def note(index: int, future: Future[Any]) -> None:
        moment = clock()
        if future.cancelled():
            pass
        elif (error := future.exception()) is not None:
            if isinstance(error, QueueFullError):  # a server says it later
                refusals[index] = moment - due[index]
            elif not isinstance(error, DeadlineExceededError):  # too late is no answer
                errors.append(error)
        else:
            done[index] = moment
        ended.append(index)

    lateness: list[int] = []
    at_once = missed = judged = 0
    limit = math.inf if allowed is None else allowed

    def judge(now: int) -> bool:
        """Whether too many have missed the bound by ``now``; each query is looked at once."""
        nonlocal judged, missed
        while judged < len(lateness) and due[judged] + bound_ns < now:
            missed += not 0 <= done[judged] <= due[judged] + bound_ns
            judged += 1
        return missed > limit

    hopeless = False
    for index, moment in enumerate(due):
        _wait_until(moment, spin_ns, clock, sleep)
        now = clock()
        hopeless = judge(now)
        if hopeless or errors:
            break
        lateness.append(now - moment)
        try:
            future = service.submit(samples[index % len(samples)])
        except QueueFullError:
            refusals[index] = clock() - moment
            at_once += 1
        except Exception as error:  # a mistake in the sample, or a service that is gone
            errors.append(error)
            break
        else:
            future.add_done_callback(partial(note, index))
    accepted = len(lateness) - at_once
    patience = GRACE_SECONDS * 1e9
    until = clock() + patience
    before = len(ended)
    while len(ended) < accepted and not errors:
        sleep(0.001)
        if len(ended) > before:  # a slow service that answers is waited for
            before, until = len(ended), clock() + patience
        elif clock() > until:
            break
    sent = len(lateness)
    last = max(max(done[:sent], default=start), due[sent - 1] if sent else start)
    return Driven(
        latency_ns=tuple(
            UNANSWERED if when == UNANSWERED else when - moment
            for when, moment in zip(done[:sent], due, strict=False)
        ),
        lateness_ns=tuple(lateness),
        refusals_ns=refusals,
        hopeless=hopeless,
        error=errors[0] if errors else None,
        seconds=(last - start) / 1e9,
    )


def _wait_until(moment: int, spin_ns: int, clock: Clock, sleep: Sleep) -> None:
    """Sleep until shortly before; then yield to other threads until the moment has come."""
    while (left := moment - clock()) > 0:
        sleep((left - spin_ns) / 1e9 if left > spin_ns else 0.0)
