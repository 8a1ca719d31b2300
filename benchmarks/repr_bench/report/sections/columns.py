"""The columns of a report, one list for terminal and page: title, value and a row's text in it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from repr_bench.report.document import NOTHING, Line, Table
from repr_bench.report.rows import (
    AnyRow,
    agreement_of,
    graph_of,
    latency_of,
    rate_of,
    top1_of,
    top5_of,
)
from repr_bench.results.agreement import Flips
from repr_bench.results.results import Results
from repr_bench.results.row import Row
from repr_bench.statistics.intervals import Figure, decimals

TOP1, AGREE = "top-1 % (95 %)", "agree % (95 %)"


@dataclass(frozen=True)
class Column:
    """One column: by which ``value`` it is sorted, and the ``text`` that is shown.

    ``spare`` columns leave a terminal too narrow for all, the largest first. An ``optional`` one
    is shown where a row has something in it.
    """

    title: str
    value: Callable[[AnyRow], float | str | None]
    text: Callable[[AnyRow], str]
    numeric: bool = True
    spare: int = 0
    optional: bool = False


BELOW_BAR = "*"
"""Stands behind the name of a network whose weights miss their bar."""


def marked(row: AnyRow) -> str:
    """The name of the row's network, with the mark if the row has it."""
    graph = graph_of(row)
    return f"{row.label} {BELOW_BAR}" if graph and graph.below_bar else row.label


def with_wilson(figure: Figure | None) -> str:
    """``75.00 (73.1–76.8)``: a share in percent, with the interval that counts alone give."""
    if figure is None or figure.interval is None:
        return NOTHING
    return f"{figure.value:.2f} ({figure.interval.low:.1f}–{figure.interval.high:.1f})"


def top1_text(row: AnyRow) -> str:
    """Top-1 in percent with its interval, where it is known."""
    graph = graph_of(row)
    if graph and graph.accuracy is None and graph.weights == "random":
        return "random weights"
    return with_wilson(top1_of(row))


def agreement_text(row: AnyRow) -> str:
    """Agreement in percent with its interval, where it is known."""
    return with_wilson(agreement_of(row))


def probability(value: float) -> str:
    """``value`` as p-values are written: two digits, and small ones by their bound."""
    return "<0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def text_of(figure: Figure | None) -> str:
    """``figure`` with the digits that its interval supports, or that there is none."""
    if figure is None:
        return NOTHING
    if not math.isfinite(figure.value):
        return "∞"
    bounded = figure.interval is not None and math.isfinite(figure.interval.high)
    return str(figure if bounded else Figure(figure.value, None))


def _figure(
    title: str,
    of: Callable[[AnyRow], Figure | None],
    text: Callable[[AnyRow], str] | None = None,
    **more: Any,
) -> Column:
    def value(row: AnyRow) -> float | None:
        found = of(row)
        return None if found is None else found.value

    return Column(title, value, text or (lambda row: text_of(of(row))), **more)


def _millions(title: str, name: str, spare: int) -> Column:
    """A count that the graph has, in millions."""

    def value(row: AnyRow) -> int | None:
        return getattr(graph_of(row), name, None)

    def text(row: AnyRow) -> str:
        count = value(row)
        return NOTHING if count is None else f"{count / 1e6:,.2f}"

    return Column(title, value, text, spare=spare)


def _flips(row: AnyRow) -> Flips | None:
    graph = graph_of(row)
    return graph.flips if graph else None


def _flips_text(row: AnyRow) -> str:
    if (flips := _flips(row)) is None:
        return NOTHING
    return f"−{flips.lost:,} +{flips.gained:,} (p {probability(flips.p_value)})"


def _flips_value(row: AnyRow) -> int | None:
    flips = _flips(row)
    return flips.lost + flips.gained if flips else None


COLUMNS = (
    Column("network", lambda row: row.label.casefold(), marked, numeric=False),
    Column(
        "precision", lambda row: row.precision, lambda row: row.precision or NOTHING, numeric=False
    ),
    Column("batch", lambda row: row.batch, lambda row: str(row.batch or NOTHING)),
    *(
        _figure(f"p{percent} ms", partial(latency_of, percent=percent), spare=spare)
        for percent, spare in ((50, 0), (90, 2), (99, 1))
    ),
    _figure("images/s", rate_of),
    _figure(TOP1, top1_of, top1_text),
    _figure(
        "top-5 % (95 %)", top5_of, lambda row: with_wilson(top5_of(row)), spare=5, optional=True
    ),
    _figure(AGREE, agreement_of, agreement_text, spare=3, optional=True),
    Column("flips (McNemar)", _flips_value, _flips_text, spare=4, optional=True),
    _millions("graph MB", "bytes", 6),
    _millions("params M", "parameters", 7),
    _millions("mult-adds M", "multiply_adds", 8),
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
    lines += [Line(tuple(column.text(other) for column in columns)) for other in results.others]
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
