"""`repr-bench --tune`: the fastest setting of ONNX Runtime for a graph on this CPU, by halving.

All candidates are timed in the same rounds; the slower half leaves, the rest is timed for longer,
until few are left (successive halving: Jamieson & Talwalkar, "Non-stochastic Best Arm
Identification and Hyperparameter Optimization", AISTATS 2016). Of those that are not measurably
slower than the fastest, the first in the list, the simplest, is taken.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from repr_bench.artifacts import find_artifact
from repr_bench.errors import sentence
from repr_bench.measuring.measure import Call, Clock, Plan, garbage_frozen, measure
from repr_bench.peers.check import why_not_same
from repr_bench.peers.ours import OursRunner, plan_for, timed_call, timed_row
from repr_bench.request import Listener, Request
from repr_bench.results.peers import Measure, PeerRow, ratio
from repr_bench.statistics.intervals import times
from repr_runtime import load
from repr_runtime.backends.tuning import Setting, store, this_machine, tuning_subject
from repr_runtime.machine import usable_cores

KEPT = 3
"""As many are timed to the end."""
STAGE_ROUNDS = 4
THROUGHPUT_BATCHES = (1, 8, 32)

Outcome = Literal["chosen", "finalist", "dropped", "failed"]


@dataclass
class Candidate:
    """A setting, the call that is timed, and what was seen of it."""

    setting: Setting
    row: PeerRow
    call: Call | None = None
    outcome: Outcome = "dropped"


def candidates(goal: str, cores: int, batches: Sequence[int]) -> list[Setting]:
    """What is tried, the simplest first; with each the batch that it is for."""
    threads = sorted({cores, *(t for t in (1, 2, 4, 8, 16) if t < cores)})
    if goal == "latency":
        found = [Setting(), *(Setting(threads=t) for t in threads)]
        found += [Setting(threads=t, spinning=False) for t in threads if t > 1]
        found += [Setting(threads=t, optimization="extended") for t in threads]
        found += [Setting(threads=t, memory_pattern=False) for t in threads]
        found += [Setting(threads=t, arena=False, memory_pattern=False) for t in threads]
        return [replace(setting, batch=batches[0]) for setting in found]
    found = [Setting()]
    found += [Setting(threads=t, instances=cores // t) for t in threads if cores % t == 0]
    found += [
        Setting(threads=t, instances=cores // t, spinning=False)
        for t in threads
        if cores % t == 0 and 1 < t < cores
    ]
    found.append(Setting(threads=1, instances=cores, optimization="extended"))
    found.append(Setting(threads=1, instances=cores, arena=False, memory_pattern=False))
    # One instance with all cores as its threads is the default itself, but for their binding.
    found = [s for s in found if s != Setting(threads=cores) or cores == 1]
    return [replace(s, batch=batch) for s in dict.fromkeys(found) for batch in batches]


def tune(request: Request, goal: str, listener: Listener, console: Console) -> int:
    """Tune every target and precision of ``request``, print the searches, keep what was found.

    The exit status: 0, or 1 if one of them failed.
    """
    status = 0
    for target in request.targets:
        for precision in request.precisions:
            try:
                own = request.own_for(target)
                folder = find_artifact(
                    target, request.artifacts, listener.tell, request.precisions, own
                )
                found, path = tune_artifact(request, folder, precision, goal, listener)
            except Exception as error:  # whatever goes wrong with one, the others go on
                console.print(Text(f"{target} {precision}: {sentence(error)}"), soft_wrap=True)
                status = 1
                continue
            print_search(found, console)
            console.print(Text(f"kept for load(…, tuned={goal!r}): {path}"), soft_wrap=True)
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
    """Search the setting for one graph, and keep it in the cache; the candidates and the file.

    Raises what ``load`` raises, and ``OSError`` if the cache cannot be written.
    """
    which: Measure = "latency" if goal == "latency" else "throughput"
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(load(folder, device="cpu", precision=precision))
        images, _ = request.images.for_artifact(session.manifest)
        batches = request.batches or ((1,) if goal == "latency" else THROUGHPUT_BATCHES)
        batches = batches if session.batch_size is None else (session.batch_size,)
        given = OursRunner(session).given(images, batches)
        found = []
        opened: dict[Setting, OursRunner] = {}
        for setting in candidates(goal, request.threads or usable_cores(), batches):
            bare = replace(setting, batch=None)
            row = PeerRow(
                label=folder.name,
                precision=precision,
                measure=which,
                batch=setting.batch,
                peer=str(bare),
                status="failed",
            )
            candidate = Candidate(setting, row)
            found.append(candidate)
            try:
                if bare not in opened:
                    runner = OursRunner(load(folder, device="cpu", precision=precision, tuned=bare))
                    stack.callback(runner.close)
                    same = given.same_answers(runner.logits, runner.chunk)
                    if different := why_not_same(same, precision):
                        raise ValueError(different)
                    opened[bare] = runner
                assert setting.batch is not None, "each is for one"
                prepared = opened[bare].prepare(given.inputs[setting.batch])
                candidate.call, times = timed_call(prepared, which, request.plan, clock)
                count = times * setting.batch
                candidate.row = replace(row, images=count, settings=prepared.settings)
            except Exception as error:  # this one cannot be had
                candidate.row, candidate.outcome = replace(row, reason=sentence(error)), "failed"
        listener.tell(f"tuning {folder.name} {precision} for {goal}: {len(found)} settings")
        with garbage_frozen():
            chosen = search(found, request.plan, listener, f"tuning {folder.name}", clock)
    record = {"candidates": [_record(each) for each in found]}
    subject = tuning_subject(session.manifest, precision)
    return found, store(goal, [chosen.setting], subject, this_machine(), search=record)


def search(
    every: Sequence[Candidate],
    plan: Plan,
    listener: Listener,
    what: str,
    clock: Clock = time.perf_counter_ns,
) -> Candidate:
    """Halve until ``KEPT`` are left, which get the whole plan; marks outcomes, returns the chosen.

    The first candidate, the default, is never dropped. Raises ``ValueError`` if none can be
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
    """The first that is not measurably slower than the fastest (95 % interval of their ratio)."""
    fastest = min(finalists, key=lambda each: float(each.row.log_ns.mean()))
    for each in finalists:
        found = ratio(fastest.row, each.row)
        assert found is not None, "both were measured"
        slower = found.figure.interval.low > 1 if found.figure.interval else found.figure.value > 1
        if not slower:
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
            Text(_against(found[0], each)),
            Text(row.reason or each.outcome),
            style="bold" if each.outcome == "chosen" else "",
        )
    console.print(table)


def _against(default: Candidate, each: Candidate) -> str:
    """How many times as fast the setting is as the default, where both went to the end."""
    last = ("chosen", "finalist")
    if each is default or each.outcome not in last or default.outcome not in last:
        return "-"
    found = ratio(each.row, default.row)
    return "-" if found is None else times(found.figure)


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
