"""The table on a terminal, as wide as there is room for, and plain in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from repr_bench.report.sections.columns import (
    COLUMNS,
    NOTHING,
    Column,
    marked,
    other_text,
    shown_columns,
    title_of,
)
from repr_bench.report.sections.comparison import print_comparison
from repr_bench.report.sections.figures import cautions, meanings, problems
from repr_bench.report.sections.profiles import print_profiles
from repr_bench.report.sections.roofline import print_roofline
from repr_bench.results.other_tools import OtherRow
from repr_bench.results.results import Results
from repr_bench.results.row import Row


def print_report(results: Results, console: Console) -> None:
    """Print the table and the sentences below it.

    Columns that have no room leave, the least important first, and their names are said;
    where not even the rest fits, each row becomes a block of lines.
    """
    _print_rows(results, console)
    for text in problems(results):
        _line(console, text, "yellow")
    for text in cautions(results):
        _line(console, f"Careful: {text}", "yellow")
    for text in meanings(results):
        _line(console, text, "dim")
    if results.comparison:
        print_comparison(results.comparison, console)
    print_roofline(results, console)
    print_profiles(results, console)


def print_others(results: Results, console: Console) -> None:
    """Print the runs of other tools alone, below tables that have no place for them."""
    if results.others:
        console.print()
        _print_rows(replace(results, rows=()), console)
        for other in results.others:
            _line(console, other.meaning, "dim")


def _print_rows(results: Results, console: Console) -> None:
    kept, left = _fitting(results.rows, results.others, console)
    if kept:
        plain = not console.is_terminal
        console.print(_table(results.rows, results.others, kept, plain=plain))
    else:
        for row in results.rows:
            _print_block(row, console)
        for other in results.others:
            _line(console, other.label, "bold")
            for column in COLUMNS[2:]:
                if (text := other_text(column, other)) != NOTHING:
                    _line(console, f"  {column.title}: {text}", "")
    if left:
        _line(console, f"No room for {', '.join(left)}: in --json, or on a wider terminal.", "dim")


def _fitting(
    rows: Sequence[Row], others: Sequence[OtherRow], console: Console
) -> tuple[list[Column], list[str]]:
    """The columns that fit, none if too few do, and the titles of those that had to leave."""
    kept, left = shown_columns(rows), list[str]()
    while not _fits(rows, others, kept, console):
        spare = max(kept, key=lambda column: column.spare)
        if not spare.spare:
            return [], []
        kept.remove(spare)
        left.insert(0, spare.title)
    return kept, left


def _fits(
    rows: Sequence[Row], others: Sequence[OtherRow], columns: Sequence[Column], console: Console
) -> bool:
    table = _table(rows, others, columns, plain=False)
    needed = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    return not console.is_terminal or needed <= console.width


def _table(
    rows: Sequence[Row], others: Sequence[OtherRow], columns: Sequence[Column], *, plain: bool
) -> Table:
    table = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(
            Text(column.title), justify="right" if column.numeric else "left", no_wrap=True
        )
    for row in rows:
        style = "" if row.status == "measured" else "yellow"
        table.add_row(*(Text(column.text(row)) for column in columns), style=style)
    for other in others:
        table.add_row(*(Text(other_text(column, other)) for column in columns))
    return table


def _print_block(row: Row, console: Console) -> None:
    _line(console, marked(title_of(row), row), "bold")
    for column in COLUMNS[3:]:
        if (text := column.text(row)) != NOTHING:
            _line(console, f"  {column.title}: {text}", "")


def _line(console: Console, text: str, style: str) -> None:
    # As Text, since names and paths are no markup; in a pipe a line stays one line.
    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)
