"""One benchmark run: targets to artifacts, sessions, accuracies, interleaved timings, rows."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol

from repr_bench.accuracy import measure_accuracy
from repr_bench.artifacts import find_artifact
from repr_bench.environment import capture_environment
from repr_bench.errors import UsageError
from repr_bench.errors import sentence as _sentence
from repr_bench.feeds import EvaluationImages, make_feed
from repr_bench.measure import Plan, Timing, measure
from repr_bench.results import Accuracy, Graph, Results, Row, Settings, Status
from repr_runtime import Session, load
from repr_runtime.errors import PrecisionNotFoundError

DEFAULT_BATCHES = (1, 8)


class Progress(Protocol):
    """Hears how far the run is."""

    def tell(self, text: str) -> None:
        """A sentence about what is done now."""

    def advance(self, what: str, done: float, total: float) -> None:
        """``done`` of ``total`` seconds or images of ``what``."""


@dataclass(frozen=True)
class Request:
    """What to measure; ``batches`` None means 1 and 8, or what a graph is fixed to."""

    targets: tuple[str, ...]
    artifacts: Path = Path("artifacts")
    batches: tuple[int, ...] | None = None
    precisions: tuple[str, ...] = ("fp32",)
    device: str = "auto"
    threads: int | None = None
    plan: Plan = field(default_factory=Plan)
    images: EvaluationImages = field(default_factory=EvaluationImages)
    command: tuple[str, ...] = ()


@dataclass
class _Pending:
    """A row in the making: what it will be if nothing more is learnt of it, and its call."""

    row: Row
    call: Callable[[], object] | None = None
    timing: Timing | None = None

    def finished(self, plan: Plan) -> Row:
        timing = self.timing
        if timing is None:
            return self.row
        status: Status = "interrupted"
        reason = f"interrupted after {len(timing.rounds)} of {plan.rounds} rounds"
        if timing.error is not None:
            status, reason = "failed", _sentence(timing.error)
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


def run(request: Request, progress: Progress) -> Results:
    """Measure everything asked for. One artifact that fails is a row with its reason.

    Ctrl-C ends the run and keeps what was measured: ``interrupted`` says so.
    """
    started, environment = _now(), capture_environment()
    pending: list[_Pending] = []
    with contextlib.ExitStack() as stack:
        try:
            _prepare(request, progress, pending, stack)
            interrupted = _measure(request.plan, progress, pending)
        except KeyboardInterrupt:
            interrupted = True
    return Results(
        started=started,
        finished=_now(),
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
        environment=environment.after(),
        rows=tuple(item.finished(request.plan) for item in pending),
    )


def _prepare(
    request: Request, progress: Progress, pending: list[_Pending], stack: contextlib.ExitStack
) -> None:
    """Find or make each artifact, load its graphs, measure their accuracy, lay out the rows."""
    seen: dict[str, Path] = {}
    for target in request.targets:
        try:
            folder = find_artifact(target, request.artifacts, progress.tell)
        except Exception as error:  # whatever goes wrong with it is its row
            pending.append(_Pending(_row(target, None, None, "failed", _sentence(error))))
            continue
        if folder.resolve() in (path.resolve() for path in seen.values()):
            continue
        label = _label(folder, seen)
        seen[label] = folder
        for precision in request.precisions:
            pending += _rows_of_graph(request, progress, stack, label, folder, precision)


def _label(folder: Path, seen: dict[str, Path]) -> str:
    """The folder's name, or its path where two artifacts' folders have one name."""
    return folder.name if folder.name and folder.name not in seen else str(folder)


def _rows_of_graph(
    request: Request,
    progress: Progress,
    stack: contextlib.ExitStack,
    label: str,
    folder: Path,
    precision: str,
) -> Iterator[_Pending]:
    try:
        session = stack.enter_context(
            load(folder, device=request.device, precision=precision, threads=request.threads)
        )
    except PrecisionNotFoundError:
        reason = f"no {precision} graph in this artifact"
        yield _Pending(_row(label, precision, None, "absent", reason))
        return
    except Exception as error:  # whatever goes wrong with it is its row
        yield _Pending(_row(label, precision, None, "failed", _sentence(error)))
        return
    images, note = request.images.for_artifact(session.manifest)
    accuracy: Accuracy | None = None
    if session.manifest.weights.kind == "random":
        note = "random weights"
    elif images is not None:
        try:
            accuracy = measure_accuracy(
                session,
                images,
                report=lambda done, total: progress.advance(
                    f"accuracy of {label} {precision}", done, total
                ),
            )
        except Exception as error:  # the latency is still worth knowing
            note = _sentence(error)
    graph = _graph(folder, session, accuracy, note)
    for batch in request.batches or _batches(session):
        row = _row(label, precision, batch, "interrupted", "interrupted before it was measured")
        try:
            arrays, what = make_feed(session, images, batch)
        except UsageError as error:
            yield _Pending(replace(row, status="absent", reason=str(error), graph=graph))
            continue
        except Exception as error:
            yield _Pending(replace(row, status="failed", reason=_sentence(error), graph=graph))
            continue
        yield _Pending(replace(row, graph=graph, inputs=what), partial(session.run, *arrays))


def _batches(session: Session) -> tuple[int, ...]:
    return DEFAULT_BATCHES if session.batch_size is None else (session.batch_size,)


def _graph(folder: Path, session: Session, accuracy: Accuracy | None, note: str) -> Graph:
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
        accuracy=accuracy,
        accuracy_note=note,
        trained_top1=_number(manifest.weights.record, "accuracy", "test_top1"),
        bar=_number(manifest.weights.record, "bar"),
    )


def _number(record: object, *keys: str) -> float | None:
    """What stands under ``keys``, one within the other; None if no number does."""
    for key in keys:
        record = record.get(key) if isinstance(record, Mapping) else None
    return float(record) if isinstance(record, int | float) else None


def _measure(plan: Plan, progress: Progress, pending: Sequence[_Pending]) -> bool:
    """Time all rows that have a call; whether Ctrl-C ended it."""
    ready = [item for item in pending if item.call is not None]
    progress.tell(f"measuring {len(ready)} rows, at least {plan.seconds:g} s each")
    # Collecting the garbage of all that was imported is not part of a network's latency.
    gc.collect()
    gc.freeze()
    try:
        measured = measure(
            [item.call for item in ready if item.call],
            plan,
            report=partial(progress.advance, "measuring"),
        )
    finally:
        gc.unfreeze()
    for item, timing in zip(ready, measured.timings, strict=True):
        item.timing = timing
    return measured.interrupted


def _row(label: str, precision: str | None, batch: int | None, status: Status, reason: str) -> Row:
    return Row(label, precision, batch, status, reason, None, "", (), False, ())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
