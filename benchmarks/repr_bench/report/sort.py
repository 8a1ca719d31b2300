"""`--sort`: the rows of all tables in the order of one column, those without a figure last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeVar

from repr_bench.errors import UsageError
from repr_bench.results.graph import Graph
from repr_bench.results.other_tools import OtherRow
from repr_bench.results.peers import PeerRow
from repr_bench.results.results import Results
from repr_bench.results.row import Row
from repr_bench.results.scenarios import ScenarioRow, StageRow
from repr_bench.statistics.intervals import Figure

AnyRow = Row | OtherRow | ScenarioRow | StageRow | PeerRow
Value = float | str | None
_Some = TypeVar("_Some", bound=AnyRow)


def latency_of(row: AnyRow, percent: int) -> Figure | None:
    """A percentile in ms, where that kind of row has it; of a way from JPEG, of the whole."""
    if isinstance(row, StageRow):
        return row.medians_ms.get("total") if percent == 50 and row.calls else None
    if isinstance(row, PeerRow):
        return row.latency_ms if percent == 50 and row.measure == "latency" else None
    return row.latency_ms.get(percent)


def rate_of(row: AnyRow) -> Figure | None:
    """Images a second, where that kind of row has it."""
    return None if isinstance(row, StageRow) else row.images_per_second


def _graph(row: AnyRow) -> Graph | None:
    """The graph that ran, of the kinds of rows that say so."""
    return None if isinstance(row, OtherRow | PeerRow) else row.graph


def top1_of(row: AnyRow) -> Figure | None:
    """Top-1 in percent, where it was measured."""
    graph = _graph(row)
    return graph.accuracy.top1_percent if graph and graph.accuracy else None


def top5_of(row: AnyRow) -> Figure | None:
    """Top-5 in percent, likewise."""
    graph = _graph(row)
    return graph.accuracy.top5_percent if graph and graph.accuracy else None


def agreement_of(row: AnyRow) -> Figure | None:
    """Agreement in percent, likewise."""
    graph = _graph(row)
    agreement = graph.agreement if graph else None
    return Figure(agreement.percent, agreement.interval) if agreement else None


def _latency(percent: int, row: AnyRow) -> Value:
    return _value(latency_of(row, percent))


def _flips(row: AnyRow) -> Value:
    graph = _graph(row)
    flips = graph.flips if graph else None
    return flips.lost + flips.gained if flips else None


def _of_graph(name: str, row: AnyRow) -> Value:
    graph = _graph(row)
    found: int | None = getattr(graph, name, None)
    return found


def _value(figure: Figure | None) -> Value:
    return None if figure is None else figure.value


VALUES: Mapping[str, Callable[[AnyRow], Value]] = {
    "network": lambda row: row.label.casefold(),
    "precision": lambda row: row.precision,
    "batch": lambda row: row.batch,
    "p50": partial(_latency, 50),
    "p90": partial(_latency, 90),
    "p99": partial(_latency, 99),
    "images/s": lambda row: _value(rate_of(row)),
    "top-1": lambda row: _value(top1_of(row)),
    "top-5": lambda row: _value(top5_of(row)),
    "agree": lambda row: _value(agreement_of(row)),
    "flips": _flips,
    "graph": partial(_of_graph, "bytes"),
    "params": partial(_of_graph, "parameters"),
    "mult-adds": partial(_of_graph, "multiply_adds"),
}
"""What each column is sorted by, under the first word of its title."""


class Order(NamedTuple):
    """Which column, and whether the largest comes first."""

    column: str
    descending: bool = False


def parse_order(text: str) -> Order:
    """``p50`` or ``top-1,desc``; a title as in the table's head will do too.

    Raises :class:`UsageError`, which names the columns.
    """
    name, comma, direction = text.strip().partition(",")
    if comma and direction.strip() not in ("asc", "desc"):
        raise UsageError(f"after the comma comes desc or asc, not {direction!r}")
    words = name.split()
    column = words[0].lower() if words else ""
    if column not in VALUES:
        raise UsageError(f"there is no column {name!r}; known: {', '.join(VALUES)}")
    return Order(column, direction.strip() == "desc")


def in_order(results: Results, order: Order | None) -> Results:
    """``results`` with the rows of each table in ``order``; those of equal value stay in theirs.

    A table that lacks the column stays as it is.
    """
    if order is None:
        return results
    return replace(
        results,
        rows=_sorted(results.rows, order),
        others=_sorted(results.others, order),
        scenarios=_sorted(results.scenarios, order),
        end_to_end=_sorted(results.end_to_end, order),
        peers=_sorted(results.peers, order),
    )


def _sorted(rows: Iterable[_Some], order: Order) -> tuple[_Some, ...]:
    value = VALUES[order.column]
    known: list[tuple[float | str, _Some]] = []
    unknown: list[_Some] = []
    for row in rows:
        found = value(row)
        if found is None:
            unknown.append(row)
        else:
            known.append((found, row))
    # Of one column all values are numbers, or all are words.
    known.sort(key=lambda pair: pair[0], reverse=order.descending)
    return (*(row for _, row in known), *unknown)
