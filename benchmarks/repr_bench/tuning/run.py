"""`repr-bench --tune`: the fastest library, graph, threads and instances for a network on this CPU.

Each batch size is searched by itself, among candidates that answer as the reference does.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from repr_bench.accuracy.golden import compare_golden
from repr_bench.artifacts import find_artifact
from repr_bench.errors import sentence
from repr_bench.measuring.measure import Clock, garbage_frozen
from repr_bench.peers.base import Prepared
from repr_bench.peers.check import why_not_same
from repr_bench.peers.ours import Given, OursRunner
from repr_bench.request import Listener, Request
from repr_bench.results.peers import PeerRow
from repr_bench.tuning.search import (
    Candidate,
    drop_far_behind,
    gain,
    lengthen,
    quiet_log_ns,
    search,
)
from repr_bench.tuning.ways import variants, ways
from repr_runtime import Manifest, Session, load
from repr_runtime.backends.openvino.compiling import why_not
from repr_runtime.backends.tuning import (
    GOALS,
    TARGETS,
    Setting,
    store,
    this_machine,
    tuning_subject,
)
from repr_runtime.machine import usable_cores

BATCHES = {"latency": (1,), "throughput": (1, 8, 32)}


def tune(request: Request, goal: str, listener: Listener, console: Console) -> int:
    """Tune every target and precision of ``request``, print the searches, keep what was found.

    ``goal`` may be ``all`` of them. The exit status: 0, or 1 if one of them failed; a precision
    that this CPU does not compute is said, and is no failure.
    """
    status, goals = 0, GOALS if goal == "all" else (goal,)
    chosen: list[Candidate] = []
    every = [(target, precision) for target in request.targets for precision in request.precisions]
    for number, (target, precision) in enumerate(every, 1):
        listener.tell(f"tuning {target} in {precision} ({number} of {len(every)})")
        if precision == "bf16" and (reason := why_not(precision)) is not None:
            console.print(Text(f"{target} {precision}: not tuned: {reason}"), soft_wrap=True)
            continue
        try:
            own = request.own_for(target)
            folder = find_artifact(
                target, request.artifacts, listener.tell, request.precisions, own
            )
            searches = tune_artifact(request, folder, precision, goals, listener)
            for each, (found, path) in zip(goals, searches, strict=True):
                print_search(found, console)
                console.print(Text(f"kept for load(…, tuned={each!r}): {path}"), soft_wrap=True)
                chosen += [one for one in found if one.outcome == "chosen"]
        except Exception as error:  # whatever goes wrong with one, the others go on
            console.print(Text(f"{target} {precision}: {sentence(error)}"), soft_wrap=True)
            status = 1
    if len(every) * len(goals) > 1 and chosen:
        console.print(Text("Chosen:"))
        print_search(chosen, console)
    return status


def tune_artifact(
    request: Request,
    folder: Path,
    precision: str,
    goals: Sequence[str],
    listener: Listener,
    *,
    clock: Clock = time.perf_counter_ns,
) -> Iterator[tuple[list[Candidate], Path]]:
    """Search the settings for one graph by each goal and batch size, and keep them in the cache.

    Yields the candidates and the file, for each goal. Raises what ``load`` raises, ``ValueError``
    where nothing can be timed, and ``OSError`` if the cache cannot be written.
    """
    device = "openvino" if precision == "bf16" else "cpu"
    plain = Setting("openvino" if precision == "bf16" else "onnxruntime")
    with load(folder, device=device, precision=precision, tuned=plain) as session:
        manifest = session.manifest
        images, _ = request.images.for_artifact(manifest)
        own = request.batches if session.batch_size is None else (session.batch_size,)
        batches = {goal: own or BATCHES[goal] for goal in goals}
        reference = OursRunner(session)
        given = reference.given(images, sorted({*chain(*batches.values())}))
        reference.close()
    bench = _Bench(request, folder, manifest, precision, given, listener, clock)
    for goal in goals:
        found, kept = list[Candidate](), list[Candidate]()
        for batch in batches[goal]:
            tried, best = bench.search_at(goal, batch)
            found += tried
            kept += best
        record = {"candidates": [_record(each) for each in found]}
        if goal == "throughput":  # a latency's is that of the first batch, where no size is named
            kept.sort(key=quiet_log_ns)
        kept.sort(key=lambda each: each.outcome != "chosen")
        settings = [each.setting for each in kept]
        subject = tuning_subject(manifest, precision)
        yield found, store(goal, settings, subject, this_machine(), search=record)


@dataclass
class _Bench:
    """One graph: opens candidates, checks them, searches by one goal at one batch size."""

    request: Request
    folder: Path
    manifest: Manifest
    precision: str
    given: Given
    listener: Listener
    clock: Clock
    checked: dict[Setting, str] = field(default_factory=dict)

    def search_at(self, goal: str, batch: int) -> tuple[list[Candidate], list[Candidate]]:
        """The candidates, and of each library the best, the chosen one first."""
        graphs = (self.manifest.graph(self.precision, target) for target in TARGETS)
        there = {graph.target for graph in graphs if graph is not None}
        # The graph for CPUs is the faster one in OpenVINO too: export/README.md has the ratios.
        targets = [target for target in TARGETS if target in there][:1] or ["cpu"]
        cores = self.request.threads or usable_cores()
        settings = ways(goal, cores, self.precision, targets)
        what = f"tuning {self.folder.name} {self.precision} for {goal} at batch {batch}"
        with contextlib.ExitStack() as stack:
            found = [self._opened(setting, goal, batch, stack) for setting in settings]
            with garbage_frozen():
                best = self._best(found, what)
                more = []
                if goal == "latency":  # with its threads for itself alone
                    more = [self._opened(s, goal, batch, stack) for s in variants(best.setting)]
                if more:
                    best.outcome = "finalist"
                    again = [found[0], *([best] if best is not found[0] else [])]
                    found += more
                    best = self._best([*again, *more], f"{what}, options")
        others = [each for each in found if each.setting.library != best.setting.library]
        timed = [each for each in others if each.row.status == "measured"]
        return found, [best, *sorted(timed, key=quiet_log_ns)[:1]]

    def _opened(
        self, setting: Setting, goal: str, batch: int, stack: contextlib.ExitStack
    ) -> Candidate:
        row = PeerRow(
            label=self.folder.name,
            precision=self.precision,
            measure="latency" if goal == "latency" else "throughput",
            batch=batch,
            peer=str(replace(setting, batch=None)),
            status="failed",
        )
        candidate = Candidate(replace(setting, batch=batch), row)
        try:
            device = "openvino" if setting.library == "openvino" else "cpu"
            session = load(
                self.folder, device=device, precision=self.precision, tuned=setting, batch=batch
            )
            runner = OursRunner(session)
            stack.callback(runner.close)
            prepared = runner.prepare(self.given.inputs[batch])
            if different := self._different(setting, session, prepared, batch):
                raise ValueError(different)
            candidate.row = replace(row, settings=prepared.settings)
            candidate.prepared, candidate.call = prepared, prepared.call
        except Exception as error:  # this one cannot be had
            candidate.fail(sentence(error))
        return candidate

    def _different(self, setting: Setting, session: Session, prepared: Prepared, batch: int) -> str:
        """How it answers otherwise than the reference; of each library and graph one is asked."""
        kind = Setting(setting.library, setting.target, optimization=setting.optimization)
        if kind not in self.checked:
            same = self.given.same_answers(prepared.logits, batch)
            found = why_not_same(same, self.precision)
            difference, _ = compare_golden(session, self.request.tolerance)
            if not found and difference is not None and not difference.within:
                found = str(difference)
            self.checked[kind] = found
        return self.checked[kind]

    def _best(self, found: Sequence[Candidate], what: str) -> Candidate:
        """The chosen one, whose own answers are the reference's."""
        for each in found:
            each.one_turn()
        drop_far_behind(found, self.clock)
        if found[0].row.measure == "throughput":
            lengthen(found, self.request.plan)
        while True:
            chosen = search(found, self.request.plan, self.listener, what, self.clock)
            assert chosen.prepared is not None, "it was timed"
            assert chosen.row.batch is not None, "each is for one"
            same = self.given.same_answers(chosen.prepared.logits, chosen.row.batch)
            if not (different := why_not_same(same, self.precision)):
                break
            chosen.fail(different)
        for each in found:
            each.gain = gain(found[0], each)
        return chosen


