"""Peers in the same run: opened, checked for the same answers, timed in the same rounds as ours."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from repr_bench.errors import sentence
from repr_bench.measuring.environment import after_run, now
from repr_bench.measuring.measure import Clock, garbage_frozen, measure
from repr_bench.measuring.sessions import ENGINES
from repr_bench.peers.base import Peer, PeerAbsentError, Prepared, Runner, Workload
from repr_bench.peers.check import why_not_same
from repr_bench.peers.ours import Given, OursRunner, plan_for, timed_call, timed_row
from repr_bench.request import Listener, Request
from repr_bench.results.peers import ALL_MEASURES, MEASURES, OURS, Measure, PeerRow, SameAnswers
from repr_bench.results.results import Results
from repr_bench.results.row import Row
from repr_runtime import Session, load, read_manifest
from repr_runtime.backends.tuning import Setting, resolve, tuning_subject
from repr_runtime.machine import usable_cores

Selected = Sequence[tuple[Peer, str | None]]


def with_peers(
    results: Results, request: Request, selected: Selected, listener: Listener
) -> Results:
    """``results`` of ``request`` with the rows of peers; an interrupted run is left as it is."""
    if results.interrupted:
        return results
    peers, interrupted = run_peers(request, selected, results.rows, listener)
    return replace(
        results,
        peers=peers,
        interrupted=interrupted,
        finished=now(),
        environment=after_run(results.environment),
    )


def run_peers(
    request: Request,
    selected: Selected,
    rows: Sequence[Row],
    listener: Listener,
    clock: Clock = time.perf_counter_ns,
) -> tuple[tuple[PeerRow, ...], bool]:
    """Compare every graph of ``rows`` with the peers, at the batch sizes that were measured.

    One network after the other, so that only one is in memory. Returns the rows, ours among
    them, and whether Ctrl-C ended it; what was measured until then is kept.
    """
    graphs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.status == "measured" and row.precision and not row.emulated:
            graphs.setdefault((row.label, row.precision), []).append(row)
    found: list[PeerRow] = []
    for of_graph in graphs.values():
        comparison = _Comparison(request, selected, of_graph, listener, clock)
        try:
            comparison.run()
        except KeyboardInterrupt:
            return (*found, *comparison.rows()), True
        except Exception as error:  # of ours: then there is nothing to compare with
            comparison.fail(error)
        found += comparison.rows()
    return tuple(found), False


@dataclass
class _Entry:
    """A row in the making, and the call that is timed for it."""

    row: PeerRow
    call: Callable[[], object] | None = None


class _Comparison:
    """One graph, run by all."""

    def __init__(
        self,
        request: Request,
        selected: Selected,
        rows: Sequence[Row],
        listener: Listener,
        clock: Clock,
    ) -> None:
        graph = rows[0].graph
        assert graph is not None, "it was measured"
        assert rows[0].precision is not None, "it was measured"
        self._request, self._listener, self._clock = request, listener, clock
        self._label, self._precision = rows[0].label, rows[0].precision
        self._folder, self._device = Path(graph.artifact), graph.device
        self._graph = graph
        self._batches = [row.batch for row in rows if row.batch is not None]
        here = "cpu" if graph.device == "cpu" else "gpu"
        self._selected = [
            (
                p,
                why
                if p.server or p.device == here
                else f"ours runs on {graph.device}, and it on a {p.device}",
            )
            for p, why in selected
        ]
        self._row = partial(
            PeerRow,
            label=self._label,
            precision=self._precision,
            measure="latency",
            status="absent",
        )
        self._entries: list[_Entry] = []

    def rows(self) -> list[PeerRow]:
        """By measure and batch, ours first."""
        return sorted(
            (entry.row for entry in self._entries),
            key=lambda r: (ALL_MEASURES.index(r.measure), r.batch is None, r.batch or 0),
        )

    def fail(self, error: Exception) -> None:
        """A row that says why nobody was compared."""
        self._entries = [_Entry(_gone(self._row(peer=OURS), error))]

    def run(self) -> None:
        """Prepare all, then time them: all latencies, all throughputs, all latencies on the GPU."""
        names = ", ".join(peer.name for peer, reason in self._selected if reason is None)
        self._listener.tell(f"comparing {self._label} {self._precision} with {names or 'nobody'}")
        with contextlib.ExitStack() as stack:
            self._prepare(stack)
            for measure_name in ALL_MEASURES:
                self._measure(measure_name)

    def _prepare(self, stack: contextlib.ExitStack) -> None:
        session = stack.enter_context(self._load("latency"))
        images, _ = self._request.images.for_artifact(session.manifest)
        ours = OursRunner(session, partial(self._load, "latency"))
        given = ours.given(images, self._batches)
        workload = Workload(
            self._folder,
            session.manifest,
            given.graph,
            self._precision,
            self._request.threads,
            self._label,
            session,
            self._request.compile_seconds,
            lambda ready, batch: not self._different(given.same_answers(ready.logits, batch)),
        )

        def ours_for(which: Measure) -> Callable[[Workload], Runner]:
            if which == "latency" or self._device != "cpu":  # nothing else is tuned for it there
                return lambda _: ours
            again = partial(self._load, which)
            return lambda _: OursRunner(again(), again)

        every = [(Peer(OURS, ours_for(which), lambda: None, (which,)), None) for which in MEASURES]
        for peer, reason in [*every, *self._selected]:
            try:
                if reason is not None:
                    raise PeerAbsentError(reason)
                runner = peer.open(workload)
            except Exception as error:  # whatever a library raises is its rows
                self._give_up(self._row(peer=peer.name, server=peer.server), peer, error)
                continue
            stack.callback(runner.close)
            self._prepare_peer(peer, runner, given)

    def _prepare_peer(self, peer: Peer, runner: Runner, given: Given) -> None:
        """Lay out its rows: each ready to be timed, or with the reason why not."""
        for batch, arrays in given.inputs.items():
            row = self._row(peer=peer.name, server=peer.server, batch=batch)
            graph = self._graph if peer.name == OURS else None
            try:
                prepared = runner.prepare(arrays)
                same = given.same_answers(prepared.logits, batch)
                if prepared.answers is not None:
                    graph = prepared.answers(self._graph)
            except Exception as error:
                self._give_up(row, peer, error)
                continue
            checked = replace(row, settings=prepared.settings, same_answers=same, graph=graph)
            measures = list(peer.measures)
            if prepared.on_gpu is not None and "latency" in measures:
                measures.append("on-gpu")
            for each in measures:
                self._entries.append(self._entry(replace(checked, measure=each), prepared))

    def _give_up(self, row: PeerRow, peer: Peer, error: Exception) -> None:
        for each in peer.measures:
            self._entries.append(_Entry(_gone(replace(row, measure=each), error)))

    def _entry(self, row: PeerRow, prepared: Prepared) -> _Entry:
        assert row.same_answers is not None, "it was just checked"
        assert row.batch is not None, "it was prepared for one"
        if different := self._different(row.same_answers, server=row.server):
            return _Entry(replace(row, status="failed", reason=different))
        if prepared.samples_ns:
            parts = np.array_split(np.array(prepared.samples_ns), self._request.plan.rounds)
            rounds = tuple(tuple(map(int, part)) for part in parts if len(part))
            return _Entry(
                replace(row, status="measured", images=row.batch, steady=True, rounds_ns=rounds)
            )
        try:
            call, times = timed_call(prepared, row.measure, self._request.plan, self._clock)
        except Exception as error:
            return _Entry(_gone(row, error))
        row = replace(row, status="interrupted", reason="interrupted before it was measured")
        return _Entry(replace(row, images=times * (row.batch or 1)), call)

    def _different(self, found: SameAnswers, *, server: bool = False) -> str:
        return why_not_same(found, "" if server else self._precision)

    def _measure(self, which: Measure) -> None:
        ready = [e for e in self._entries if e.call is not None and e.row.measure == which]
        ready.sort(key=lambda entry: entry.row.batch or 0)
        plan = plan_for(which, self._request.plan)
        with garbage_frozen():
            measured = measure(
                [entry.call for entry in ready if entry.call],
                plan,
                clock=self._clock,
                report=partial(self._listener.advance, f"{which} of {self._label}"),
            )
        for entry, timing in zip(ready, measured.timings, strict=True):
            entry.row = timed_row(entry.row, timing, plan)
        if measured.interrupted:
            raise KeyboardInterrupt

    def _load(self, which: Measure, batch: int | None = None) -> Session:
        """Ours: tuned for the measure and the batch size, where it was tuned here; else as ``threads`` say.

        For throughput, without a tuning: an instance of one thread for each.
        """
        request = self._request
        tuned: Setting | None = None
        threads, instances = request.threads, None
        if threads is None and self._device == "cpu":
            subject = tuning_subject(read_manifest(self._folder), self._precision)
            library = {"cpu": "onnxruntime", "openvino": "openvino"}.get(request.device)
            tuned, _ = resolve(which, subject, batch, library)
        if tuned is None and which == "throughput" and self._device == "cpu":
            threads, instances = 1, threads or usable_cores()
        return load(
            self._folder,
            device=request.device,
            precision=self._precision,
            threads=threads,
            instances=instances,
            tuned=tuned,
            batch=batch,
            options=ENGINES,
        )


def _gone(row: PeerRow, error: Exception) -> PeerRow:
    if isinstance(error, PeerAbsentError):
        return replace(row, status="absent", reason=str(error))
    return replace(row, status="failed", reason=sentence(error))
