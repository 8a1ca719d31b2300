"""The search among candidates: a look at each, then halving, until one is chosen.

For a moment all are looked at, and the fastest few go on. These are timed in the same rounds; of
more than ``KEPT`` the slower half leaves, and the rest is timed for longer (successive halving:
Jamieson & Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
AISTATS 2016). Of those that are not measurably slower than the fastest, nor by more than 2 %, the
first in the list, the simplest, is taken.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from repr_bench.errors import sentence
from repr_bench.measuring.measure import Call, Clock, Plan, measure, took
from repr_bench.peers.base import Prepared
from repr_bench.peers.ours import BURST_SECONDS, plan_for, timed_row
from repr_bench.request import Listener
from repr_bench.results.peers import PeerRow, ratio
from repr_bench.statistics.intervals import Figure, times
from repr_runtime.backends.tuning import Setting

KEPT = 3
"""As many are timed to the end."""
STAGE_ROUNDS = 4
FAR_BEHIND = 1.4
"""So many times the fastest one's time is too slow to be worth more than a look."""
ALIKE = 1.02
"""Two settings nearer than this are as good, if their rounds do not tell them apart."""
LEAST_TURNS = 2
"""Of a burst, in which each of a candidate's instances runs a batch a turn."""
LOOKS = 3
LOOK_NS = 5_000_000

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
        if each.call is None:
            continue
        try:
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
    """Halve until ``KEPT`` are left, which get the whole plan; marks outcomes, returns the chosen.

    The first that is timed, the simplest, is never dropped. Raises ``ValueError`` if none can be
    timed.
    """
    alive = [each for each in every if each.call is not None]
    stages = 0
    while len(alive) > KEPT:
        stages += 1
        # As much time for each stage in all: half as many candidates, twice as long.
        short = replace(
            plan,
            seconds=min(plan.seconds, plan.seconds * KEPT / len(alive)),
            samples=STAGE_ROUNDS,
            rounds=STAGE_ROUNDS,
        )
        alive = _timed(alive, short, listener, f"{what}, stage {stages}", clock)
        fastest = sorted(alive, key=lambda each: float(each.row.log_ns.mean()))
        kept = fastest[: max(KEPT, len(alive) // 2)]
        if alive and alive[0] not in kept:
            kept[-1] = alive[0]
        alive = [each for each in alive if each in kept]
    last = plan_for(alive[0].row.measure, plan) if alive else plan
    alive = _timed(alive, last, listener, f"{what}, last stage", clock)
    if not alive:
        reasons = dict.fromkeys(each.row.reason for each in every)
        raise ValueError(f"no setting could be timed: {'; '.join(reasons)}")
    for each in alive:
        each.outcome = "finalist"
    chosen = choose(alive)
    chosen.outcome = "chosen"
    return chosen


def choose(finalists: Sequence[Candidate]) -> Candidate:
    """The first that is not slower than the fastest: by ``ALIKE`` at most, and not measurably.

    That is, the 95 % interval of their ratio has 1 in it.
    """
    fastest = min(finalists, key=lambda each: float(each.row.log_ns.mean()))
    for each in finalists:
        found = ratio(fastest.row, each.row)
        assert found is not None, "both were measured"
        value, interval = found.figure
        if value <= ALIKE and (interval.low if interval else value) <= 1:
            return each
    return fastest


def _timed(
    alive: Sequence[Candidate], plan: Plan, listener: Listener, what: str, clock: Clock
) -> list[Candidate]:
    """Those that could be timed, with what was seen. Raises ``KeyboardInterrupt``."""
    calls = [each.call for each in alive if each.call is not None]
    measured = measure(calls, plan, clock=clock, report=partial(listener.advance, what))
    if measured.interrupted:
        raise KeyboardInterrupt
    for each, timing in zip(alive, measured.timings, strict=True):
        each.row = timed_row(each.row, timing, plan)
        each.outcome = "dropped" if timing.error is None else "failed"
    return [each for each in alive if each.outcome != "failed"]


def gain(default: Candidate, each: Candidate) -> str:
    """By rounds where both went to the end; else, of the chosen one, by what was seen of each."""
    last = ("chosen", "finalist")
    if each is default or each.outcome not in last or default.row.status != "measured":
        return "-"
    if default.outcome in last and (found := ratio(each.row, default.row)) is not None:
        return times(found.figure)
    logs = float(default.row.log_ns.mean() - each.row.log_ns.mean())
    return times(Figure(math.exp(logs), None)) if each.outcome == "chosen" else "-"
