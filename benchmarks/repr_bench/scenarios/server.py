"""The server scenario: the highest rate of Poisson arrivals whose p99 holds a bound."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from repr_bench.measuring.measure import Clock
from repr_bench.results.row import Status
from repr_bench.results.trials import PERCENT, Outcome, RateTrial, per_second
from repr_bench.scenarios.arrivals import (
    SPIN_NS,
    URGENT_SPIN_NS,
    Sample,
    Service,
    Sleep,
    drive,
    poisson_schedule,
)
from repr_bench.scenarios.realtime import urgent
from repr_bench.scenarios.windows import by_time

Attempt = Callable[[float, bool], RateTrial]
"""Try a rate in queries/s; the second says whether to confirm it by a longer run."""

STEP = 2.0
"""From one rate to the next, while no rate is known that holds, or none that does not."""

MOST_RATES = 24
APART = 0.1
"""Queries in a bound's time, from which on a still lower rate cannot help any more."""

LONG_ENOUGH = 20
"""A trial lasts for this many bounds at least: a queue must have the time to grow past one."""

LONGEST = 5
"""A slow network's trial may take this many times its seconds, to have enough queries."""


@dataclass(frozen=True)
class SearchPlan:
    """How long rates are tried: for at least ``seconds`` and ``queries``, within reason.

    The search ends when the highest rate that holds and the lowest that does not are
    ``within`` of each other. A rate is confirmed by a run of ``confirm_seconds`` on another
    schedule; if it does not hold there, a lower one is tried, by steps that double.
    """

    slo_ms: float
    seconds: float = 1.5
    queries: int = 300
    confirm_seconds: float = 6.0
    confirm_queries: int = 1000
    within: float = 0.05
    seed: int = 0

    def lasting(self, rate: float, *, confirm: bool) -> tuple[float, int]:
        """Seconds, and queries at least, of a trial of ``rate``."""
        seconds, queries = (
            (self.confirm_seconds, self.confirm_queries)
            if confirm
            else (self.seconds, self.queries)
        )
        seconds = max(seconds, LONG_ENOUGH * self.slo_ms / 1e3)
        return seconds, min(queries, math.ceil(rate * seconds * LONGEST))

    def queries_meet(self, rate: float) -> bool:
        """Whether queries at ``rate`` come so close together that a lower rate may help."""
        return rate * self.slo_ms / 1e3 > APART


def search(attempt: Attempt, first: float, plan: SearchPlan, trials: list[RateTrial]) -> None:
    """Bracket the highest rate that holds, from ``first`` on, bisect, and confirm it.

    Each trial is appended to ``trials`` as it ends. A rate that the generator could not send on
    time, twice, bounds the bracket as a missed one does: higher ones cannot be tried here.
    Nothing is confirmed if no rate holds, down to those whose queries hardly ever meet; :func:`outcome`
    says what that means. A trial that failed ends the search.
    """

    def tried(rate: float, confirm: bool) -> Outcome:
        trials.append(attempt(rate, confirm))
        if trials[-1].generator_limited:  # which tells nothing, and a stall passes
            trials.append(attempt(rate, confirm))
        return trials[-1].outcome

    held, above, rate = 0.0, math.inf, first
    for _ in range(MOST_RATES):
        found = tried(rate, False)
        if found == "failed":
            return
        if found == "held":
            held = rate
        else:
            above = rate
        if held and above <= held * (1 + plan.within):
            break
        if above == math.inf:
            rate = held * STEP
        elif held:
            rate = math.sqrt(held * above)
        elif plan.queries_meet(above):
            rate = above / STEP
        else:
            return
    rate, step = held, 1 + plan.within
    while held:
        if tried(rate, True) in ("held", "failed") or not plan.queries_meet(rate):
            return
        rate, step = rate / step, min(step**2, STEP)


def outcome(trials: Sequence[RateTrial], plan: SearchPlan) -> tuple[Status, str]:
    """What a search that ran to its end comes to, and the reason if no rate is confirmed.

    That even queries which hardly ever meet miss the bound is a finding, of a generator that
    was on time; any other search without a confirmed rate has failed.
    """
    last, slo = trials[-1], f"{plan.slo_ms:g} ms"
    if last.outcome == "failed":
        return "failed", last.reason
    if last.outcome == "held" and last.confirms:
        return "measured", ""
    if last.generator_limited:
        return "failed", (
            f"no rate was confirmed: the load generator was itself {last.late_ms:.3g} ms late at "
            f"p99, still at {per_second(last.offered)} queries/s, and {last.allowed_late_ms:.3g} ms is "
            f"allowed; run it on a machine with an idle core"
        )
    if any(trial.outcome == "held" for trial in trials):
        return "failed", (
            f"no rate was confirmed: some held {slo} in a short run, and none in a longer one, down "
            f"to {per_second(last.offered)} queries/s; run it on an idle machine, or for longer (--seconds)"
        )
    return "measured", f"no rate holds {slo}: not even {per_second(last.offered)} queries/s do"


def try_rate(
    rate: float,
    open_service: Callable[[], Service],
    samples: Sequence[Sample],
    plan: SearchPlan,
    *,
    confirm: bool,
    clock: Clock = time.perf_counter_ns,
    sleep: Sleep = time.sleep,
) -> RateTrial:
    """Offer ``rate`` queries/s to a fresh service, and judge it by the plan's bound."""
    seed = plan.seed + confirm  # a rate that was chosen on one schedule is confirmed on another
    seconds, queries = plan.lasting(rate, confirm=confirm)
    schedule = poisson_schedule(rate, seconds, seed, at_least=queries)
    count, bound_ns = len(schedule), plan.slo_ms * 1e6
    allowed = count - -(-PERCENT["server"] * count // 100)
    service = open_service()
    try:
        with urgent() as on_time:
            driven = drive(
                *(schedule, samples, service),
                bound_ns=bound_ns,
                allowed=allowed,
                spin_ns=URGENT_SPIN_NS if on_time else SPIN_NS,
                clock=clock,
                sleep=sleep,
            )
    finally:
        service.close(drain=False)
    missed = sum(not 0 <= latency <= bound_ns for latency in driven.latency_ns)
    found: Outcome = "held"
    reason = ""
    if driven.error is not None:
        found, reason = "failed", f"{type(driven.error).__name__}: {driven.error}"
    elif driven.hopeless or missed > allowed:
        found = "missed"
    sent = len(driven.latency_ns)
    moments = schedule[:sent].tolist()
    windows, lengths = by_time(driven.latency_ns, moments, round(driven.seconds * 1e9))
    return RateTrial(
        offered=rate,
        seed=seed,
        confirms=confirm,
        outcome=found,
        reason=reason,
        slo_ms=plan.slo_ms,
        scheduled=count,
        refused=driven.refused,
        seconds=driven.seconds,
        windows_ns=windows,
        window_seconds=lengths,
        lateness_ns=driven.lateness_ns,
        batches=tuple(sorted(service.stats().batches.items())),
        realtime=on_time,
    )
