"""`repr-bench --tune`: the fastest library, graph, threads and instances for a network on this CPU.

For each batch size all candidates are opened and looked at for a moment; those that are far behind
leave. The others are timed in the same rounds; the slower half leaves, the rest is timed for longer,
until few are left (successive halving: Jamieson & Talwalkar, "Non-stochastic Best Arm
Identification and Hyperparameter Optimization", AISTATS 2016). Of those that are not measurably
slower than the fastest, nor by more than 2 %, the first in the list, the simplest, is taken.
"""

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from repr_bench.accuracy.golden import compare_golden
from repr_bench.artifacts import find_artifact
from repr_bench.errors import sentence
from repr_bench.measuring.measure import Call, Clock, Plan, garbage_frozen, measure, took
from repr_bench.peers.base import Prepared
from repr_bench.peers.check import why_not_same
from repr_bench.peers.ours import Given, OursRunner, plan_for, timed_call, timed_row
from repr_bench.request import Listener, Request
from repr_bench.results.peers import Measure, PeerRow, ratio
from repr_bench.statistics.intervals import Figure, times
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

KEPT = 3
"""As many are timed to the end."""
STAGE_ROUNDS = 4
FAR_BEHIND = 1.4
"""So many times the fastest one's time is too slow to be worth more than a look."""
ALIKE = 1.02
"""Two settings nearer than this are as good, if their rounds do not tell them apart."""
LOOKS = 3
LOOK_NS = 5_000_000
BATCHES = {"latency": (1,), "throughput": (1, 8, 32)}

Outcome = Literal["chosen", "finalist", "dropped", "failed"]


@dataclass
class Candidate:
    """A setting, the call that is timed, and what was seen of it.

    ``gain``: how many times as fast it is as the default, where that is known.
    """

    setting: Setting
    row: PeerRow
    call: Call | None = None
    outcome: Outcome = "dropped"
    prepared: Prepared | None = None
    gain: str = "-"

    def fail(self, reason: str) -> None:
        """It is out, for that reason."""
        self.row, self.outcome = replace(self.row, reason=reason, status="failed"), "failed"
        self.call = None


