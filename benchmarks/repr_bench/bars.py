"""What repr-deploy promises of a CPU: `python -m repr_bench.bars RESULTS.json`.

Each bar holds for the geometric mean over networks, and on no network may ours be slower than its
floor allows. Ours is judged against the best peer of each network and batch size, whichever that
is; lower precisions also against our own fp32, with the accuracy that they may cost. What a CPU
lacks is not asked of it. The file is that of `repr-bench --all-bundled --peers --precision
fp32,bf16,int8 --batch 1,8,32 --json`; with `--roofline --profile` it also says, of a bar that is not
held, what holding it would take. What `Session.run` costs is `repr_bench.overhead`'s matter.
"""

import argparse
import math
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from repr_bench.errors import BenchError
from repr_bench.results.file import read_results
from repr_bench.results.peers import Measure, Overall, PeerRow, Ratio, ratio, ratios_to_best
from repr_bench.results.results import Results
from repr_bench.results.roofline import Roofline
from repr_bench.results.row import Row
from repr_bench.statistics.intervals import times

PRECISIONS = ("fp32", "bf16", "int8")
_NEEDS = {
    "bf16": {"amx_bf16", "avx512_bf16"},
    "int8": {"amx_int8", "avx512_vnni", "avx_vnni"},
}
"""A precision's instruction sets on x86, one of which a CPU has that computes it."""


@dataclass(frozen=True)
class Case:
    """What a bar is judged by, such as fp32 at batch 8: a ratio for each network.

    ``wanted`` are the networks that should have one. ``excused`` says why none is asked of this
    CPU, or is empty; ``spoiled`` what speaks against it whatever the speed.
    """

    name: str
    ratios: Sequence[Ratio] = ()
    wanted: Collection[str] = ()
    excused: str = ""
    spoiled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bar:
    """A promise: ours must be at least ``bar`` times as fast, and on no network less than ``floor``.

    ``cases`` are those that it must hold in.
    """

    what: str
    bar: float
    floor: float
    cases: Callable[[Results], Iterator[Case]]


@dataclass(frozen=True)
class Finding:
    """A bar against what was measured in one case: ``found`` is None where nothing was."""

    bar: Bar
    case: Case
    found: Overall | None

    @property
    def missing(self) -> list[str]:
        """The networks that it should have been measured on."""
        there = {one.ours.label for one in self.found.ratios} if self.found else ()
        return [name for name in self.case.wanted if name not in there]

    @property
    def held(self) -> bool:
        """Whether on all networks the least ratio reaches the floor, and their mean the bar.

        So is what is not asked for.
        """
        if self.case.excused:
            return True
        if self.found is None or self.case.spoiled or self.missing:
            return False
        mean, least = self.found.mean, self.found.least.figure
        return mean.value >= self.bar.bar and least.value >= self.bar.floor

    def __str__(self) -> str:
        what = f"{self.bar.what}, {self.case.name}: at least {self.bar.bar:.2f} ×"
        if self.case.excused:
            return f"NOT ASKED FOR  {what}: {self.case.excused}"
        if self.found is None:
            return f"NOT MEASURED   {what}"
        mean, least = self.found.mean, self.found.least
        count = len(self.found.ratios)
        floor = f" (at least {self.bar.floor:.2f} ×)" if self.bar.floor else ""
        without = [f"without {', '.join(self.missing)}"] if self.missing else []
        return (
            f"{'held' if self.held else 'NOT HELD':<13}  {what}; "
            f"{times(mean)} over {count} network{'s' if count > 1 else ''}; "
            f"least {times(least.figure)} on {least.ours.label}, to {least.peer.peer}{floor}"
            f"{''.join(f'; {words}' for words in (*without, *self.case.spoiled))}"
        )


def _latency(results: Results) -> Iterator[Case]:
    for precision in PRECISIONS:
        yield _against_best(results, "latency", precision, 1)


def _throughput(results: Results) -> Iterator[Case]:
    for precision in PRECISIONS:
        of = (row for row in results.peers if row.precision == precision)
        batches = {row.batch for row in of if row.measure == "throughput" and row.batch}
        for batch in sorted(batches) or (1,):
            yield _against_best(results, "throughput", precision, batch)


def _against_best(results: Results, measure: Measure, precision: str, batch: int) -> Case:
    found = ratios_to_best(results.peers, measure, precision, batch)
    wanted = dict.fromkeys(row.label for row in results.peers if row.precision == precision)
    excused = "" if found else _lacks(results, precision)
    return Case(f"{precision} at batch {batch}", found, wanted, excused)


def _lacks(results: Results, precision: str) -> str:
    """Why the CPU of ``results`` does not compute ``precision``; empty if it does."""
    needed, features = _NEEDS.get(precision, set()), set(results.environment.cpu_features)
    if not needed or features & needed:
        return ""
    if not features:  # all CPUs but x86's sum 8-bit products
        return "the file does not say what its CPU has" if precision == "bf16" else ""
    return f"the CPU, {results.environment.cpu}, has none of {', '.join(sorted(needed))}"


