"""The server scenario: Poisson arrivals into a batcher, at the highest rate whose p99 holds a bound."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from repr_bench.measuring.measure import Clock
from repr_bench.results.scenarios import ScenarioRow
from repr_bench.results.trials import PERCENT, Outcome, RateTrial, per_second
from repr_bench.scenarios.arrivals import (
    REALTIME_SPIN_NS,
    SPIN_NS,
    Sample,
    Sleep,
    drive,
    poisson_schedule,
    realtime_priority,
)
from repr_bench.scenarios.search import SearchSettings, conclusion, search
from repr_bench.scenarios.system import SystemUnderTest
from repr_bench.scenarios.windows import by_time

if TYPE_CHECKING:
    from repr_bench.remote.protocol import OpenLoop
    from repr_runtime import Batcher


def measure_server(system: SystemUnderTest, row: ScenarioRow) -> ScenarioRow:
    """``row`` with every rate that was tried, and what the search comes to."""
    options, pool, trials = system.options, system.pool, list[RateTrial]()
    row = replace(row, inputs=pool.what)
    fastest = min(pool.timed(system.session.runnable_batch(1)))
    if fastest > options.slo_ms / 1e3:
        return replace(
            row,
            status="measured",
            reason=f"no rate can hold {options.slo_ms:g} ms: one sample alone takes "
            f"{1e3 * fastest:.3g} ms",
        )
    seconds = system.request.plan.seconds
    settings = SearchSettings(
        options.slo_ms, seconds / 2, confirm_seconds=2 * seconds, seed=options.seed
    )

    def attempt(rate: float, confirm: bool) -> RateTrial:
        trial = try_rate(rate, system.serve, pool.samples, settings, confirm=confirm)
        system.listener.tell(_in_words(trial))
        return trial

    largest = system.session.runnable_batch(options.max_batch)
    capacity = system.session.instances * largest / statistics.median(pool.timed(largest))
    try:
        search(attempt, capacity / 2, settings, trials)
    except KeyboardInterrupt:
        return replace(row, trials=tuple(trials))
    status, reason = conclusion(trials, settings)
    return replace(row, status=status, reason=reason, trials=tuple(trials))


def _in_words(trial: RateTrial) -> str:
    name: str = "confirmed" if trial.confirms and trial.outcome == "held" else trial.outcome
    if trial.generator_limited:
        name = f"missed, generator {trial.late_ms:.3g} ms late"
    p99 = trial.latency_ms.get(PERCENT["server"])
    return f"  {per_second(trial.offered)} queries/s {name}" + (
        f", p99 {p99.value:.3g} ms" if p99 else ""
    )


def try_rate(
    rate: float,
    serve: Callable[[], Batcher | OpenLoop],
    samples: Sequence[Sample],
    settings: SearchSettings,
    *,
    confirm: bool,
    clock: Clock = time.perf_counter_ns,
    sleep: Sleep = time.sleep,
) -> RateTrial:
    """Offer ``rate`` queries/s to a fresh service, and judge it by the bound."""
    seed = settings.seed + confirm  # a rate chosen on one schedule is confirmed on another
    seconds, queries = settings.lasting(rate, confirm=confirm)
    schedule = poisson_schedule(rate, seconds, seed, at_least=queries)
    count, bound_ns = len(schedule), settings.slo_ms * 1e6
    allowed = count - -(-PERCENT["server"] * count // 100)
    service = serve()
    try:
        with realtime_priority() as realtime:
            driven = drive(
                schedule,
                samples,
                service,
                bound_ns=bound_ns,
                allowed=allowed,
                spin_ns=REALTIME_SPIN_NS if realtime else SPIN_NS,
                clock=clock,
                sleep=sleep,
            )
    finally:
        service.close(drain=False)
    missed = sum(not 0 <= latency <= bound_ns for latency in driven.latency_ns)
    outcome: Outcome = "missed" if driven.hopeless or missed > allowed else "held"
    reason = ""
    if driven.error is not None:
        outcome, reason = "failed", driven.reason
    moments = schedule[: len(driven.latency_ns)].tolist()
    windows, lengths = by_time(driven.latency_ns, moments, round(driven.seconds * 1e9))
    return RateTrial(
        offered=rate,
        seed=seed,
        confirms=confirm,
        outcome=outcome,
        reason=reason,
        slo_ms=settings.slo_ms,
        scheduled=count,
        refused=driven.refused,
        refusals_ns=tuple(driven.refusals_ns.values()),
        seconds=driven.seconds,
        windows_ns=windows,
        window_seconds=lengths,
        lateness_ns=driven.lateness_ns,
        batches=tuple(sorted(service.stats().batches.items())),
        realtime=realtime,
    )
