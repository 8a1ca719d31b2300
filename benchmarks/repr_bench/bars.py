"""What repr-deploy promises against its peers: `python -m repr_bench.bars RESULTS.json`.

Each bar holds for the geometric mean over networks, and on no network may ours be slower than
``LEAST`` allows. Throughputs are judged at each batch size, the same for both, and with each at
its best one. The file is that of `repr-bench --peers --json`; with `--roofline --profile` it
also says, of a bar that is not held, what holding it would take.
"""

import argparse
import math
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from repr_bench.errors import BenchError
from repr_bench.results.file import read_results
from repr_bench.results.peers import (
    Overall,
    PeerRow,
    Ratio,
    best_ratios,
    ratio,
    ratios_at,
)
from repr_bench.results.results import Results
from repr_bench.results.roofline import Roofline
from repr_bench.results.row import Row
from repr_bench.statistics.intervals import times

LEAST = 0.97
LARGE = 100_000_000
"""Multiply-adds from which a network is worth int8."""

MOST_LOST = 0.5
"""Points of top-1 that int8 may cost."""


@dataclass(frozen=True)
class Bar:
    """A promise: ours must be at least ``bar`` times as fast.

    ``ratios`` finds what it is judged by: for each case that it must hold in (``at batch 8``),
    a ratio a network.
    """

    what: str
    bar: float
    ratios: Callable[[Results], dict[str, list[Ratio]]]


@dataclass(frozen=True)
class Finding:
    """A bar against what was measured: ``found`` is None where nothing was.

    ``missing`` are networks that were compared, but not with this peer. ``spoiled`` says what
    speaks against it whatever the speed.
    """

    bar: Bar
    case: str
    found: Overall | None
    missing: tuple[str, ...] = ()
    spoiled: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        """Whether the mean reaches the bar and the least ratio the floor."""
        if self.found is None or self.spoiled:
            return False
        return self.found.mean.value >= self.bar.bar and self.found.least.figure.value >= LEAST

    def __str__(self) -> str:
        what = f"{self.bar.what}{self.case and ' '}{self.case}: at least {self.bar.bar:.2f} ×"
        if self.found is None:
            return f"NOT MEASURED  {what}"
        mean, least = self.found.mean, self.found.least
        count = len(self.found.ratios)
        without = f"; without {', '.join(self.missing)}" if self.missing else ""
        return (
            f"{'held    ' if self.held else 'NOT HELD'}  {what}; "
            f"{times(mean)} over {count} network{'s' if count > 1 else ''}; "
            f"least {times(least.figure)} on {least.ours.label} (at least {LEAST:.2f} ×)"
            f"{without}{''.join(f'; {lost}' for lost in self.spoiled)}"
        )


def _fp32(results: Results) -> list[PeerRow]:
    return [row for row in results.peers if row.precision == "fp32"]


def _latency(peer: str) -> Callable[[Results], dict[str, list[Ratio]]]:
    return lambda results: {"": ratios_at(_fp32(results), "latency", peer, 1)}


def _throughput(peer: str) -> Callable[[Results], dict[str, list[Ratio]]]:
    def ratios(results: Results) -> dict[str, list[Ratio]]:
        rows = _fp32(results)
        batches = sorted({row.batch for row in rows if row.measure == "throughput" and row.batch})
        found = {f"at batch {n}": ratios_at(rows, "throughput", peer, n) for n in batches}
        return found | {"with each at its best batch": best_ratios(rows, peer)}

    return ratios


def int8_ratios(results: Results) -> dict[str, list[Ratio]]:
    """int8 against fp32 of ours, on networks of more than ``LARGE`` multiply-adds, a ratio each.

    From the rows of the table, at the largest batch that both were measured at.
    """
    large = {
        row.label for row in results.rows if row.graph and (row.graph.multiply_adds or 0) > LARGE
    }
    by_batch: dict[tuple[str, int | None, str | None], Row] = {
        (row.label, row.batch, row.precision): row
        for row in results.rows
        if row.label in large and row.status == "measured" and row.batch
    }
    best: dict[str, Ratio] = {}
    for row in sorted(by_batch.values(), key=lambda row: row.batch or 0):
        fp32 = by_batch.get((row.label, row.batch, "fp32"))
        found = ratio(_as_peer(row), _as_peer(fp32)) if fp32 and row.precision == "int8" else None
        if found is not None:
            best[row.label] = found  # the last is the largest batch
    return {"": list(best.values())}


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
    Bar("batch-1 latency against plain ONNX Runtime", 1.00, _latency("onnxruntime")),
    Bar("throughput against plain ONNX Runtime", 1.10, _throughput("onnxruntime")),
    Bar("throughput against torch.compile", 1.30, _throughput("torch.compile")),
    Bar("throughput against OpenVINO's throughput hint", 1.30, _throughput("openvino-throughput")),
    Bar("int8 against fp32 on networks of over 100 M multiply-adds", 1.30, int8_ratios),
)


def findings(results: Results) -> list[Finding]:
    """Every bar in each of its cases, with what the results say of it."""
    compared = dict.fromkeys(row.label for row in _fp32(results))
    found = []
    for bar in BARS:
        for case, ratios in bar.ratios(results).items():
            there = {one.ours.label for one in ratios}
            every = () if bar.ratios is int8_ratios else compared
            missing = tuple(name for name in every if name not in there)
            spoiled = _lost(results, there) if bar.ratios is int8_ratios else ()
            over = Overall(tuple(ratios)) if ratios else None
            found.append(Finding(bar, case, over, missing, spoiled))
    return found


def _lost(results: Results, labels: Collection[str]) -> tuple[str, ...]:
    """On which of the networks int8 loses more than ``MOST_LOST`` points of fp32's top-1."""
    top1 = {
        (row.label, row.precision): row.graph.figures["top1_percent"].value
        for row in results.rows
        if row.graph and row.graph.accuracy
    }
    found = []
    for label in labels:
        fp32, int8 = top1.get((label, "fp32")), top1.get((label, "int8"))
        if fp32 is None or int8 is None:
            found.append(f"the top-1 of {label} was not measured")
        elif fp32 - int8 > MOST_LOST:
            found.append(f"{label} loses {fp32 - int8:.2f} points of top-1")
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