def to_fp32(precision: str, most_lost: float, above: int, results: Results) -> Iterator[Case]:
    """``precision`` against fp32 of ours, on networks of more than ``above`` multiply-adds.

    From the rows of the table, at the largest batch that both were measured at; such a network may
    lose ``most_lost`` points of top-1.
    """
    large = dict.fromkeys(
        row.label for row in results.rows if row.graph and (row.graph.multiply_adds or 0) > above
    )
    by_batch: dict[tuple[str, int | None, str | None], Row] = {
        (row.label, row.batch, row.precision): row
        for row in results.rows
        if row.label in large and row.status == "measured" and row.batch
    }
    best: dict[str, Ratio] = {}
    for row in sorted(by_batch.values(), key=lambda row: row.batch or 0):
        fp32 = by_batch.get((row.label, row.batch, "fp32"))
        found = (
            ratio(_as_peer(row), _as_peer(fp32)) if fp32 and row.precision == precision else None
        )
        if found is not None:
            best[row.label] = found  # the last is the largest batch
    excused = _lacks(results, precision)
    if precision == "bf16" and not excused and "amx_bf16" not in results.environment.cpu_features:
        excused = f"the CPU, {results.environment.cpu}, has no AMX"
    spoiled = _lost(results, precision, most_lost, best)
    yield Case(f"over {above // 10**6} M", tuple(best.values()), large, excused, spoiled)


def _as_peer(row: Row) -> PeerRow:
    return PeerRow(
        label=row.label,
        precision=row.precision or "",
        measure="latency",
        batch=row.batch,
        peer=row.precision or "",
        status=row.status,
        images=row.batch or 0,
        rounds_ns=row.rounds_ns,
    )


BARS = (
    Bar("latency to the best peer", 1 / 0.95, 1 / 1.02, _latency),
    Bar("throughput to the best peer", 1.10, 0.98, _throughput),
    Bar("bf16 to fp32 on AMX", 2.5, 0.0, partial(to_fp32, "bf16", 0.1, 30_000_000)),
    Bar("int8 to fp32", 3.0, 0.0, partial(to_fp32, "int8", 0.5, 80_000_000)),
)


def findings(results: Results) -> list[Finding]:
    """Every bar in each of its cases, with what the results say of it."""
    return [
        Finding(bar, case, Overall(tuple(case.ratios)) if case.ratios else None)
        for bar in BARS
        for case in bar.cases(results)
    ]


def _lost(
    results: Results, precision: str, most: float, labels: Collection[str]
) -> tuple[str, ...]:
    """On which of the networks a precision loses more than ``most`` points of fp32's top-1."""
    top1 = {
        (row.label, row.precision): row.graph.figures["top1_percent"].value
        for row in results.rows
        if row.graph and row.graph.accuracy
    }
    found = []
    for label in labels:
        fp32, lower = top1.get((label, "fp32")), top1.get((label, precision))
        if fp32 is None or lower is None:
            found.append(f"the top-1 of {label} was not measured")
        elif round(fp32 - lower, 6) > most:
            found.append(f"{label} loses {fp32 - lower:.2f} points of top-1")
    return tuple(found)


def reasons(results: Results, finding: Finding) -> list[str]:
    """What would hold a bar on each network that misses it: its speed against the machine's peak.

    Empty for a bar that is held, and without a roofline.
    """
    roofline, bar = results.roofline, finding.bar.bar
    if finding.held or finding.found is None or roofline is None:
        return []
    sentences = (_reason(results, roofline, one, bar) for one in finding.found.ratios)
    return [sentence for sentence in sentences if sentence]


def _reason(results: Results, roofline: Roofline, one: Ratio, bar: float) -> str:
    ours, peer = one.ours, one.peer
    works = [w for w in roofline.works if (w.label, w.precision) == ours.ran and not w.reason]
    peak = roofline.compute_peak(ours.precision)
    if one.figure.value >= bar or not works or peak is None:
        return ""

    def speed(row: PeerRow, times: float = 1.0) -> str:
        ns_an_image = math.exp(float(row.log_ns.mean()))
        found = times * works[0].operations / works[0].batch / ns_an_image
        return f"{found:,.0f} GFLOP/s ({100 * found / peak.rate:.0f} %)"

    return (
        f"{ours.label}: ours {speed(ours)}, {peer.peer} {speed(peer)}, the bar asks for "
        f"{speed(peer, bar)} of a peak of {peak.rate:,.0f}"
        f"{_where(results, ours)}"
    )


def _where(results: Results, row: PeerRow) -> str:
    """Which operator takes most of the time, if it was profiled at that batch."""
    key = (*row.ran, row.batch)
    for profile in results.profiles:
        if (profile.label, profile.precision, profile.batch) == key and profile.layers:
            most = profile.operators[0]
            share = profile.share_percent(most.microseconds)
            return f"; {share:.0f} % of ours is in {most.op}"
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 if every bar is held, 1 if not, or if the file cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m repr_bench.bars", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("results", type=Path, metavar="RESULTS.json")
    try:
        results = read_results(parser.parse_args(argv).results)
    except BenchError as error:
        print(f"repr_bench.bars: {error}", file=sys.stderr)
        return 1
    found = findings(results)
    for finding in found:
        print(finding)
        for reason in reasons(results, finding):
            print(f"          {reason}")
    if results.environment.busy():
        print("Careful: the machine was busy as the run began.")
    return 0 if all(finding.held for finding in found) else 1


if __name__ == "__main__":
    sys.exit(main())
