"""The offline scenario: all there is to do is there from the start; images a second count."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from repr_bench.measuring.measure import Call, Clock
from repr_bench.results.scenarios import ScenarioRow
from repr_bench.results.trials import BatchTrial
from repr_bench.scenarios.samples import indices_of
from repr_bench.scenarios.system import SystemUnderTest
from repr_bench.scenarios.windows import by_time

BATCHES = (1, 8, 32, 128)
LEAST_CALLS = 3
"""Calls that each instance makes at least."""


def measure_offline(system: SystemUnderTest, row: ScenarioRow) -> ScenarioRow:
    """``row`` with the best of a few batch sizes, on all instances. Raises what a call raises."""
    session, seconds = system.session, system.request.plan.seconds

    def attempt(batch: int, lasting: float) -> BatchTrial:
        return try_batch(
            partial(system.pool.run, indices_of(batch)),
            batch=batch,
            instances=session.instances,
            seconds=lasting,
            report=lambda done: system.listener.advance(
                f"{system.label} offline, batch {batch}", min(done, lasting), lasting
            ),
        )

    most = system.options.max_batch
    sizes = dict.fromkeys(session.runnable_batch(min(size, most)) for size in BATCHES)
    tried = tuple(attempt(size, seconds / 4) for size in sizes)
    best = max(tried, key=lambda trial: trial.images_per_second or (0.0, None)).batch
    final = attempt(best, seconds)
    return replace(
        row,
        status="measured",
        reason="",
        inputs=system.pool.what,
        batch=best,
        windows_ns=final.windows_ns,
        window_seconds=final.window_seconds,
        batches=tried,
    )


def try_batch(
    call: Call,
    *,
    batch: int,
    instances: int,
    seconds: float,
    clock: Clock = time.perf_counter_ns,
    report: Callable[[float], None] = lambda _done: None,
) -> BatchTrial:
    """Run ``call``, of ``batch`` images, from as many threads as there are ``instances``.

    Each has run it once before the clock starts. What counts are the calls that end before the
    first thread stops, so that all instances are busy all the time. ``report`` gets seconds
    done. Raises what ``call`` raises.
    """
    stop = threading.Event()
    made: list[list[tuple[int, int]]] = [[] for _ in range(instances)]

    def work(index: int) -> None:
        calls = made[index]
        before = clock()
        while not stop.is_set():
            call()
            after = clock()
            calls.append((after, after - before))
            before = after
            if after - start >= seconds * 1e9 and len(calls) >= LEAST_CALLS:
                return

    with ThreadPoolExecutor(instances, "repr-bench-offline") as pool:
        try:
            for warm in [pool.submit(call) for _ in range(instances)]:
                warm.result()
            start = clock()
            workers = [pool.submit(work, index) for index in range(instances)]
            while not all(worker.done() for worker in workers):
                time.sleep(0.01)  # which a Ctrl-C interrupts, as a wait for a lock may not be
                report((clock() - start) / 1e9)
            for worker in workers:
                worker.result()
        finally:
            stop.set()
    end = min(calls[-1][0] for calls in made)
    counted = sorted(pair for calls in made for pair in calls if pair[0] <= end)
    windows, lengths = by_time(
        [latency for _, latency in counted], [moment - start for moment, _ in counted], end - start
    )
    return BatchTrial(batch, windows, lengths)
