"""The search for the highest rate that holds: bracketed, bisected, confirmed, and what it comes to."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from repr_bench.results.row import Status
from repr_bench.results.trials import Outcome, RateTrial, per_second

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
class SearchSettings:
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


def search(
    attempt: Attempt, first: float, settings: SearchSettings, trials: list[RateTrial]
) -> None:
    """Bracket the highest rate that holds, from ``first`` on, bisect, and confirm it.

    Each trial is appended to ``trials`` as it ends. A rate that the generator could not send on
    time, twice, bounds the bracket as a missed one does: higher ones cannot be tried here.
    Nothing is confirmed if no rate holds, down to those whose queries hardly ever meet; `conclusion`
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
        if held and above <= held * (1 + settings.within):
            break
        if above == math.inf:
            rate = held * STEP
        elif held:
            rate = math.sqrt(held * above)
        elif settings.queries_meet(above):
            rate = above / STEP
        else:
            return
    rate, step = held, 1 + settings.within
    while held:
        if tried(rate, True) in ("held", "failed") or not settings.queries_meet(rate):
            return
        rate, step = rate / step, min(step**2, STEP)


def conclusion(trials: Sequence[RateTrial], settings: SearchSettings) -> tuple[Status, str]:
    """What a search that ran to its end comes to, and the reason if no rate is confirmed.

    That even queries which hardly ever meet miss the bound is a finding, of a generator that
    was on time; any other search without a confirmed rate has failed.
    """
    last, slo = trials[-1], f"{settings.slo_ms:g} ms"
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
