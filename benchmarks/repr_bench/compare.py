"""Two runs side by side: rows matched, each with a verdict, and what else differs between them."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from repr_bench.results.comparison import Comparison, MachineShift, RowVerdict, Verdict
from repr_bench.results.machine import stolen_share, turn_seconds, waited_share
from repr_bench.results.results import Results
from repr_bench.results.row import Row
from repr_bench.statistics.intervals import Interval
from repr_bench.statistics.shift import FEWEST_ROUNDS, Shift, shift
from repr_bench.statistics.verdict import (
    CONFIDENCE,
    COPIES_FROM_BYTES,
    judge,
    log_medians,
    steadied,
    waiting_excess,
)

_LARGEST_LOG = 20.0
"""Ends of intervals are shown up to exp(20): beyond, a figure says no more than infinity."""
_VERDICTS: dict[float, Verdict] = {1.0: "slower", -1.0: "faster", 0.0: "same"}
_PRODUCT, _COPY, _CLOCK = "matrix product", "memory copy", "GPU clock"


def compare(old: Results, new: Results, place: str, least_percent: float) -> Comparison:
    """The verdicts on ``new`` as against ``old``, which came from the file ``place``.

    Rows are matched by label, precision and batch; one that only a single run has says so.
    ``least_percent`` is the smallest difference that counts.
    """
    readings = _readings(old, new)
    machine: list[MachineShift] = []
    for what, (_, found) in readings.items():
        value, half = float(found.value), float(found.half_width(CONFIDENCE))
        ratios = _ratios(value - half, value + half)
        machine.append(MachineShift(what, math.exp(value), ratios))
    kept = [max(1e-3, 1 - waited_share(run.machine)) for run in (old, new)]
    for what, ratio in (
        ("waiting for a CPU, long calls", kept[0] / kept[1]),
        (_CLOCK, math.exp(_clock_change(old, new))),
    ):
        if ratio != 1.0:
            machine.append(MachineShift(what, ratio, None))
    earlier = {_key(row): row for row in old.rows if row.batch is not None}
    later = {_key(row): row for row in new.rows if row.batch is not None}
    rows = [
        _compared(old, new, earlier[key], row, readings, least_percent / 100)
        if key in earlier
        else RowVerdict(*key, "only new")
        for key, row in later.items()
    ]
    rows += [RowVerdict(*key, "only old") for key in earlier if key not in later]
    return Comparison(
        old=place,
        started=old.started,
        least_percent=least_percent,
        confidence=CONFIDENCE,
        machine=tuple(machine),
        warnings=tuple(_run_differences(old, new)),
        rows=tuple(rows),
    )


class _Reading(NamedTuple):
    """One part of the reference load: its log timings in the old run and in the new one, compared."""

    series: tuple[NDArray[np.float64], NDArray[np.float64]]
    shift: Shift


def _compared(
    old: Results,
    new: Results,
    before: Row,
    after: Row,
    readings: Mapping[str, _Reading],
    least: float,
) -> RowVerdict:
    """The verdict on a row of both runs."""
    verdict_of = partial(RowVerdict, *_key(after), warnings=tuple(_row_differences(before, after)))
    rounds = min(len(before.rounds_ns), len(after.rounds_ns))
    if rounds < FEWEST_ROUNDS:
        reason = f"{rounds} rounds, and {FEWEST_ROUNDS} are needed"
        missing = next((r.reason for r in (after, before) if not r.samples and r.reason), "")
        return verdict_of("cannot tell", reason=missing or reason)
    waited = [_waited(old, before), _waited(new, after)]
    felt = {
        what: reading
        for what, reading in readings.items()
        if what == _PRODUCT or _moves_memory(before) or _moves_memory(after)
    }
    first, second = (
        steadied(log_medians(row.rounds_ns), [reading.series[k] for reading in felt.values()])
        for k, row in enumerate((before, after))
    )
    machine = {what: float(reading.shift.value) for what, reading in felt.items()}
    machine["waiting"] = waited[1] - waited[0] if max(waited) < math.inf else math.inf
    if _on_gpu(before) or _on_gpu(after):
        machine[_CLOCK] = _clock_change(old, new)
    found = judge(first, second, machine=tuple(machine.values()), least=least)
    verdict, reason = _VERDICTS.get(float(found.verdict), "cannot tell"), ""
    if not readings:
        verdict = "cannot tell"
        reason = "whether the machine itself changed is unknown: a run has no reference load"
    elif verdict == "cannot tell":
        value, half = float(found.value), float(found.half)
        reason = _why(value, half, least, machine)
        if max(waited) == math.inf:
            share = max(waited_share(run.machine) for run in (old, new))
            reason = f"the process waited for a CPU {share:.0%} of its time"
    ratios = _ratios(float(found.low), float(found.high))
    return verdict_of(verdict, math.exp(float(found.value)), ratios, reason)


def _why(value: float, half: float, least: float, machine: dict[str, float]) -> str:
    """Why nothing can be told: the machine's part first, then the row's own spread."""
    told = half < abs(value) >= math.log1p(least) or abs(value) + half < math.log1p(least)
    if told:  # but for the machine's change
        what, most = max(machine.items(), key=lambda item: abs(item[1]))
        way = "slower" if most > 0 else "faster"
        return f"the machine itself was {math.expm1(abs(most)):.1%} {way} ({what})"
    if half > math.log1p(least):
        return f"its rounds spread too much: a change below {math.expm1(half):.1%} does not show"
    return "the difference is about as large as the smallest that counts"


def _key(row: Row) -> tuple[str, str | None, int | None]:
    return row.label, row.precision, row.batch


def _readings(old: Results, new: Results) -> dict[str, _Reading]:
    """The reference load's; the fastest of its timings each time, for others only add to it."""
    found: dict[str, _Reading] = {}
    if old.reference_load is None or new.reference_load is None:
        return found
    for what, *parts in (
        (_PRODUCT, old.reference_load.product_ns, new.reference_load.product_ns),
        (_COPY, old.reference_load.copy_ns, new.reference_load.copy_ns),
    ):
        if min(map(len, parts)) >= FEWEST_ROUNDS:
            before, after = (np.log([max(1, min(times)) for times in part]) for part in parts)
            found[what] = _Reading(
                (before, after), shift(steadied(before, [before]), steadied(after, [after]))
            )
    return found


