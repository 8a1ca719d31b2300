"""What repr-deploy promises against its peers: `python -m repr_bench.bars RESULTS.json`.

Each bar holds for the geometric mean over networks, and on no network may ours be slower than
``LEAST`` allows. The file is that of `repr-bench --peers --json`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repr_bench.errors import BenchError
from repr_bench.peer_rows import (
    Overall,
    PeerRow,
    Ratio,
    latency_ratios,
    overall,
    ratio,
    throughput_ratios,
)
from repr_bench.report.peer_table import times
from repr_bench.results import Results, Row, read_results

LEAST = 0.97
LARGE = 100_000_000
"""Multiply-adds from which a network is worth int8."""


@dataclass(frozen=True)
class Bar:
    """A promise: ours must be at least ``bar`` times as fast, over all that ``ratios`` finds."""

    what: str
    bar: float
    ratios: Callable[[Results], list[Ratio]]


@dataclass(frozen=True)
class Verdict:
    """A bar against what was measured: ``found`` is None where nothing was.

    ``missing`` are networks that were compared, but not with this peer.
    """

    bar: Bar
    found: Overall | None
    missing: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        """Whether the mean reaches the bar and the least ratio the floor."""
        if self.found is None:
            return False
        return self.found.mean.value >= self.bar.bar and self.found.least.figure.value >= LEAST

    def __str__(self) -> str:
        if self.found is None:
            return f"NOT MEASURED  {self.bar.what}: at least {self.bar.bar:.2f} ×"
        mean, least = self.found.mean, self.found.least
        count = len(self.found.ratios)
        without = f"; without {', '.join(self.missing)}" if self.missing else ""
        return (
            f"{'held    ' if self.held else 'NOT HELD'}  {self.bar.what}: at least "
            f"{self.bar.bar:.2f} ×; {times(mean)} over {count} network{'s' if count > 1 else ''}; "
            f"least {times(least.figure)} on {least.ours.label} (at least {LEAST:.2f} ×)"
            f"{without}"
        )


def _fp32(results: Results) -> list[PeerRow]:
    return [row for row in results.peers if row.precision == "fp32"]


def int8_ratios(results: Results) -> list[Ratio]:
    """int8 against fp32 of ours, on networks of more than ``LARGE`` multiply-adds, a ratio each.

    From the rows of the table, at the largest batch that both were measured at.
    """
    large = {
        row.label for row in results.rows if row.graph and (row.graph.multiply_adds or 0) > LARGE
    }
    by_batch = {
        (row.label, row.batch, row.precision): row
        for row in results.rows
        if row.label in large and row.status == "measured" and row.batch
    }
    best: dict[str, Ratio] = {}
    for (label, batch, precision), row in sorted(
        by_batch.items(), key=lambda item: item[0][1] or 0
    ):
        fp32 = by_batch.get((label, batch, "fp32"))
        if precision == "int8" and fp32 is not None:
            found = ratio(_as_peer(row), _as_peer(fp32))
            if found is not None:
                best[label] = found  # the last is the largest batch
    return list(best.values())


def _as_peer(row: Row) -> PeerRow:
    assert row.precision is not None, "it was measured"
    assert row.batch is not None, "it was measured"
    blank = PeerRow(row.label, row.precision, "latency", row.batch, row.precision, "measured", "")
    return replace(blank, images=row.batch, rounds_ns=row.rounds_ns)


BARS = (
    Bar(
        "batch-1 latency against plain ONNX Runtime",
        1.00,
        lambda results: latency_ratios(_fp32(results), "onnxruntime", 1),
    ),
    Bar(
        "throughput against plain ONNX Runtime",
        1.10,
        lambda results: throughput_ratios(_fp32(results), "onnxruntime"),
    ),
    Bar(
        "throughput against torch.compile",
        1.30,
        lambda results: throughput_ratios(_fp32(results), "torch.compile"),
    ),
    Bar(
        "throughput against OpenVINO's throughput hint",
        1.30,
        lambda results: throughput_ratios(_fp32(results), "openvino-throughput"),
    ),
    Bar("int8 against fp32 on networks of over 100 M multiply-adds", 1.30, int8_ratios),
)


def verdicts(results: Results) -> list[Verdict]:
    """Every bar with what the results say of it."""
    compared = dict.fromkeys(row.label for row in _fp32(results))
    found = []
    for bar in BARS:
        ratios = bar.ratios(results)
        there = {one.ours.label for one in ratios}
        missing = () if bar.ratios is int8_ratios else tuple(n for n in compared if n not in there)
        found.append(Verdict(bar, overall(ratios), missing))
    return found


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
    found = verdicts(results)
    for verdict in found:
        print(verdict)
    if results.environment.busy():
        print("Careful: the machine was busy as the run began.")
    return 0 if all(verdict.held for verdict in found) else 1


if __name__ == "__main__":
    sys.exit(main())
