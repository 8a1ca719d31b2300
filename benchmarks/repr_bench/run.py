"""The main table of a run: from a target's name to its artifact, graphs, accuracies, times, rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from repr_bench.accuracy.evaluate import Evaluation, evaluate_artifact
from repr_bench.accuracy.golden import compare_golden
from repr_bench.accuracy.reference import Network, original_network
from repr_bench.analysis.run import Analysis
from repr_bench.analysis.timed_graph import TimedGraph
from repr_bench.artifacts import find_artifact, how_to_add
from repr_bench.errors import UsageError, sentence
from repr_bench.inputs import make_feed
from repr_bench.measuring.environment import after_run, capture_environment, now
from repr_bench.measuring.machine_watch import MachineWatch
from repr_bench.measuring.measure import Call, Plan, Timing, garbage_frozen, measure
from repr_bench.measuring.memory import PeakMemory
from repr_bench.measuring.reference_load import ReferenceLoad
from repr_bench.measuring.sessions import ENGINES, one_a_batch
from repr_bench.request import Listener, Request
from repr_bench.results.graph import Agreement, Difference, Graph
from repr_bench.results.results import Results, Settings
from repr_bench.results.row import Row, Status
from repr_runtime import Manifest, Session, load, read_manifest
from repr_runtime.errors import DeviceUnavailableError, PrecisionNotFoundError

if TYPE_CHECKING:
    from repr_models.data.images import Images

DEFAULT_BATCHES = (1, 8)


@dataclass
class _Pending:
    """A row in the making: what it will be if nothing more is learnt of it, and what is timed."""

    row: Row
    timed: TimedGraph | None = None
    timing: Timing | None = None

    def finished(self, plan: Plan) -> Row:
        if self.timing is None:
            return self.row
        status, reason = self.timing.outcome(plan)
        return replace(
            self.row,
            status=status,
            reason=reason,
            warmup_ns=tuple(self.timing.warmup),
            steady=self.timing.steady,
            rounds_ns=tuple(map(tuple, self.timing.rounds)),
        )


def run(request: Request, listener: Listener) -> Results:
    """Measure everything asked for. One artifact that fails is a row with its reason.

    Ctrl-C ends the run and keeps what was measured: ``interrupted`` says so.
    """
    started, environment = now(), capture_environment()
    pending: list[_Pending] = []
    analysis = Analysis(request, environment)
    watch, reference_load = MachineWatch(), ReferenceLoad()

    def between(reopen: Callable[[], None]) -> None:
        watch.end_round()
        reopen()
        reference_load.run()
        watch.begin_round()

    with contextlib.ExitStack() as stack:
        try:
            pending.extend(_prepared(request, listener, stack))  # as far as an interrupt lets it
            again = _Reopening(request, stack)
            interrupted = _measure(pending, request.plan, listener, between, again)
            if not interrupted:
                timed = [p for p in pending if p.timing is not None and p.timing.error is None]
                analysis.run([p.timed for p in timed if p.timed], listener)
        except KeyboardInterrupt:
            interrupted = True
    return Results(
        started=started,
        finished=now(),
        interrupted=interrupted,
        command=request.command,
        settings=Settings(**asdict(request.plan), device=request.device, threads=request.threads),
        environment=after_run(environment),
        rows=tuple(item.finished(request.plan) for item in pending),
        roofline=analysis.roofline,
        profiles=tuple(analysis.profiles),
        machine=tuple(watch.rounds),
        reference_load=reference_load.times(),
    )


def _prepared(
    request: Request, listener: Listener, stack: contextlib.ExitStack
) -> Iterator[_Pending]:
    """Each target to its artifact, found or made, and that to its rows, ready to be timed."""
    seen: dict[str, Path] = {}
    for target in request.targets:
        try:
            folder = find_artifact(
                target,
                request.artifacts,
                listener.tell,
                request.precisions,
                request.own_for(target),
            )
        except Exception as error:  # whatever goes wrong with it is its row
            row = Row(label=target, precision=None, batch=None, status="failed")
            yield _Pending(replace(row, reason=sentence(error)))
            continue
        if folder.resolve() in (path.resolve() for path in seen.values()):
            continue
        if not seen:  # what libraries take of memory once, whatever they run
            with contextlib.suppress(Exception):  # its row will say it
                load(folder, device=request.device, threads=request.threads).close()
        # Two artifacts' folders may have one name; the second is called as it was asked for.
        label = folder.name if folder.name and folder.name not in seen else target
        seen[label] = folder
        own = request.own_for(target)
        original = partial(original_network, target, own, request.precisions)
        yield from _rows_of_artifact(label, folder, original, request, listener, stack)


def _rows_of_artifact(
    label: str,
    folder: Path,
    original: Callable[[Manifest], tuple[Network, str] | None],
    request: Request,
    listener: Listener,
    stack: contextlib.ExitStack,
) -> Iterator[_Pending]:
    """Open its graphs, evaluate them all on the same images, and lay out their rows."""
    opened: dict[str, Session] = {}
    missing: dict[str, Row] = {}
    golden: dict[str, tuple[Difference | None, Agreement | None]] = {}
    peaks: dict[str, dict[int, int]] = {}
    open_graph = partial(
        load, folder, device=request.device, threads=request.threads, options=ENGINES
    )
    for precision in request.precisions:
        row = Row(label=label, precision=precision, batch=None, status="failed")
        try:
            memory = PeakMemory()
            session = stack.enter_context(open_graph(precision=precision))
            peaks[precision] = _peaks(session, _batches(session, request), memory)
            golden[precision] = compare_golden(session, request.tolerance)
            opened[precision] = session
        except PrecisionNotFoundError:
            how = how_to_add(read_manifest(folder), folder, precision)
            reason = f"no {precision} graph in this artifact" + (f"; {how}" if how else "")
            missing[precision] = replace(row, status="absent", reason=reason)
        except DeviceUnavailableError as error:  # no failure, where no device was asked for
            status: Status = "absent" if request.device == "auto" else "failed"
            missing[precision] = replace(row, status=status, reason=str(error))
        except Exception as error:  # whatever goes wrong with it is its row
            missing[precision] = replace(row, reason=sentence(error))
    images, evaluations = evaluate_artifact(
        opened,
        request.images,
        partial(open_graph, precision="fp32"),
        original,
        partial(listener.advance, f"accuracy of {label}"),
    )
    for precision in request.precisions:
        if precision in missing:
            yield _Pending(missing[precision])
            continue
        session = opened[precision]
        graph = _graph(folder, session, evaluations[precision], *golden[precision])
        for index, batch in enumerate(_batches(session, request)):
            if index and one_a_batch(session):
                session = stack.enter_context(open_graph(precision=precision))
            ready = _ready(TimedGraph(label, precision, batch, session), graph, images)
            yield replace(
                ready, row=replace(ready.row, peak_memory_bytes=peaks[precision].get(batch))
            )


def _batches(session: Session, request: Request) -> tuple[int, ...]:
    fixed = session.batch_size
    return request.batches or (DEFAULT_BATCHES if fixed is None else (fixed,))


def _peaks(session: Session, batches: Sequence[int], memory: PeakMemory) -> dict[int, int]:
    """The peak of memory in bytes by batch size, where it can be run and is known.

    ``memory`` is of before the session was loaded. A session keeps what it took, so that the
    smallest batch has to come first.
    """
    loaded, found = memory.read(), dict[int, int]()
    for batch in sorted(batches):
        with contextlib.suppress(Exception):  # its row will say it
            session.run(*make_feed(session, None, batch)[0])
            peak = memory.read()
            if peak is not None and loaded is not None:
                found[batch] = max(loaded, peak)
    return found


def _ready(timed: TimedGraph, graph: Graph, images: Images | None) -> _Pending:
    """The row with what its session is fed, or with the reason why it cannot be."""
    row = Row(label=timed.label, precision=timed.precision, batch=timed.batch, status="absent")
    row = replace(row, graph=graph)
    try:
        arrays, what = make_feed(timed.session, images, timed.batch)
    except UsageError as error:
        return _Pending(replace(row, reason=str(error)))
    except Exception as error:
        return _Pending(replace(row, status="failed", reason=sentence(error)))
    reason = "interrupted before it was measured"
    row = replace(row, status="interrupted", reason=reason, inputs=what)
    return _Pending(row, replace(timed, arrays=tuple(arrays), emulated=row.emulated))


def _graph(
    folder: Path,
    session: Session,
    found: Evaluation,
    difference: Difference | None,
    agreement: Agreement | None,
) -> Graph:
    """What is known of the graph; without labels or a reference, ``agreement`` on golden samples."""
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
        accuracy=found.accuracy,
        accuracy_note=sentence(found.error) if found.error is not None else found.note,
        trained_top1=_number(manifest.weights.record, "accuracy", "test_top1")
        or _number(manifest.weights.record, "published_top1"),
        bar=_number(manifest.weights.record, "bar"),
        agreement=found.agreement or (None if found.accuracy else agreement),
        flips=found.flips,
        skipped=found.skipped,
        skip_reason=found.skip_reason,
        difference=difference,
    )


def _number(record: object, *keys: str) -> float | None:
    """What stands under ``keys``, one within the other; None if no number does."""
    for key in keys:
        record = record.get(key) if isinstance(record, Mapping) else None
    return float(record) if isinstance(record, int | float) else None


class _Reopening:
    """Opens the sessions of rows anew, and makes their arrays anew: memory lies elsewhere then.

    The old session is closed once the new one is open, else that would get the same memory. What
    runs on a GPU stays open: its memory is laid out by pages, and an engine takes seconds.
    """

    def __init__(self, request: Request, stack: contextlib.ExitStack) -> None:
        self._request, self._stack = request, stack
        self._newer: dict[int, tuple[Session, Session]] = {}
        """By the identity of a session that was replaced: it (so that no other gets its identity),
        and its successor, which all its rows share."""

    def again(self, item: _Pending) -> Call:
        """What is to be timed of ``item`` from now on, which holds it too."""
        timed = item.timed
        assert timed is not None, "it is timed"
        old = timed.session
        if old.device == "cpu":
            if id(old) not in self._newer:
                new = load(
                    old.path,
                    device=self._request.device,
                    threads=self._request.threads,
                    precision=timed.precision,
                    options=ENGINES,
                )
                self._newer[id(old)] = old, self._stack.enter_context(new)
                old.close()
            arrays = tuple(array.copy() for array in timed.arrays)
            item.timed = timed = replace(timed, session=self._newer[id(old)][1], arrays=arrays)
        return partial(timed.session.run, *timed.arrays)


def _measure(
    pending: list[_Pending],
    plan: Plan,
    listener: Listener,
    between: Callable[[Callable[[], None]], None],
    reopening: _Reopening,
) -> bool:
    """Time all rows that are ready; whether Ctrl-C ended it."""
    ready = [(item, item.timed) for item in pending if item.timed is not None]
    if ready:
        rows = "1 row" if len(ready) == 1 else f"{len(ready)} rows"
        listener.tell(f"measuring {rows}, at least {plan.seconds:g} s each")
    with garbage_frozen():
        measured = measure(
            [partial(timed.session.run, *timed.arrays) for _, timed in ready],
            plan,
            report=partial(listener.advance, "measuring"),
            between=between,
            reopened=[partial(reopening.again, item) for item, _ in ready],
        )
    for (item, _), timing in zip(ready, measured.timings, strict=True):
        item.timing = timing
    return measured.interrupted
