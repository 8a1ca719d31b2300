"""The search among candidates: a look at each, then all of the fastest few in the same rounds.

What disturbs a run only ever adds to it: another process, or another machine on this core, and most
of all to a run that waits for several threads. So a candidate's time is its lower quartile over the
rounds. Of those within 1 % of the fastest, the first in the list, the simplest, is taken.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from repr_bench.errors import sentence
from repr_bench.measuring.measure import Call, Clock, Plan, measure, took
from repr_bench.peers.base import Prepared
from repr_bench.peers.ours import BURST_SECONDS, plan_for, timed_row
from repr_bench.request import Listener
from repr_bench.results.peers import PeerRow
from repr_bench.statistics.intervals import Figure, times
from repr_runtime.backends.tuning import Setting

KEPT = 4
"""As many are timed to the end."""
QUIET = 0.25
"""The quantile of the rounds that a candidate is judged by."""
FAR_BEHIND = 2.0
"""So many times the fastest one's time is too slow for more than a look: a neighbour on one of two
cores can make a moment that long."""
ALIKE = 1.01
"""Two settings nearer than this are as good."""
LEAST_TURNS = 2
"""Of a burst, in which each of a candidate's instances runs a batch a turn."""
LOOKS = 8
LOOK_NS = 5_000_000
LOOKED_NS = 250_000_000
"""Looks of so long in all, and ``LEAST_LOOKS`` at least, are enough."""
LEAST_LOOKS = 3

Outcome = Literal["chosen", "finalist", "dropped", "failed"]


@dataclass
class Candidate:
    """A setting, the call that is timed, and what was seen of it.

    ``gain``: how many times as fast it is as the default, where that is known.
    """

    setting: Setting
    row: PeerRow
    call: Call | None = None
    outcome: Outcome = "dropped"
    prepared: Prepared | None = None
    gain: str = "-"

    def one_turn(self) -> None:
        """Its call is a run; for throughput, one in each of its instances."""
        if self.call is not None and self.prepared is not None:
            lanes = self.prepared.lanes if self.row.measure == "throughput" else 1
            self.call = partial(self.prepared.burst, lanes) if lanes > 1 else self.prepared.call
            self.row = replace(self.row, images=lanes * (self.row.batch or 1))

    def fail(self, reason: str) -> None:
        """It is out, for that reason."""
        self.row, self.outcome = replace(self.row, reason=reason, status="failed"), "failed"
        self.call = None


def drop_far_behind(found: Sequence[Candidate], clock: Clock = time.perf_counter_ns) -> None:
    """Look at each for a moment: of those not ``FAR_BEHIND`` the fastest, ``KEPT`` are timed further.

    The first, the default, is among these unless it is far behind. What was seen stays in their
    rows, as one round.
    """
    seen = [list[int]() for _ in found]
    for each, samples in LOOKS * [*zip(found, seen, strict=True)]:  # a moment's noise is not one's
        if each.call is None or (len(samples) >= LEAST_LOOKS and sum(samples) >= LOOKED_NS):
            continue
        try:
            if not samples or samples[-1] < LOOK_NS:  # a long one pays for what was before itself
                each.call()
            begin = clock()
            samples.append(took(each.call, clock))
            while clock() - begin < LOOK_NS:
                samples.append(took(each.call, clock))
        except Exception as error:  # whatever a library raises
            each.fail(sentence(error))
    looked = [(each, samples) for each, samples in zip(found, seen, strict=True) if each.call]
    took_ns = {id(each): min(samples) / each.row.images for each, samples in looked}
    order = sorted(looked, key=lambda pair: took_ns[id(pair[0])])
    near = [e for e, _ in order if took_ns[id(e)] <= FAR_BEHIND * took_ns[id(order[0][0])]]
    kept = near[:KEPT]
    if near and looked[0][0] in near[KEPT:]:  # the default, which gains are told by
        kept[-1] = looked[0][0]
    for each, samples in looked:
        each.row = replace(each.row, status="measured", rounds_ns=(tuple(samples),))
        if each not in kept:
            each.call = None


def lengthen(found: Sequence[Candidate], plan: Plan) -> None:
    """Let those that were looked at run bursts of several turns, so that its ends count little."""
    for each in found:
        if each.call is not None and each.prepared is not None:
            turn_ns = min(each.row.rounds_ns[0])
            wanted_ns = min(BURST_SECONDS * 1e9, plan.slice_ns / 2)
            turns = max(LEAST_TURNS, math.ceil(wanted_ns / turn_ns))
            each.call = partial(each.prepared.burst, turns * each.prepared.lanes)
            each.row = replace(each.row, images=turns * each.row.images)


def search(
    every: Sequence[Candidate],
    plan: Plan,
    listener: Listener,
    what: str,
    clock: Clock = time.perf_counter_ns,
) -> Candidate:
    """Time those that are left by the plan; marks outcomes, returns the chosen.

    Raises ``ValueError`` if none can be timed, and ``KeyboardInterrupt``.
    """
    alive = [each for each in every if each.call is not None]
    calls = [each.call for each in alive if each.call is not None]
    plan = plan_for(alive[0].row.measure, plan) if alive else plan
    measured = measure(calls, plan, clock=clock, report=partial(listener.advance, what))
    if measured.interrupted:
        raise KeyboardInterrupt
    for each, timing in zip(alive, measured.timings, strict=True):
        each.row = timed_row(each.row, timing, plan)
        each.outcome = "finalist" if timing.error is None else "failed"
    finalists = [each for each in alive if each.outcome == "finalist"]
    if not finalists:
        reasons = dict.fromkeys(each.row.reason for each in every)
        raise ValueError(f"no setting could be timed: {'; '.join(reasons)}")
    chosen = choose(finalists)
    chosen.outcome = "chosen"
    return chosen


def choose(finalists: Sequence[Candidate]) -> Candidate:
    """The first that is within ``ALIKE`` of the fastest."""
    least = min(map(quiet_log_ns, finalists)) + math.log(ALIKE)
    return next(each for each in finalists if quiet_log_ns(each) <= least)


def quiet_log_ns(each: Candidate) -> float:
    """The logarithm of an image's nanoseconds in rounds that nothing disturbed."""
    return float(np.quantile(each.row.log_ns, QUIET))


def gain(default: Candidate, each: Candidate) -> str:
    """How many times as fast it is, of what was timed to the end; the default may have been looked at."""
    last = ("chosen", "finalist")
    if each is default or each.outcome not in last or default.row.status != "measured":
        return "-"
    return times(Figure(math.exp(quiet_log_ns(default) - quiet_log_ns(each)), None))
