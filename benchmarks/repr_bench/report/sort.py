"""`--sort`: the rows of all tables in the order of one column, those without a figure last."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from repr_bench.errors import UsageError
from repr_bench.report.rows import AnyRow
from repr_bench.report.sections.columns import COLUMNS
from repr_bench.results.results import Results

_Some = TypeVar("_Some", bound=AnyRow)
VALUES = {column.title.split()[0]: column.value for column in COLUMNS}
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
    # Of one column all values are numbers, or all are words.
    values: list[tuple[Any, _Some]] = [(VALUES[order.column](row), row) for row in rows]
    known = [pair for pair in values if pair[0] is not None]
    known.sort(key=lambda pair: pair[0], reverse=order.descending)
    return (*(row for _, row in known), *(row for value, row in values if value is None))