def _ratios(low: float, high: float) -> Interval:
    """The ends of an interval of logarithms as ratios."""
    return Interval(*(math.exp(max(-_LARGEST_LOG, min(_LARGEST_LOG, e))) for e in (low, high)))


def _waited(run: Results, row: Row) -> float:
    """What waiting for a CPU, and what the hypervisor took, added to a row's log median."""
    excess = waiting_excess(row.rounds_ns, turn_seconds(run.machine), waited_share(run.machine))
    return excess - math.log1p(-min(0.999, stolen_share(run.machine)))


def _clock_change(old: Results, new: Results) -> float:
    """The log ratio by which the fastest GPU's clock would lengthen what runs on it; 0 unknown."""
    clocks = []
    for run in (old, new):
        seen = [max((gpu.clock_mhz or 0 for gpu in r.gpus), default=0) for r in run.machine]
        clocks.append(float(np.median(seen)) if seen else 0.0)
    return math.log(clocks[0] / clocks[1]) if min(clocks) > 0 else 0.0


def _on_gpu(row: Row) -> bool:
    return row.graph is not None and row.graph.device != "cpu"


def _moves_memory(row: Row) -> bool:
    return row.graph is None or row.graph.bytes > COPIES_FROM_BYTES


def _row_differences(old: Row, new: Row) -> Iterator[str]:
    """What, besides time, sets one row's two measurements apart."""
    if old.graph and new.graph:
        if old.graph.sha256 != new.graph.sha256:
            yield "another graph (its hash differs)"
        if old.graph.device != new.graph.device:
            yield f"another device: {old.graph.device}, now {new.graph.device}"
        elif old.graph.choice != new.graph.choice:
            yield f"run by {old.graph.choice}, now by {new.graph.choice}"
    if old.inputs != new.inputs and old.inputs and new.inputs:
        yield f"fed with {old.inputs}, now with {new.inputs}"


def _run_differences(old: Results, new: Results) -> Iterator[str]:
    """What sets the two runs apart as a whole."""
    before, after = old.environment, new.environment
    for what, was, now in (
        ("CPU", before.cpu, after.cpu),
        ("usable CPUs", before.usable_cpus, after.usable_cpus),
        ("CPU quota", before.cpu_quota, after.cpu_quota),
        ("GPU", "; ".join(before.gpus), "; ".join(after.gpus)),
        ("governor", before.governor, after.governor),
        ("Python", before.python, after.python),
        ("threads", old.settings.threads or "all", new.settings.threads or "all"),
    ):
        if was != now:
            yield f"{what}: {was or 'none'}, now {now or 'none'}"
    for name in sorted(before.versions.keys() | after.versions.keys()):
        was, now = (env.versions.get(name, "none") for env in (before, after))
        if was != now:
            yield f"{name}: {was}, now {now}"
