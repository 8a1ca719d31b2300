"""The roofline: the machine's peaks, and each row's share of its ceiling."""

from collections.abc import Iterator

from repr_bench.report.document import Section, notes, table
from repr_bench.report.rows import title_of
from repr_bench.results.results import Results
from repr_bench.results.roofline import FORMULA, PRODUCTS, Kind, Reached, Roofline, reached_by
from repr_bench.statistics import intervals

TITLES = ("network", "precision", "batch", "ops/byte", "GFLOP/s", "ceiling", "bound by", "share %")
WORDS = ("network", "precision", "bound by")
"""Titles of columns that hold text."""
_NAMES: dict[Kind, tuple[str, str]] = {
    "float32": ("float32 products", "GFLOP/s"),
    "int8": ("int8 products", "GOP/s"),
    "tf32": ("TF32 products", "GFLOP/s"),
    "float16": ("float16 products", "GFLOP/s"),
    "bfloat16": ("bfloat16 products", "GFLOP/s"),
    "to-gpu": ("to the GPU, from pinned memory", "GB/s"),
    "to-host": ("back from it", "GB/s"),
    "memory": ("memory, read and written", "GB/s"),
    "cache": ("second-level cache, read and written", "GB/s"),
}


def _without(roofline: Roofline) -> Iterator[str]:
    """A sentence for each reason why rows have no share, with all that it holds for."""
    without: dict[str, list[str]] = {}
    for work in roofline.works:
        if reason := roofline.missing(work):
            without.setdefault(reason, []).append(title_of(work))
    return (f"no share of {', '.join(rows)}: {reason}" for reason, rows in without.items())


def cells(row: Reached) -> tuple[str, ...]:
    """The texts of a row, in the order of ``TITLES``."""
    return (
        row.work.label,
        row.work.precision,
        str(row.work.batch),
        intervals.figure(row.work.intensity),
        intervals.figure(row.gflops, row.interval),
        intervals.figure(row.ceiling),
        "memory" if row.memory_bound else "compute",
        row.share,
    )


def peaks(roofline: Roofline) -> str:
    """Every peak, in a sentence each."""
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
            if kind in PRODUCTS
            else f"an array of {best.size / 1e6:,.1f} MB"
        )
        sentences.append(
            f"{name}: {best.rate:,.1f} {unit} ({best.how}, {size}, best of "
            f"{len(best.samples_ns)} runs{than})"
        )
    whose = f"with {roofline.threads} thread{'s' if roofline.threads != 1 else ''}"
    return f"Peaks {whose if roofline.threads else 'of the GPU'}: {'. '.join(sentences) or 'none'}."


def roofline_section(results: Results, roofline: Roofline) -> Section:
    """Each row's share of its ceiling, and the machine's peaks."""
    lines = [cells(row) for row in reached_by(roofline, results.rows)]
    shares = (
        (table("Table of the roofline", TITLES, lines, WORDS, ("ops/byte", "ceiling")),)
        if lines
        else ()
    )
    return Section(
        "roofline",
        "Roofline",
        tables=shares,
        notes=(
            *notes("remark", (*roofline.notes, *_without(roofline))),
            *notes("finding", [peaks(roofline)]),
            *notes("meaning", [FORMULA]),
        ),
    )
