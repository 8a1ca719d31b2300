"""The scenarios of one run: every graph that was measured, opened and put through each of them."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar, cast

from repr_bench.errors import UsageError, sentence
from repr_bench.measuring.environment import after_run, now
from repr_bench.measuring.measure import garbage_frozen
from repr_bench.remote.protocol import NoModelError
from repr_bench.remote.session import RemoteSession
from repr_bench.request import Listener, Request, ScenarioOptions
from repr_bench.results.graph import Graph
from repr_bench.results.results import Results
from repr_bench.results.row import Row, Status
from repr_bench.results.scenarios import ScenarioRow, StageRow
from repr_bench.results.trials import Scenario
from repr_bench.scenarios.end_to_end import measure_from_jpeg
from repr_bench.scenarios.loadgen import library, measure_with_loadgen
from repr_bench.scenarios.offline import measure_offline
from repr_bench.scenarios.overload import measure_overload
from repr_bench.scenarios.server import measure_server
from repr_bench.scenarios.streams import measure_streams
from repr_bench.scenarios.system import STREAMS, SystemUnderTest
from repr_runtime import Session, load
from repr_runtime.machine import usable_cores

MEASURES: Mapping[Scenario, Callable[[SystemUnderTest, ScenarioRow], ScenarioRow]] = {
    "single-stream": measure_streams,
    "multi-stream": measure_streams,
    "server": measure_server,
    "offline": measure_offline,
}
END_TO_END_BATCHES = (1, 8)

AnyRow = TypeVar("AnyRow", ScenarioRow, StageRow)


def with_scenarios(
    results: Results, request: Request, options: ScenarioOptions, listener: Listener
) -> Results:
    """``results`` of ``request``, and each of its graphs put through every scenario asked for.

    What fails is a row. Ctrl-C ends the run and keeps what was measured; a run that was
    interrupted is left as it is. What is not installed is said before anything is measured.
    """
    if results.interrupted:
        return results
    run = _Run(request, options, listener, library() if options.loadgen else None)
    interrupted = False
    graphs: dict[tuple[str, str | None], Row] = {}
    for row in results.rows:
        graphs.setdefault((row.label, row.precision), row)
    try:
        with garbage_frozen():
            for row in graphs.values():
                run.run_graph(row)
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


@dataclass
class _Run:
    """What was asked for, and the rows up to now."""

    request: Request
    options: ScenarioOptions
    listener: Listener
    loadgen: Any
    rows: list[ScenarioRow] = field(default_factory=list)
    stages: list[StageRow] = field(default_factory=list)

    def run_graph(self, of: Row) -> None:
        """Every scenario of the graph that the row ``of`` was measured on, if there is one."""
        if of.precision is None or of.graph is None:
            self._fail(of, of.status, of.reason)
        elif of.emulated:
            why = f"{of.precision} on a CPU is emulation: its latency would say nothing"
            self._fail(of, "absent", why)
        else:
            try:
                self._measure(of.label, of.precision, of.graph)
            except Exception as error:  # whatever goes wrong with loading it is its rows
                self._fail(of, "failed", sentence(error))

    def _fail(self, of: Row, status: Status, reason: str) -> None:
        """Say ``reason`` in each row of the graph that there is not yet."""
        said: dict[str, Any] = {
            "label": of.label,
            "precision": of.precision,
            "status": status,
            "reason": reason,
        }
        graph = of.label, of.precision
        there = {row.scenario for row in self.rows if (row.label, row.precision) == graph}
        for scenario in self.options.scenarios:
            if scenario not in there:
                self.rows.append(ScenarioRow(scenario=scenario, source="repr-bench", **said))
        there_too = {(row.label, row.precision) for row in self.stages}
        if self.options.end_to_end and graph not in there_too:
            self.stages.append(StageRow(batch=None, **said))

    def _measure(self, label: str, precision: str, graph: Graph) -> None:
        """One caller at a time first, then as many instances as run side by side."""
        request = self.request
        how: Any = {"device": request.device, "precision": precision, "threads": request.threads}
        opened = partial(load, graph.artifact, **how)
        with opened() as session:
            _require_same(session, graph)
            system = SystemUnderTest(
                label=label,
                precision=precision,
                graph=graph,
                session=session,
                images=request.images.for_artifact(session.manifest)[0],
                request=request,
                options=self.options,
                listener=self.listener,
            )
            self._scenarios(system, one_caller=True)
            if self.options.end_to_end:
                self._end_to_end(system)
            instances = self.options.instances
            if instances is None and session.device == "cpu":  # one a core; else the device's own
                instances = max(1, usable_cores() // (request.threads or 1))
        if set(self.options.scenarios) <= STREAMS.keys() and not request.remote.servers:
            return
        with opened(instances=instances) as session:
            _require_same(session, graph)
            system = replace(system, session=session)
            self._scenarios(system, one_caller=False)
            self._servers(system)

    def _servers(self, own: SystemUnderTest) -> None:
        """Every scenario of each server, and then all of them, and ours, in turn under overload."""
        with contextlib.ExitStack() as stack:
            systems = [own]
            for server in self.request.remote.servers:
                try:
                    remote = RemoteSession(own.session, own.label, server, self.request)
                    stack.callback(remote.close)
                    graph = remote.answers(own.graph, self.request, lambda _done, _total: None)
                except Exception as error:  # whatever a server does is its rows
                    status: Status = "absent" if isinstance(error, NoModelError) else "failed"
                    overload: tuple[Scenario, ...] = ("overload",) if self.options.overload else ()
                    for scenario in (*self.options.scenarios, *overload):
                        row = replace(own, server=server.name).row(scenario)
                        self.rows.append(replace(row, status=status, reason=sentence(error)))
                    continue
                session = cast("Session", remote)
                systems.append(replace(own, session=session, graph=graph, server=server.name))
                self._scenarios(systems[-1], one_caller=True)
                self._scenarios(systems[-1], one_caller=False)
            if self.options.overload and len(systems) > 1:
                self._overload(systems)

    def _overload(self, systems: Sequence[SystemUnderTest]) -> None:
        own = systems[0]
        wanted = own.row("server")
        key = (wanted.label, wanted.precision, "server", "")
        held = [r for r in self.rows if (r.label, r.precision, r.scenario, r.server) == key]
        row = held[0] if held else _record(self.rows, wanted, partial(measure_server, own))
        rows = {system.server: system.row("overload") for system in systems}
        unknown = row.reason or row.generator_limit
        if row.rate is None or unknown:  # several times what is too little overloads nobody
            why = f"what holds in process is not known: {unknown or 'no rate was confirmed'}"
            self.rows += [replace(one, status="failed", reason=why) for one in rows.values()]
            return
        self._tell(rows[own.server])
        try:
            measure_overload(systems, row.rate, rows)
        finally:  # an interrupt leaves what there is
            self.rows += rows.values()

    def _scenarios(self, system: SystemUnderTest, *, one_caller: bool) -> None:
        """For each a row driven by ourselves, and one by LoadGen if that was asked for."""
        for scenario, measured in MEASURES.items():
            if scenario not in self.options.scenarios or (scenario in STREAMS) != one_caller:
                continue
            ours = _record(self.rows, self._tell(system.row(scenario)), partial(measured, system))
            if self.loadgen is not None and not system.server:
                row = self._tell(replace(system.row(scenario), source="LoadGen", batch=ours.batch))
                _record(self.rows, row, partial(measure_with_loadgen, self.loadgen, ours, system))

    def _tell(self, row: ScenarioRow) -> ScenarioRow:
        where = f" of {row.server}" if row.server else ""
        self.listener.tell(
            f"{row.label} {row.precision}: {row.scenario}{where}, driven by {row.source}"
        )
        return row

    def _end_to_end(self, system: SystemUnderTest) -> None:
        """A row a batch size, from JPEG to label."""
        fixed = system.session.batch_size
        for batch in END_TO_END_BATCHES if fixed is None else (fixed,):
            row = StageRow(
                label=system.label,
                precision=system.precision,
                batch=batch,
                status="interrupted",
                reason="interrupted",
                choice=system.session.choice,
                graph=system.graph,
            )
            self.listener.tell(f"{row.label} {row.precision}: from JPEG to label, batch {batch}")
            _record(self.stages, row, partial(measure_from_jpeg, system))


def _require_same(session: Session, graph: Graph) -> None:
    """The accuracy beside a row is that of the very graph that runs."""
    entry = session.manifest.file(session.graph)
    if entry is None or entry.sha256 != graph.sha256:
        raise UsageError(
            f"{graph.artifact} was written anew while it was measured; leave it alone and run "
            f"repr-bench again"
        )


def _record(rows: list[AnyRow], row: AnyRow, measured: Callable[[AnyRow], AnyRow]) -> AnyRow:
    """Add to ``rows`` what ``measured`` makes of ``row``, or the one that says why there is none.

    ``row`` says that it was interrupted, until it is measured.
    """
    try:
        row = measured(row)
    except UsageError as error:
        row = replace(row, status="absent", reason=str(error))
    except Exception as error:
        row = replace(row, status="failed", reason=sentence(error))
    finally:
        rows.append(row)
    if row.status == "interrupted":
        raise KeyboardInterrupt
    return row
