"""Servers that are offered more than they can do: what is in time, how the rest fares, what comes after.

In turn with the artifact's own batcher, which is offered just what it holds.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from repr_bench.errors import sentence
from repr_bench.results.scenarios import ScenarioRow
from repr_bench.results.trials import PERCENT, RateTrial, per_second
from repr_bench.scenarios.arrivals import (
    REALTIME_SPIN_NS,
    SPIN_NS,
    drive,
    poisson_schedule,
    realtime_priority,
)
from repr_bench.scenarios.search import LONG_ENOUGH
from repr_bench.scenarios.system import SystemUnderTest
from repr_bench.scenarios.windows import by_time

ROUNDS = 3
CALM = 0.5
"""The share of the rate that holds which is offered once the overload is over."""

CALM_SECONDS = 3.0
ALLOWED = 1 - PERCENT["overload"] / 100
LEAST_SECONDS = 1.0


def measure_overload(
    systems: Sequence[SystemUnderTest], rate: float, rows: MutableMapping[str, ScenarioRow]
) -> None:
    """Measure each of ``systems``, the first of which runs in process and holds ``rate``.

    ``rows``, by the name of the server, are as they are until something is measured, and then
    what was. Rounds go forwards and backwards. A server that fails is left out from then on.
    """
    slo = systems[0].options.slo_ms
    least = max(LEAST_SECONDS, LONG_ENOUGH * slo / 1e3)
    seconds = max(least, systems[0].request.plan.seconds)
    for number in range(ROUNDS):
        for system in systems if number % 2 == 0 else reversed(systems):
            row = rows[system.server]
            if row.status == "failed":
                continue
            try:
                trial = offer(system, rate, seconds, number)
            except Exception as error:  # whatever a server does is its row
                rows[system.server] = replace(row, status="failed", reason=sentence(error))
                continue
            told = f"{per_second(trial.goodput.value)}/s in time" if trial.goodput else ""
            system.listener.tell(
                f"  {system.server or 'in process'}: {per_second(trial.offered)} queries/s {told}"
            )
            failed = trial.outcome == "failed"
            rows[system.server] = replace(
                row,
                inputs=system.pool.what,
                trials=(*row.trials, trial),
                status="failed" if failed else "measured" if number + 1 == ROUNDS else row.status,
                reason=trial.reason if failed else "" if number + 1 == ROUNDS else row.reason,
            )


def offer(system: SystemUnderTest, rate: float, seconds: float, number: int) -> RateTrial:
    """In process ``rate`` for so many ``seconds``; a server several times that, then half of it."""
    options = system.options
    times = options.overload or 1.0
    bound_ns, seed = options.slo_ms * 1e6, options.seed + 2 * number
    offered = times * rate if system.server else rate
    schedule = poisson_schedule(offered, seconds, seed)
    count, end = len(schedule), int(schedule[-1])
    every = schedule
    if system.server:
        calm = poisson_schedule(CALM * rate, CALM_SECONDS, seed + 1)
        every = np.concatenate([schedule, end + calm])
    service = system.serve(options.slo_ms / 1e3)
    try:
        with realtime_priority() as realtime:
            spin = REALTIME_SPIN_NS if realtime else SPIN_NS
            driven = drive(every, system.pool.samples, service, spin_ns=spin)
    finally:
        service.close(drain=False)
    in_time = np.array([0 <= latency <= bound_ns for latency in driven.latency_ns], bool)
    windows, lengths = by_time(driven.latency_ns[:count], schedule[: len(in_time)].tolist(), end)
    refusals = tuple(ns for index, ns in driven.refusals_ns.items() if index < count)
    missed = count - int(in_time[:count].sum())
    return RateTrial(
        offered=offered,
        seed=seed,
        confirms=False,
        outcome="failed" if driven.error else "held" if missed <= count * ALLOWED else "missed",
        reason=driven.reason,
        slo_ms=options.slo_ms,
        scheduled=count,
        refused=len(refusals),
        seconds=end / 1e9,
        windows_ns=windows,
        window_seconds=lengths,
        lateness_ns=driven.lateness_ns[:count],
        batches=tuple(sorted(service.stats().batches.items())),
        realtime=realtime,
        refusals_ns=refusals,
        recovered_seconds=_recovered(in_time[count:], every[count:] - end),
    )


def _recovered(in_time: NDArray[np.bool_], moments_ns: NDArray[np.int64]) -> float | None:
    """The first moment from which on at most 1 % missed the bound, in seconds; None: never."""
    if not len(in_time):
        return None
    later = np.arange(len(in_time), 0, -1)
    share = np.cumsum(~in_time[::-1])[::-1] / later
    good = np.flatnonzero(share <= ALLOWED + 1e-12)
    return None if not len(good) else float(moments_ns[good[0]] / 1e9) if good[0] else 0.0
