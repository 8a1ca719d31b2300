"""The columns of a report, one list for terminal and page: title, and a row's text in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from repr_bench.results import Row

NOTHING = "-"


@dataclass(frozen=True)
class Column:
    """One column; ``spare`` columns leave a terminal too narrow for all, the largest first."""

    title: str
    text: Callable[[Row], str]
    numeric: bool = True
    spare: int = 0


BELOW_BAR = "*"
"""Stands behind the name of a network whose weights miss their bar."""


def marked(text: str, row: Row) -> str:
    """``text``, which names the row's network, with the mark if the row has it."""
    return f"{text} {BELOW_BAR}" if row.graph and row.graph.below_bar else text


def _latency(percent: int, row: Row) -> str:
    found = row.latency_ms.get(percent)
    return NOTHING if found is None else str(found)


def _images_per_second(row: Row) -> str:
    return NOTHING if row.images_per_second is None else str(row.images_per_second)


def _top1(row: Row) -> str:
    if row.graph is None:
        return NOTHING
    if row.graph.accuracy is None:
        return "random weights" if row.graph.weights == "random" else NOTHING
    value, interval = row.graph.accuracy.top1_percent
    assert interval is not None, "Wilson's interval is always known"
    return f"{value:.2f} ({interval.low:.1f}–{interval.high:.1f})"


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
    Column("top-1 % (95 %)", _top1),
    Column("graph MB", _megabytes, spare=3),
    Column("params M", lambda r: _millions(r.graph.parameters) if r.graph else NOTHING, spare=4),
    Column(
        "mult-adds M", lambda r: _millions(r.graph.multiply_adds) if r.graph else NOTHING, spare=5
    ),
)


def title_of(row: Row) -> str:
    """A row's name in a sentence: ``resnet20 fp32 batch 8``."""
    batch = f"batch {row.batch}" if row.batch else ""
    return " ".join(part for part in (row.label, row.precision, batch) if part)