def ways(goal: str, cores: int, precision: str, targets: Sequence[str]) -> list[Setting]:
    """What is tried of both libraries, the simplest first, ONNX Runtime's default before all.

    ``targets`` are those that the precision has graphs for: OpenVINO tries each, ONNX Runtime, to
    which TensorRT's int8 graph is none, the one for CPUs.
    """
    threads = sorted({cores, *(t for t in (1, 2, 4, 8, 16) if t < cores)})
    if goal == "latency":
        shares = [(t, 1) for t in threads]
    else:
        shares = [(t, cores // t) for t in threads if cores % t == 0]
    found = []
    if precision != "bf16":  # which it does not compute
        found += [Setting(), *(Setting(threads=t, instances=n) for t, n in shares)]
    if why_not(precision) is None:
        found += [
            Setting("openvino", target, threads=t, instances=n)
            for target in targets
            for t, n in shares
        ]
    # One instance with all cores as its threads is the default itself, but for their binding.
    return [s for s in found if s != Setting(threads=cores) or goal == "latency" or cores == 1]


def variants(setting: Setting) -> list[Setting]:
    """``setting`` with options of ONNX Runtime changed, where it is the library."""
    if setting.library != "onnxruntime":
        return []
    found = [replace(setting, optimization="extended")]
    found += [replace(setting, arena=False, memory_pattern=False)]
    return found + ([replace(setting, spinning=False)] if setting.threads not in (None, 1) else [])


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
            for each in goals:
                found, path = tune_artifact(request, folder, precision, each, listener)
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
    goal: str,
    listener: Listener,
    *,
    clock: Clock = time.perf_counter_ns,
) -> tuple[list[Candidate], Path]:
    """Search the settings for one graph at each batch size, and keep them in the cache.

    Returns the candidates and the file. Raises what ``load`` raises, ``ValueError`` where nothing
    can be timed, and ``OSError`` if the cache cannot be written.
    """
    device = "openvino" if precision == "bf16" else "cpu"
    plain = Setting("openvino" if precision == "bf16" else "onnxruntime")
    with load(folder, device=device, precision=precision, tuned=plain) as session:
        manifest = session.manifest
        images, _ = request.images.for_artifact(manifest)
        batches = request.batches or BATCHES[goal]
        batches = batches if session.batch_size is None else (session.batch_size,)
        reference = OursRunner(session)
        given = reference.given(images, batches)
        reference.close()
    bench = _Bench(request, folder, manifest, precision, goal, given, listener, clock)
    found, kept = list[Candidate](), list[Candidate]()
    for batch in batches:
        tried, best = bench.search_at(batch)
        found += tried
        kept += best
    record = {"candidates": [_record(each) for each in found]}
    if goal == "throughput":  # a latency's is that of the first batch, where no size is named
        kept.sort(key=lambda each: float(each.row.log_ns.mean()))
    kept.sort(key=lambda each: each.outcome != "chosen")
    settings = [each.setting for each in kept]
    subject = tuning_subject(manifest, precision)
    return found, store(goal, settings, subject, this_machine(), search=record)


@dataclass
class _Bench:
    """One graph and goal: opens candidates, checks them, searches at one batch size."""

    request: Request
    folder: Path
    manifest: Manifest
    precision: str
    goal: str
    given: Given
    listener: Listener
    clock: Clock
    checked: dict[Setting, str] = field(default_factory=dict)

    @property
    def measure(self) -> Measure:
        return "latency" if self.goal == "latency" else "throughput"

    def search_at(self, batch: int) -> tuple[list[Candidate], list[Candidate]]:
        """The candidates, and of each library the best, the chosen one first."""
        targets = dict.fromkeys(
            entry.target
            for target in TARGETS
            if (entry := self.manifest.graph(self.precision, target)) is not None
        )
        cores = self.request.threads or usable_cores()
        some = [target for target in targets if target in TARGETS] or ["cpu"]
        settings = ways(self.goal, cores, self.precision, some)
        what = f"tuning {self.folder.name} {self.precision} for {self.goal} at batch {batch}"
        with contextlib.ExitStack() as stack:
            found = [self._opened(setting, batch, stack) for setting in settings]
            with garbage_frozen():
                best = self._best(found, what)
                if batch == min(self.given.inputs):  # its options, where it is simplest to see them
                    more = [self._opened(s, batch, stack) for s in variants(best.setting)]
                    if more:
                        best.outcome = "dropped"
                        found += more
                        best = self._best([best, *more], f"{what}, options")
        for each in found:
            each.gain = _gain(found[0], each)
        others = [each for each in found if each.setting.library != best.setting.library]
        timed = [each for each in others if each.row.status == "measured"]
        return found, [best, *sorted(timed, key=lambda each: float(each.row.log_ns.mean()))[:1]]

    def _opened(self, setting: Setting, batch: int, stack: contextlib.ExitStack) -> Candidate:
        row = PeerRow(
            label=self.folder.name,
            precision=self.precision,
            measure=self.measure,
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
            candidate.prepared = prepared
            candidate.call, count = timed_call(
                prepared, self.measure, self.request.plan, self.clock
            )
            candidate.row = replace(row, images=count * batch, settings=prepared.settings)
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
        drop_far_behind(found, self.clock)
        while True:
            chosen = search(found, self.request.plan, self.listener, what, self.clock)
            assert chosen.prepared is not None, "it was timed"
            assert chosen.row.batch is not None, "each is for one"
            same = self.given.same_answers(chosen.prepared.logits, chosen.row.batch)
            if not (different := why_not_same(same, self.precision)):
                return chosen
            chosen.fail(different)


def drop_far_behind(found: Sequence[Candidate], clock: Clock = time.perf_counter_ns) -> None:
    """Look at each for a moment, and time those no more that take ``FAR_BEHIND`` times as long.

    What was seen stays in their rows, as one round.
    """
    seen = [list[int]() for _ in found]
    for each, samples in LOOKS * [*zip(found, seen, strict=True)]:  # a moment's noise is not one's
        if each.call is None:
            continue
        try:
            each.call()
            begin = clock()
            samples.append(took(each.call, clock))
            while clock() - begin < LOOK_NS:
                samples.append(took(each.call, clock))
        except Exception as error:  # whatever a library raises
            each.fail(sentence(error))
    looked = [(each, samples) for each, samples in zip(found, seen, strict=True) if each.call]
    fastest = min((min(samples) / each.row.images for each, samples in looked), default=0.0)
    for each, samples in looked:
        each.row = replace(each.row, status="measured", rounds_ns=(tuple(samples),))
        if min(samples) > FAR_BEHIND * fastest * each.row.images:
            each.call = None


def search(
    every: Sequence[Candidate],
    plan: Plan,
    listener: Listener,
    what: str,
    clock: Clock = time.perf_counter_ns,
) -> Candidate:
    """Halve until ``KEPT`` are left, which get the whole plan; marks outcomes, returns the chosen.

    The first that is timed, the simplest, is never dropped. Raises ``ValueError`` if none can be
    timed.
    """
    alive = [each for each in every if each.call is not None]
    stages = 0
    while len(alive) > KEPT:
        stages += 1
        # As much time for each stage in all: half as many candidates, twice as long.
        short = replace(
            plan,
            seconds=min(plan.seconds, plan.seconds * KEPT / len(alive)),
            samples=STAGE_ROUNDS,
            rounds=STAGE_ROUNDS,
        )
        alive = _timed(alive, short, listener, f"{what}, stage {stages}", clock)
        fastest = sorted(alive, key=lambda each: float(each.row.log_ns.mean()))
        kept = fastest[: max(KEPT, len(alive) // 2)]
        if alive and alive[0] not in kept:
            kept[-1] = alive[0]
        alive = [each for each in alive if each in kept]
    last = plan_for(alive[0].row.measure, plan) if alive else plan
    alive = _timed(alive, last, listener, f"{what}, last stage", clock)
    if not alive:
        reasons = dict.fromkeys(each.row.reason for each in every)
        raise ValueError(f"no setting could be timed: {'; '.join(reasons)}")
    for each in alive:
        each.outcome = "finalist"
    chosen = choose(alive)
    chosen.outcome = "chosen"
    return chosen


def choose(finalists: Sequence[Candidate]) -> Candidate:
    """The first that is not slower than the fastest: by ``ALIKE`` at most, and not measurably.

    That is, the 95 % interval of their ratio has 1 in it.
    """
    fastest = min(finalists, key=lambda each: float(each.row.log_ns.mean()))
    for each in finalists:
        found = ratio(fastest.row, each.row)
        assert found is not None, "both were measured"
        value, interval = found.figure
        if value <= ALIKE and (interval.low if interval else value) <= 1:
            return each
    return fastest


def _timed(
    alive: Sequence[Candidate], plan: Plan, listener: Listener, what: str, clock: Clock
) -> list[Candidate]:
    """Those that could be timed, with what was seen. Raises ``KeyboardInterrupt``."""
    calls = [each.call for each in alive if each.call is not None]
    measured = measure(calls, plan, clock=clock, report=partial(listener.advance, what))
    if measured.interrupted:
        raise KeyboardInterrupt
    for each, timing in zip(alive, measured.timings, strict=True):
        each.row = timed_row(each.row, timing, plan)
        each.outcome = "dropped" if timing.error is None else "failed"
    return [each for each in alive if each.outcome != "failed"]


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


def _gain(default: Candidate, each: Candidate) -> str:
    """By rounds where both went to the end; else, of the chosen one, by what was seen of each."""
    last = ("chosen", "finalist")
    if each is default or each.outcome not in last or default.row.status != "measured":
        return "-"
    if default.outcome in last and (found := ratio(each.row, default.row)) is not None:
        return times(found.figure)
    logs = float(default.row.log_ns.mean() - each.row.log_ns.mean())
    return times(Figure(math.exp(logs), None)) if each.outcome == "chosen" else "-"


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
