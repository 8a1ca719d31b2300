"""The columns of a report, one list for terminal and page: title, and a row's text in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from repr_bench.report.document import NOTHING, Line, Table
from repr_bench.results.graph import Graph
from repr_bench.results.other_tools import OtherRow
from repr_bench.results.results import Results
from repr_bench.results.row import Row
from repr_bench.statistics.intervals import Interval, decimals

TOP1, AGREE = "top-1 % (95 %)", "agree % (95 %)"


@dataclass(frozen=True)
class Column:
    """One column; ``spare`` columns leave a terminal too narrow for all, the largest first.

    An ``optional`` one is shown where a row has something in it.
    """

    title: str
    text: Callable[[Row], str]
    numeric: bool = True
    spare: int = 0
    optional: bool = False


BELOW_BAR = "*"
"""Stands behind the name of a network whose weights miss their bar."""


class HasGraph(Protocol):
    """A row of a graph, of which it may be known what it gets right."""

    @property
    def graph(self) -> Graph | None: ...


def marked(text: str, row: HasGraph) -> str:
    """``text``, which names the row's network, with the mark if the row has it."""
    return f"{text} {BELOW_BAR}" if row.graph and row.graph.below_bar else text


def _latency(percent: int, row: Row) -> str:
    found = row.latency_ms.get(percent)
    return NOTHING if found is None else str(found)


def _images_per_second(row: Row) -> str:
    return NOTHING if row.images_per_second is None else str(row.images_per_second)


def top1_text(row: HasGraph) -> str:
    """Top-1 in percent with its interval, where it is known."""
    if row.graph is None:
        return NOTHING
    if row.graph.accuracy is None:
        return "random weights" if row.graph.weights == "random" else NOTHING
    value, interval = row.graph.accuracy.top1_percent
    assert interval is not None, "Wilson's interval is always known"
    return with_wilson(value, interval)


def _top5(row: Row) -> str:
    found = row.graph.accuracy.top5_percent if row.graph and row.graph.accuracy else None
    if found is None or found.interval is None:
        return NOTHING
    return with_wilson(found.value, found.interval)


def agreement_text(row: HasGraph) -> str:
    """Agreement in percent with its interval, where it is known."""
    if row.graph is None or row.graph.agreement is None:
        return NOTHING
    return with_wilson(row.graph.agreement.percent, row.graph.agreement.interval)


def _flips(row: Row) -> str:
    if row.graph is None or row.graph.flips is None:
        return NOTHING
    flips = row.graph.flips
    return f"−{flips.lost:,} +{flips.gained:,} (p {probability(flips.p_value)})"


def with_wilson(percent: float, interval: Interval) -> str:
    """``75.00 (73.1–76.8)``: a share in percent, with the interval that counts alone give."""
    return f"{percent:.2f} ({interval.low:.1f}–{interval.high:.1f})"


def probability(value: float) -> str:
    """``value`` as p-values are written: two digits, and small ones by their bound."""
    return "<0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _megabytes(row: Row) -> str:
    return f"{row.graph.bytes / 1e6:,.2f}" if row.graph else NOTHING


def _millions(count: int | None) -> str:
    return NOTHING if count is None else f"{count / 1e6:,.2f}"


COLUMNS = (
    Column("network", lambda row: marked(row.label, row), numeric=False),
    Column("precision", lambda row: row.precision or NOTHING, numeric=False),
    Column("batch", lambda row: str(row.batch or NOTHING)),
    Column("p50 ms", partial(_latency, 50)),
    Column("p90 ms", partial(_latency, 90), spare=2),
    Column("p99 ms", partial(_latency, 99), spare=1),
    Column("images/s", _images_per_second),
    Column(TOP1, top1_text),
    Column("top-5 % (95 %)", _top5, spare=5, optional=True),
    Column(AGREE, agreement_text, spare=3, optional=True),
    Column("flips (McNemar)", _flips, spare=4, optional=True),
    Column("graph MB", _megabytes, spare=6),
    Column("params M", lambda r: _millions(r.graph.parameters) if r.graph else NOTHING, spare=7),
    Column(
        "mult-adds M", lambda r: _millions(r.graph.multiply_adds) if r.graph else NOTHING, spare=8
    ),
)


def shown_columns(rows: Sequence[Row]) -> list[Column]:
    """The columns that have something to show of ``rows``."""
    return [
        column
        for column in COLUMNS
        if not column.optional or any(column.text(row) != NOTHING for row in rows)
    ]


def figures_table(results: Results) -> Table:
    """The main table: a line for each row, and for each run of another tool."""
    columns = shown_columns(results.rows)
    lines = [
        Line(
            cells=tuple(column.text(row) for column in columns),
            tone="" if row.status == "measured" else "warning",
            below=tuple(_interval(column.title, row) for column in columns),
        )
        for row in results.rows
    ]
    lines += [
        Line(tuple(other_text(column, other) for column in columns)) for other in results.others
    ]
    return Table(
        label="Table of figures",
        titles=tuple(column.title for column in columns),
        rows=tuple(lines),
        numeric=[index for index, column in enumerate(columns) if column.numeric],
        spare={index: column.spare for index, column in enumerate(columns)},
    )


def _interval(title: str, row: Row) -> str:
    """The interval of a percentile, which a terminal has no room for."""
    percent = title.removeprefix("p").removesuffix(" ms")
    found = row.latency_ms.get(int(percent)) if percent.isdecimal() else None
    if found is None or found.interval is None:
        return ""
    places = decimals(found.value, found.interval)
    return "–".join(f"{end:,.{places}f}" for end in found.interval)


def other_text(column: Column, row: OtherRow) -> str:
    """Another tool's run in that column, which has far less to say."""
    if column.title == "network":
        return row.label
    if column.title == "batch":
        return str(row.batch or NOTHING)
    if column.title == "images/s":
        return NOTHING if row.images_per_second is None else str(row.images_per_second)
    percent = column.title.removeprefix("p").removesuffix(" ms")
    found = row.latency_ms.get(int(percent)) if percent.isdecimal() else None
    return NOTHING if found is None else str(found)


def title_of(row: Row) -> str:
    """A row's name in a sentence: ``resnet20 fp32 batch 8``."""
    batch = f"batch {row.batch}" if row.batch else ""
    return " ".join(part for part in (row.label, row.precision, batch) if part)