def print_search(found: Sequence[Candidate], console: Console) -> None:
    """Print the candidates with their figures, and which one was chosen."""
    plain = not console.is_terminal
    table = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False)
    words = ("network", "precision", "setting", "")
    for title in (*words[:2], "batch", "setting", "p50 ms", "images/s", "default is", ""):
        table.add_column(Text(title), justify="left" if title in words else "right", no_wrap=plain)
    for each in found:
        row = each.row
        timed = row.latency_ms.get(50) if row.measure == "latency" else None
        table.add_row(
            *map(Text, (row.label, row.precision, str(row.batch), row.peer)),
            *map(Text, (str(timed or "-"), str(row.images_per_second or "-"))),
            Text(each.gain),
            Text(row.reason or each.outcome),
            style="bold" if each.outcome == "chosen" else "",
        )
    console.print(table)


def _record(each: Candidate) -> dict[str, Any]:
    row = each.row
    figure = row.latency_ms.get(50) if row.measure == "latency" else row.images_per_second
    return {
        "setting": row.peer,
        "batch": row.batch,
        "outcome": each.outcome,
        "reason": row.reason,
        "unit": "ms" if row.measure == "latency" else "images/s",
        "value": figure and figure.value,
        "interval": figure and figure.interval,
        "rounds": len(row.rounds_ns),
    }
