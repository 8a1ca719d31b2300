"""One benchmark run: targets to artifacts, sessions, accuracies, interleaved timings, rows."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from repr_bench.accuracy.accuracy import Judgement, judge_artifact
from repr_bench.analysis.run import Analysis, Subject
from repr_bench.artifacts import find_artifact, how_to_add
from repr_bench.errors import UsageError, sentence
from repr_bench.inputs import make_feed
from repr_bench.measuring.environment import after_run, capture_environment, now
from repr_bench.measuring.machine_watch import MachineWatch
from repr_bench.measuring.measure import Plan, Timing, measure
from repr_bench.measuring.reference_load import Yardstick
from repr_bench.request import Listener, Request
from repr_bench.results.graph import Graph
from repr_bench.results.results import Results, Settings
from repr_bench.results.row import Row, Status
from repr_runtime import Session, load, read_manifest
from repr_runtime.errors import PrecisionNotFoundError

DEFAULT_BATCHES = (1, 8)


@dataclass
class _Pending:
    """A row in the making: what it will be if nothing more is learnt of it, and its call."""

    row: Row
    call: Callable[[], object] | None = None
    timing: Timing | None = None
    subject: Subject | None = None

    def finished(self, plan: Plan) -> Row:
        timing = self.timing
        if timing is None:
            return self.row
        status: Status = "interrupted"
        reason = f"interrupted after {len(timing.rounds)} of {plan.rounds} rounds"
        if timing.error is not None:
            status, reason = "failed", sentence(timing.error)
        elif timing.is_whole(plan):
            status, reason = "measured", ""
        return replace(
            self.row,
            status=status,
            reason=reason,
            warmup_ns=tuple(timing.warmup),
            steady=timing.steady,
            rounds_ns=tuple(map(tuple, timing.rounds)),
        )


def run(request: Request, listener: Listener) -> Results:
    """Measure everything asked for. One artifact that fails is a row with its reason.

    Ctrl-C ends the run and keeps what was measured: ``interrupted`` says so.
    """
    started, environment = now(), capture_environment()
    pending: list[_Pending] = []
    analysis = Analysis(request.wanted, request.threads, environment)
    watch, yardstick = MachineWatch(), Yardstick()

    def between() -> None:
        watch.end_round()
        yardstick.lay_on()
        watch.begin_round()

    with contextlib.ExitStack() as stack:
        try:
            _prepare(request, listener, pending, stack)
            interrupted = _measure(request.plan, listener, pending, between)
            if not interrupted:
                analysis.run([p.subject for p in pending if p.subject and _timed(p)], listener)
        except KeyboardInterrupt:
            interrupted = True
    return Results(
        started=started,
        finished=now(),
        interrupted=interrupted,
        command=request.command,
        settings=Settings(
            seconds=request.plan.seconds,
            samples=request.plan.samples,
            rounds=request.plan.rounds,
            warmup_seconds=request.plan.warmup_seconds,
            device=request.device,
            threads=request.threads,
        ),
        environment=after_run(environment),
        rows=tuple(item.finished(request.plan) for item in pending),
        roofline=analysis.roofline,
        profiles=tuple(analysis.profiles),
        machine=tuple(watch.rounds),
        yardstick=yardstick.times(),
    )


def _prepare(
    request: Request, listener: Listener, pending: list[_Pending], stack: contextlib.ExitStack
) -> None:
    """Find or make each artifact, load its graphs, measure their accuracy, lay out the rows."""
    seen: dict[str, Path] = {}
    for target in request.targets:
        try:
            folder = find_artifact(target, request.artifacts, listener.tell, request.precisions)
        except Exception as error:  # whatever goes wrong with it is its row
            pending.append(_Pending(_row(target, None, None, "failed", sentence(error))))
            continue
        if folder.resolve() in (path.resolve() for path in seen.values()):
            continue
        label = _label(folder, seen)
        seen[label] = folder
        pending += _rows_of_artifact(request, listener, stack, label, folder)


def _label(folder: Path, seen: dict[str, Path]) -> str:
    """The folder's name, or its path where two artifacts' folders have one name."""
    return folder.name if folder.name and folder.name not in seen else str(folder)


def _rows_of_artifact(
    request: Request,
    listener: Listener,
    stack: contextlib.ExitStack,
    label: str,
    folder: Path,
) -> Iterator[_Pending]:
    sessions: dict[str, Session] = {}
    missing: dict[str, _Pending] = {}
    open_graph = partial(load, folder, device=request.device, threads=request.threads)
    for precision in request.precisions:
        try:
            sessions[precision] = stack.enter_context(open_graph(precision=precision))
        except PrecisionNotFoundError:
            how = how_to_add(read_manifest(folder), folder, precision)
            reason = f"no {precision} graph in this artifact" + (f"; {how}" if how else "")
            missing[precision] = _Pending(_row(label, precision, None, "absent", reason))
        except Exception as error:  # whatever goes wrong with it is its row
            missing[precision] = _Pending(_row(label, precision, None, "failed", sentence(error)))
    images, judged = judge_artifact(
        sessions,
        request.images,
        partial(open_graph, precision="fp32"),
        lambda done, total: listener.advance(f"accuracy of {label}", done, total),
    )
    for precision in request.precisions:
        if precision in missing:
            yield missing[precision]
            continue
        session = sessions[precision]
        graph = _graph(folder, session, judged[precision])
        for batch in request.batches or _batches(session):
            row = _row(label, precision, batch, "interrupted", "interrupted before it was measured")
            try:
                arrays, what = make_feed(session, images, batch)
            except UsageError as error:
                yield _Pending(replace(row, status="absent", reason=str(error), graph=graph))
                continue
            except Exception as error:
                yield _Pending(replace(row, status="failed", reason=sentence(error), graph=graph))
                continue
            row = replace(row, graph=graph, inputs=what)
            subject = Subject(label, precision, batch, session, tuple(arrays), row.emulated)
            yield _Pending(row, partial(session.run, *arrays), subject=subject)


def _timed(item: _Pending) -> bool:
    return item.timing is not None and item.timing.error is None


def _batches(session: Session) -> tuple[int, ...]:
    return DEFAULT_BATCHES if session.batch_size is None else (session.batch_size,)


def _graph(folder: Path, session: Session, judged: Judgement) -> Graph:
    manifest = session.manifest
    entry = manifest.file(session.graph)
    assert entry is not None, "the session was loaded from it"
    return Graph(
        artifact=str(folder),
        network=manifest.network.name,
        dataset=manifest.network.dataset,
        weights=manifest.weights.kind,
        weights_sha256=manifest.weights.sha256,
        parameters=manifest.network.parameters,
        multiply_adds=manifest.network.multiply_adds,
        bytes=entry.bytes,
        sha256=entry.sha256,
        device=session.device,
        choice=session.choice,
        accuracy=judged.accuracy,
        accuracy_note=sentence(judged.error) if judged.error is not None else judged.note,
        trained_top1=_number(manifest.weights.record, "accuracy", "test_top1"),
        bar=_number(manifest.weights.record, "bar"),
        agreement=judged.agreement,
        flips=judged.flips,
        skipped=judged.skipped,
        skip_reason=judged.skip_reason,
    )


def _number(record: object, *keys: str) -> float | None:
    """What stands under ``keys``, one within the other; None if no number does."""
    for key in keys:
        record = record.get(key) if isinstance(record, Mapping) else None
    return float(record) if isinstance(record, int | float) else None


def _measure(
    plan: Plan, listener: Listener, pending: Sequence[_Pending], between: Callable[[], None]
) -> bool:
    """Time all rows that have a call; whether Ctrl-C ended it."""
    ready = [item for item in pending if item.call is not None]
    listener.tell(f"measuring {len(ready)} rows, at least {plan.seconds:g} s each")
    # Collecting the garbage of all that was imported is not part of a network's latency.
    gc.collect()
    gc.freeze()
    try:
        measured = measure(
            [item.call for item in ready if item.call],
            plan,
            report=partial(listener.advance, "measuring"),
            between=between,
        )
    finally:
        gc.unfreeze()
    for item, timing in zip(ready, measured.timings, strict=True):
        item.timing = timing
    return measured.interrupted


def _row(label: str, precision: str | None, batch: int | None, status: Status, reason: str) -> Row:
    return Row(label, precision, batch, status, reason, None, "", (), False, ())
