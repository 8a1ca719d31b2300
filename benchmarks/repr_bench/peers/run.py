"""Peers in the same run: opened, checked for the same answers, timed in the same rounds as ours."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repr_bench.errors import sentence
from repr_bench.inputs import make_feed
from repr_bench.measuring.environment import after_run, now
from repr_bench.measuring.measure import Clock, Plan, Timing, garbage_frozen, measure
from repr_bench.peers.base import Arrays, Peer, PeerAbsentError, Prepared, Runner, Workload
from repr_bench.peers.check import check_inputs, compare_top1, in_batches, why_not_same
from repr_bench.peers.ours import BURST_SECONDS, CHUNK, OursRunner, burst_length
from repr_bench.request import Listener, Request
from repr_bench.results.peers import MEASURES, OURS, Measure, PeerRow
from repr_bench.results.results import Results
from repr_bench.results.row import Row
from repr_runtime import Session, load
from repr_runtime.backends.onnxruntime import version
from repr_runtime.backends.tuning import Setting, resolve
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
    timing: Timing | None = None
    plan: Plan = field(default_factory=Plan)

    def finished(self) -> PeerRow:
        timing = self.timing
        if timing is None:
            return self.row
        status, reason = timing.outcome(self.plan)
        rounds = tuple(map(tuple, timing.rounds))
        return replace(
            self.row, status=status, reason=reason, steady=timing.steady, rounds_ns=rounds
        )


@dataclass(frozen=True)
class _Given:
    """What all get: the graph, inputs by batch size, and samples with the answers of ours."""

    workload: Workload
    inputs: Mapping[int, Arrays]
    samples: Arrays
    answers: NDArray[np.float64]


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
        self._graph_sha256 = graph.sha256
        self._batches = [row.batch for row in rows if row.batch is not None]
        self._selected = [(peer, self._unfit(peer) or reason) for peer, reason in selected]
        self._entries: list[_Entry] = []

    def rows(self) -> list[PeerRow]:
        """By measure and batch, ours first."""
        found = [entry.finished() for entry in self._entries]
        return sorted(
            found, key=lambda r: (MEASURES.index(r.measure), r.batch is None, r.batch or 0)
        )

    def fail(self, error: Exception) -> None:
        """A row that says why nobody was compared."""
        self._entries = [_Entry(_gone(self._row(OURS), error))]

    def run(self) -> None:
        """Prepare all, then time them, all latencies and then all throughputs."""
        names = ", ".join(peer.name for peer, reason in self._selected if reason is None)
        self._listener.tell(f"comparing {self._label} {self._precision} with {names or 'nobody'}")
        with contextlib.ExitStack() as stack:
            self._prepare(stack)
            for measure_name in MEASURES:
                self._measure(measure_name)

    def _prepare(self, stack: contextlib.ExitStack) -> None:
        session = self._load("latency")
        stack.callback(session.close)
        images, _ = self._request.images.for_artifact(session.manifest)
        ours = OursRunner(session)
        graph = session.manifest.file(session.graph)
        assert graph is not None, "the session was loaded from it"
        samples = check_inputs(session, images)
        given = _Given(
            workload=Workload(
                folder=self._folder,
                manifest=session.manifest,
                graph=graph,
                precision=self._precision,
                threads=self._request.threads,
            ),
            inputs={batch: make_feed(session, images, batch)[0] for batch in self._batches},
            samples=samples,
            answers=in_batches(ours.logits, samples, session.batch_size or CHUNK),
        )

        def ours_for(which: Measure) -> Callable[[Workload], Runner]:
            return lambda _: ours if which == "latency" else OursRunner(self._load("throughput"))

        every = [(Peer(OURS, ours_for(which), lambda: None, (which,)), None) for which in MEASURES]
        for peer, reason in [*every, *self._selected]:
            self._prepare_peer(stack, peer, reason, given)

    def _prepare_peer(
        self, stack: contextlib.ExitStack, peer: Peer, reason: str | None, given: _Given
    ) -> None:
        """Open it, and lay out its rows: each ready to be timed, or with the reason why not."""
        row = self._row(peer.name)
        try:
            if reason is not None:
                raise PeerAbsentError(reason)
            runner = peer.open(given.workload)
        except Exception as error:  # whatever a library raises is its rows
            self._give_up(row, peer, error)
            return
        stack.callback(runner.close)
        for batch, arrays in given.inputs.items():
            row = replace(row, batch=batch)
            try:
                prepared = runner.prepare(arrays)
                same = compare_top1(
                    given.answers, in_batches(prepared.logits, given.samples, batch)
                )
            except Exception as error:
                self._give_up(row, peer, error)
                continue
            checked = replace(row, settings=prepared.settings, same_answers=same)
            for each in peer.measures:
                self._entries.append(self._entry(replace(checked, measure=each), prepared))

    def _give_up(self, row: PeerRow, peer: Peer, error: Exception) -> None:
        for each in peer.measures:
            self._entries.append(_Entry(_gone(replace(row, measure=each), error)))

    def _row(self, peer: str) -> PeerRow:
        return PeerRow(
            label=self._label,
            precision=self._precision,
            measure="latency",
            peer=peer,
            status="absent",
        )

    def _entry(self, row: PeerRow, prepared: Prepared) -> _Entry:
        assert row.same_answers is not None, "it was just checked"
        assert row.batch is not None, "it was prepared for one"
        if different := why_not_same(row.same_answers, self._precision):
            return _Entry(replace(row, status="failed", reason=different))
        if prepared.samples_ns:
            parts = np.array_split(np.array(prepared.samples_ns), self._request.plan.rounds)
            rounds = tuple(tuple(map(int, part)) for part in parts if len(part))
            return _Entry(
                replace(row, status="measured", images=row.batch, steady=True, rounds_ns=rounds)
            )
        waiting = replace(
            row, status="interrupted", reason="interrupted before it was measured", images=row.batch
        )
        if row.measure == "latency":
            return _Entry(waiting, prepared.call)
        seconds = min(BURST_SECONDS, self._request.plan.slice_ns / 2e9)
        try:
            times = burst_length(prepared, seconds, self._clock)
        except Exception as error:
            return _Entry(_gone(row, error))
        return _Entry(replace(waiting, images=times * row.batch), partial(prepared.burst, times))

    def _measure(self, which: Measure) -> None:
        ready = [e for e in self._entries if e.call is not None and e.row.measure == which]
        ready.sort(key=lambda entry: entry.row.batch or 0)
        plan = self._request.plan
        if which == "throughput":
            plan = replace(plan, samples=plan.rounds)  # each sample is a burst of many batches
        for entry in ready:
            entry.plan = plan
        with garbage_frozen():
            measured = measure(
                [entry.call for entry in ready if entry.call],
                plan,
                clock=self._clock,
                report=partial(self._listener.advance, f"{which} of {self._label}"),
            )
        for entry, timing in zip(ready, measured.timings, strict=True):
            entry.timing = timing
        if measured.interrupted:
            raise KeyboardInterrupt

    def _load(self, which: Measure) -> Session:
        """Ours: tuned for the measure, where it was tuned here; else as ``threads`` say.

        For throughput, without a tuning: an instance of one thread for each.
        """
        request = self._request
        tuned: Setting | None = None
        threads = request.threads
        if threads is None and self._device == "cpu":
            tuned, _ = resolve(which, self._graph_sha256, version())
        if tuned is None and which == "throughput" and self._device == "cpu":
            tuned, threads = Setting(threads=1, instances=threads or usable_cores()), None
        return load(
            self._folder,
            device=self._device if self._device == "cpu" else request.device,
            precision=self._precision,
            threads=threads,
            tuned=tuned,
        )

    def _unfit(self, peer: Peer) -> str | None:
        here = "cpu" if self._device == "cpu" else "gpu"
        return (
            None
            if peer.device == here
            else f"ours runs on {self._device}, and it on a {peer.device}"
        )


def _gone(row: PeerRow, error: Exception) -> PeerRow:
    if isinstance(error, PeerAbsentError):
        return replace(row, status="absent", reason=str(error))
    return replace(row, status="failed", reason=sentence(error))
