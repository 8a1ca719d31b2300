"""The scenarios of one run: the graphs that were measured to sessions, queries, rows."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from repr_bench.errors import UsageError, sentence
from repr_bench.inputs import make_feed
from repr_bench.measuring.environment import after_run, now
from repr_bench.measuring.measure import garbage_frozen, measure
from repr_bench.request import Listener, Request, ScenarioOptions
from repr_bench.results.graph import Graph
from repr_bench.results.results import Results
from repr_bench.results.row import Row, Status
from repr_bench.results.scenarios import ScenarioRow, StageRow
from repr_bench.results.trials import (
    MULTI_STREAM_SAMPLES,
    PERCENT,
    BatchTrial,
    RateTrial,
    Scenario,
    per_second,
)
from repr_bench.scenarios import loadgen
from repr_bench.scenarios.arrivals import Service
from repr_bench.scenarios.end_to_end import run_stages
from repr_bench.scenarios.offline import measure_offline
from repr_bench.scenarios.samples import POOL, SamplePool, timed
from repr_bench.scenarios.server import SearchPlan, outcome, search, try_rate
from repr_runtime import Session, load
from repr_runtime.machine import usable_cores

if TYPE_CHECKING:
    from repr_models.data.images import Images

OFFLINE_BATCHES = (1, 8, 32, 128)
QUEUE_LIMIT = 4096
"""Samples that may wait in the batcher: far more than any bound leaves time for."""

END_TO_END_BATCHES = (1, 8)


@dataclass
class _Run:
    """What was asked for, and the rows up to now."""

    request: Request
    options: ScenarioOptions
    listener: Listener
    lg: Any
    rows: list[ScenarioRow] = field(default_factory=list)
    stages: list[StageRow] = field(default_factory=list)


@dataclass(frozen=True)
class _Target:
    """One graph of one artifact, and the images it is fed."""

    label: str
    precision: str
    graph: Graph
    images: Images | None


def with_scenarios(
    results: Results, request: Request, options: ScenarioOptions, listener: Listener
) -> Results:
    """``results`` of ``request``, and each of its graphs put through every scenario asked for.

    What fails is a row. Ctrl-C ends the run and keeps what was measured; a run that was
    interrupted is left as it is. What is not installed is
    said by :func:`ScenarioOptions.check`, before anything is measured.
    """
    if results.interrupted:
        return results
    run = _Run(request, options, listener, loadgen.library() if options.loadgen else None)
    interrupted = False
    try:
        with garbage_frozen():
            for row in _graphs(results):
                if row.precision is None or row.graph is None:
                    _fail(run, row.label, row.precision, row.status, row.reason)
                elif row.emulated:
                    why = f"{row.precision} on a CPU is emulation: its latency would say nothing"
                    _fail(run, row.label, row.precision, "absent", why)
                else:
                    _run_graph(run, row.label, row.precision, row.graph)
    except KeyboardInterrupt:
        interrupted = True
    return replace(
        results,
        finished=now(),
        interrupted=interrupted,
        environment=after_run(results.environment),
        scenarios=tuple(run.rows),
        end_to_end=tuple(run.stages),
    )


def _graphs(results: Results) -> list[Row]:
    """A row of each graph, or of what there is none of."""
    found: dict[tuple[str, str | None], Row] = {}
    for row in results.rows:
        found.setdefault((row.label, row.precision), row)
    return list(found.values())


def _fail(run: _Run, label: str, precision: str | None, status: Status, reason: str) -> None:
    """Say ``reason`` in each row that there is not yet."""
    there = {row.scenario for row in run.rows if (row.label, row.precision) == (label, precision)}
    for scenario in run.options.scenarios:
        if scenario not in there:
            run.rows.append(
                ScenarioRow(
                    label=label,
                    precision=precision,
                    scenario=scenario,
                    source="repr-bench",
                    status=status,
                    reason=reason,
                )
            )
    done = {(row.label, row.precision) for row in run.stages}
    if run.options.end_to_end and (label, precision) not in done:
        run.stages.append(
            StageRow(label=label, precision=precision, batch=None, status=status, reason=reason)
        )


def _run_graph(run: _Run, label: str, precision: str, graph: Graph) -> None:
    request, options = run.request, run.options
    opened = partial(
        load,
        graph.artifact,
        device=request.device,
        precision=precision,
        threads=request.threads,
    )
    try:
        with opened() as session:
            _require_same(session, graph)
            images, _ = request.images.for_artifact(session.manifest)
            target = _Target(label, precision, graph, images)
            instances = _instances(session, request, options)
            if "single-stream" in options.scenarios:
                _streams(run, target, session, "single-stream", 1)
            if "multi-stream" in options.scenarios:
                _streams(run, target, session, "multi-stream", MULTI_STREAM_SAMPLES)
            if options.end_to_end:
                _end_to_end(run, target, session)
        if {"server", "offline"} & set(options.scenarios):
            with opened(instances=instances) as session:
                _require_same(session, graph)
                if "server" in options.scenarios:
                    _server(run, target, session)
                if "offline" in options.scenarios:
                    _offline(run, target, session)
    except Exception as error:  # whatever goes wrong with loading it is its rows
        _fail(run, label, precision, "failed", sentence(error))


def _require_same(session: Session, graph: Graph) -> None:
    """The accuracy beside a row is that of the very graph that runs."""
    entry = session.manifest.file(session.graph)
    if entry is None or entry.sha256 != graph.sha256:
        raise UsageError(
            f"{graph.artifact} was written anew while it was measured; leave it alone and run "
            f"repr-bench again"
        )


def _instances(session: Session, request: Request, options: ScenarioOptions) -> int | None:
    """Runs side by side: those asked for, one a core on a CPU, else what the device has."""
    if options.instances is not None or session.device != "cpu":
        return options.instances
    return max(1, usable_cores() // (request.threads or 1))


def _add(run: _Run, row: ScenarioRow, work: Callable[[ScenarioRow], ScenarioRow]) -> ScenarioRow:
    """The row that ``work`` makes of ``row``, or the one that says why there is none."""
    run.listener.tell(f"{row.label} {row.precision}: {row.scenario}, driven by {row.source}")
    try:
        row = work(row)
    except UsageError as error:
        row = replace(row, status="absent", reason=str(error))
    except KeyboardInterrupt:
        run.rows.append(row)  # which says that it was interrupted, until it is measured
        raise
    except Exception as error:
        row = replace(row, status="failed", reason=sentence(error))
    run.rows.append(row)
    if row.status == "interrupted":
        raise KeyboardInterrupt
    return row


def _row(run: _Run, target: _Target, session: Session, scenario: Scenario) -> ScenarioRow:
    return ScenarioRow(
        label=target.label,
        precision=target.precision,
        scenario=scenario,
        source="repr-bench",
        status="interrupted",
        reason="interrupted",
        choice=session.choice,
        instances=session.instances,
        seconds=run.request.plan.seconds,
        slo_ms=run.options.slo_ms if scenario == "server" else None,
        graph=target.graph,
    )


def _streams(run: _Run, target: _Target, session: Session, scenario: Scenario, batch: int) -> None:
    """Queries back to back: each is sent as the one before it is answered."""

    def work(row: ScenarioRow) -> ScenarioRow:
        arrays, what = make_feed(session, target.images, batch)
        measured = measure(
            [partial(session.run, *arrays)],
            run.request.plan,
            report=partial(run.listener.advance, f"{target.label} {scenario}"),
        )
        timing = measured.timings[0]
        if timing.error is not None:
            raise timing.error
        windows = tuple(map(tuple, timing.rounds))
        return replace(
            _done(row, measured.interrupted),
            inputs=what,
            windows_ns=windows,
            window_seconds=tuple(sum(window) / 1e9 for window in windows),
            steady=timing.steady,
        )

    row = _add(run, replace(_row(run, target, session, scenario), instances=1, batch=batch), work)
    if run.lg is None:
        return
    speed = row.images_per_second
    _loadgen(
        *(run, target, session, row),
        None if speed is None else speed.value / batch,
        lambda pool: loadgen.stream(pool.run),
    )


def _server(run: _Run, target: _Target, session: Session) -> None:
    """Poisson arrivals into a batcher, at the highest rate that holds the bound."""
    options, trials = run.options, list[RateTrial]()

    def open_service() -> Service:
        from repr_runtime import Batcher

        # A batch starts as soon as an instance is free, with all who wait by then.
        limit = max(QUEUE_LIMIT, options.max_batch)
        return Batcher(session, max_batch=options.max_batch, max_delay=0.0, queue_limit=limit)

    def work(row: ScenarioRow) -> ScenarioRow:
        pool = SamplePool(session, target.images)
        row = replace(row, inputs=pool.what)
        alone = min(timed(pool, session.runnable_batch(1)))
        if alone > options.slo_ms / 1e3:
            return replace(
                _done(row),
                reason=f"no rate can hold {options.slo_ms:g} ms: one sample alone takes "
                f"{1e3 * alone:.3g} ms",
            )
        seconds = run.request.plan.seconds
        plan = SearchPlan(
            options.slo_ms, seconds / 2, confirm_seconds=2 * seconds, seed=options.seed
        )
        largest = session.runnable_batch(options.max_batch)
        capacity = session.instances * largest / statistics.median(timed(pool, largest))

        def attempt(rate: float, confirm: bool) -> RateTrial:
            trial = try_rate(rate, open_service, pool.samples, plan, confirm=confirm)
            name: str = "confirmed" if confirm and trial.outcome == "held" else trial.outcome
            if trial.generator_limited:
                name = f"missed, generator {trial.late_ms:.3g} ms late"
            p99 = trial.latency_ms(PERCENT["server"])
            run.listener.tell(
                f"  {per_second(rate)} queries/s {name}"
                + (f", p99 {p99.value:.3g} ms" if p99 else "")
            )
            return trial

        interrupted = False
        try:
            search(attempt, capacity / 2, plan, trials)
        except KeyboardInterrupt:
            interrupted = True
        row = replace(_done(row, interrupted), trials=tuple(trials))
        if interrupted:
            return row
        status, reason = outcome(trials, plan)
        return replace(row, status=status, reason=reason)

    row = replace(_row(run, target, session, "server"), batch=options.max_batch)
    row = _add(run, row, work)
    if run.lg is not None:
        _loadgen(
            *(run, target, session, row, row.rate),
            lambda pool: loadgen.served(open_service, pool.samples),
        )


def _offline(run: _Run, target: _Target, session: Session) -> None:
    """The best of a few batch sizes, on all instances."""
    seconds, instances = run.request.plan.seconds, session.instances

    def attempt(pool: SamplePool, batch: int, lasting: float) -> BatchTrial:
        return measure_offline(
            *(
                partial(pool.run, [index % POOL for index in range(batch)]),
                batch,
                instances,
                lasting,
            ),
            report=lambda done: run.listener.advance(
                f"{target.label} offline, batch {batch}", min(done, lasting), lasting
            ),
        )

    def work(row: ScenarioRow) -> ScenarioRow:
        pool = SamplePool(session, target.images)
        sizes = dict.fromkeys(
            session.runnable_batch(min(size, run.options.max_batch)) for size in OFFLINE_BATCHES
        )
        tried = [attempt(pool, size, seconds / 4) for size in sizes]
        best = max(tried, key=lambda trial: trial.images_per_second or (0.0, None)).batch
        final = attempt(pool, best, seconds)
        return replace(
            _done(row),
            inputs=pool.what,
            batch=best,
            windows_ns=final.windows_ns,
            window_seconds=final.window_seconds,
            batches=tuple(tried),
        )

    row = _add(run, _row(run, target, session, "offline"), work)
    if run.lg is None:
        return
    speed, batch = row.images_per_second, row.batch or 1
    _loadgen(
        *(run, target, session, row, speed and speed.value),
        lambda pool: loadgen.batches(pool.run, batch, instances),
    )


def _loadgen(
    run: _Run,
    target: _Target,
    session: Session,
    ours: ScenarioRow,
    expected: float | None,
    issuer: Callable[[SamplePool], contextlib.AbstractContextManager[loadgen.Issue]],
) -> None:
    """The same scenario, driven by LoadGen, at the rate that ours found."""

    def work(row: ScenarioRow) -> ScenarioRow:
        if expected is None:
            raise UsageError(f"LoadGen was not run: {ours.reason or 'there is no rate to offer'}")
        pool = SamplePool(session, target.images)
        plan = loadgen.LoadGenPlan(
            *(ours.scenario, row.seconds, expected, run.options.slo_ms, run.options.seed)
        )
        done = loadgen.run_loadgen(run.lg, plan, lambda: issuer(pool), POOL)
        return replace(
            _done(row),
            inputs=pool.what,
            windows_ns=done.windows_ns,
            window_seconds=done.window_seconds,
            loadgen=done.summary,
        )

    row = replace(_row(run, target, session, ours.scenario), source="LoadGen", batch=ours.batch)
    _add(run, replace(row, instances=ours.instances), work)


def _end_to_end(run: _Run, target: _Target, session: Session) -> None:
    """A row a batch size, from JPEG to label."""
    fixed = session.batch_size
    for batch in END_TO_END_BATCHES if fixed is None else (fixed,):
        row = StageRow(
            label=target.label,
            precision=target.precision,
            batch=batch,
            status="interrupted",
            reason="interrupted",
            choice=session.choice,
            graph=target.graph,
        )
        run.listener.tell(f"{row.label} {row.precision}: from JPEG to label, batch {batch}")
        try:
            row = run_stages(
                *(session, target.images, row, batch, run.request.plan),
                partial(run.listener.advance, f"{target.label} from JPEG, batch {batch}"),
            )
        except UsageError as error:
            row = replace(row, status="absent", reason=str(error))
        except KeyboardInterrupt:
            run.stages.append(row)
            raise
        except Exception as error:
            row = replace(row, status="failed", reason=sentence(error))
        run.stages.append(row)
        if row.status == "interrupted":
            raise KeyboardInterrupt


def _done(row: ScenarioRow, interrupted: bool = False) -> ScenarioRow:
    if interrupted:
        return replace(row, status="interrupted", reason="interrupted")
    return replace(row, status="measured", reason="")
