"""The columns of a report, one list for terminal and page: title, value and a row's text in it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from repr_bench.report.document import NOTHING, Line, Table, Tone, table
from repr_bench.report.rows import AnyRow, answer_of, graph_of, latency_of, rate_of
from repr_bench.results.graph import Flips
from repr_bench.results.results import Results
from repr_bench.results.row import Row
from repr_bench.results.trials import PERCENTILES
from repr_bench.statistics.intervals import Figure, decimals

TOP1, AGREE = "top-1 % (95 %)", "agree % (95 %)"
TOP5, FLIPS = "top-5 % (95 %)", "flips (McNemar)"
MEMORY = "peak MB"
_WORDS = ("network", "precision")
_SPARE = (MEMORY, "mult-adds M", "params M", "graph MB", TOP5, FLIPS, AGREE, "p90 ms", "p99 ms")


@dataclass(frozen=True)
class Column:
    """One column: by which ``value`` it is sorted, and the ``text`` that is shown.

    An ``optional`` one is shown where a row has something in it.
    """

    title: str
    value: Callable[[AnyRow], float | str | None]
    text: Callable[[AnyRow], str]
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
    return with_wilson(answer_of(row, "top1_percent"))


def agreement_text(row: AnyRow) -> str:
    """Agreement in percent with its interval, where it is known."""
    return with_wilson(answer_of(row, "agreement_percent"))


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
    *,
    optional: bool = False,
) -> Column:
    def value(row: AnyRow) -> float | None:
        found = of(row)
        return None if found is None else found.value

    return Column(title, value, text or (lambda row: text_of(of(row))), optional)


def _millions(title: str, name: str) -> Column:
    """A count that the graph has, in millions."""

    def value(row: AnyRow) -> int | None:
        return getattr(graph_of(row), name, None)

    def text(row: AnyRow) -> str:
        count = value(row)
        return NOTHING if count is None else f"{count / 1e6:,.2f}"

    return Column(title, value, text)


def _memory(row: AnyRow) -> int | None:
    return row.peak_memory_bytes if isinstance(row, Row) else None


def _memory_text(row: AnyRow) -> str:
    found = _memory(row)
    return NOTHING if found is None else f"{found / 1e6:,.{0 if found >= 1e8 else 1}f}"


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


_top5 = partial(answer_of, name="top5_percent")
COLUMNS = (
    Column("network", lambda row: row.label.casefold(), marked),
    Column("precision", lambda row: row.precision, lambda row: row.precision or NOTHING),
    Column("batch", lambda row: row.batch, lambda row: str(row.batch or NOTHING)),
    *(_figure(f"p{percent} ms", partial(latency_of, percent=percent)) for percent in PERCENTILES),
    _figure("images/s", rate_of),
    _figure(TOP1, partial(answer_of, name="top1_percent"), top1_text),
    _figure(TOP5, _top5, lambda row: with_wilson(_top5(row)), optional=True),
    _figure(AGREE, partial(answer_of, name="agreement_percent"), agreement_text, optional=True),
    Column(FLIPS, _flips_value, _flips_text, optional=True),
    _millions("graph MB", "bytes"),
    Column(MEMORY, _memory, _memory_text, optional=True),
    _millions("params M", "parameters"),
    _millions("mult-adds M", "multiply_adds"),
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
            tone=_tone(row),
            below=tuple(_interval(column.title, row) for column in columns),
        )
        for row in results.rows
    ]
    lines += [Line(tuple(column.text(other) for column in columns)) for other in results.others]
    titles = [column.title for column in columns]
    return table("Table of figures", titles, lines, _WORDS, _SPARE)


def _tone(row: Row) -> Tone:
    if row.graph and row.graph.answers_differ:
        return "bad"
    return "" if row.status == "measured" else "warning"


def _interval(title: str, row: Row) -> str:
    """The interval of a percentile, which a terminal has no room for."""
    percent = title.removeprefix("p").removesuffix(" ms")
    found = row.latency_ms.get(int(percent)) if percent.isdecimal() else None
    if found is None or found.interval is None:
        return ""
    places = decimals(found.value, found.interval)
    return "–".join(f"{end:,.{places}f}" for end in found.interval)
