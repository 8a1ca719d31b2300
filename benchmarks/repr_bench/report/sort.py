"""`--sort`: the rows of all tables in the order of one column, those without a figure last."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from repr_bench.errors import UsageError
from repr_bench.report.rows import AnyRow
from repr_bench.report.sections.columns import COLUMNS
from repr_bench.results.results import Results

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
    kinds = ("rows", "others", "scenarios", "end_to_end", "peers")
    found: dict[str, Any] = {kind: _sorted(getattr(results, kind), order) for kind in kinds}
    return replace(results, **found)


def _sorted(rows: Iterable[AnyRow], order: Order) -> tuple[Any, ...]:
    # Of one column all values are numbers, or all are words.
    values: list[tuple[Any, AnyRow]] = [(VALUES[order.column](row), row) for row in rows]
    known = [pair for pair in values if pair[0] is not None]
    known.sort(key=lambda pair: pair[0], reverse=order.descending)
    return (*(row for _, row in known), *(row for value, row in values if value is None))
