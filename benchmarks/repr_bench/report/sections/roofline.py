"""The roofline on a terminal: the machine's peaks, and each row's share of its ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from repr_bench.report.sections.columns import NOTHING
from repr_bench.results.results import Results
from repr_bench.results.roofline import FORMULA, Kind, Reached, Roofline, reached_by
from repr_bench.statistics import intervals as statistics

TITLES = ("network", "precision", "batch", "ops/byte", "GFLOP/s", "ceiling", "bound by", "share %")
WORDS = ("network", "precision", "bound by")
"""Titles of columns that hold text."""
_NAMES: dict[Kind, tuple[str, str]] = {
    "float32": ("float32 products", "GFLOP/s"),
    "int8": ("int8 products", "GOP/s"),
    "memory": ("memory, read and written", "GB/s"),
    "cache": ("second-level cache, read and written", "GB/s"),
}


class Places(NamedTuple):
    """The rows with a share, and a sentence for each of the others."""

    reached: list[Reached]
    without: list[str]


def places(results: Results, roofline: Roofline) -> Places:
    """Where each row stands below the roof, or why that is not known."""
    without: dict[str, list[str]] = {}
    for work in roofline.works:
        if reason := roofline.missing(work):
            where = f"{work.label} {work.precision} batch {work.batch}"
            without.setdefault(reason, []).append(where)
    sentences = [f"no share of {', '.join(rows)}: {reason}" for reason, rows in without.items()]
    return Places(reached_by(roofline, results.timed()), sentences)


def cells(row: Reached) -> tuple[str, ...]:
    """The texts of a row, in the order of ``TITLES``."""
    return (
        row.work.label,
        row.work.precision,
        str(row.work.batch),
        statistics.figure(row.work.intensity),
        statistics.figure(row.gflops, row.interval),
        statistics.figure(row.ceiling),
        "memory" if row.memory_bound else "compute",
        row.share,
    )


def machine(roofline: Roofline) -> list[str]:
    """Every peak as a sentence, and what could not be measured."""
    sentences = []
    for kind, (name, unit) in _NAMES.items():
        best = roofline.best(kind)
        if best is None:
            continue
        others = [p for p in roofline.peaks if p.kind == kind and p.how != best.how]
        second = max(others, key=lambda peak: peak.rate, default=None)
        than = f"; {second.how} {second.rate:,.1f}" if second else ""
        size = (
            f"{best.size} × {best.size}"
            if kind in ("float32", "int8")
            else f"an array of {best.size / 1e6:,.1f} MB"
        )
        sentences.append(
            f"{name}: {best.rate:,.1f} {unit} ({best.how}, {size}, best of "
            f"{len(best.samples_ns)} runs{than})"
        )
    return [
        f"Peaks with {roofline.threads} thread{'s' if roofline.threads != 1 else ''}: "
        f"{'. '.join(sentences) or 'none'}.",
        *roofline.notes,
    ]


def print_roofline(results: Results, console: Console) -> None:
    """Print it; nothing where it was not asked for."""
    roofline = results.roofline
    if roofline is None:
        return
    found = places(results, roofline)
    console.print(Text("Roofline", style="bold"))
    if found.reached:
        console.print(_table(found.reached))
    for text in (*machine(roofline), *found.without, FORMULA):
        console.print(Text(text, style="dim"), soft_wrap=not console.is_terminal)


def _table(rows: Sequence[Reached]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in TITLES:
        table.add_column(Text(title), justify="left" if title in WORDS else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(text or NOTHING) for text in cells(row)))
    return table
