"""The comparison of two runs for a reader: a table on the terminal, a section of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from repr_bench.report.sections.columns import NOTHING
from repr_bench.results.comparison import Comparison, RowVerdict
from repr_bench.statistics import intervals as statistics
from repr_bench.statistics.intervals import Interval
from repr_bench.statistics.verdict import FORMULA

_STYLES = {"slower": "red", "faster": "green", "cannot tell": "yellow"}


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print a line for each row, then why nothing can be told of some, and what else differs."""
    plain = not console.is_terminal
    table = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False)
    for title, numeric, _ in columns(comparison):
        table.add_column(
            Text(title), justify="right" if numeric else "left", no_wrap=plain, overflow="fold"
        )
    for row in comparison.rows:
        cells = (Text(text(row)) for _, _, text in columns(comparison))
        table.add_row(*cells, style=_STYLES.get(row.verdict, ""))
    console.print()
    _line(console, headline(comparison), "bold")
    console.print(table)
    for text in warnings(comparison):
        _line(console, text, "yellow")
    for text in explanations(comparison):
        _line(console, text, "dim")


def comparison_section(comparison: Comparison) -> Iterator[str]:
    """The body of the page's section, as HTML."""
    yield f"<p>{escape(headline(comparison))}.</p>"
    if found := warnings(comparison):
        yield '<ul class="warning">'
        yield from (f"<li>{escape(text)}</li>" for text in found)
        yield "</ul>"
    yield '<div class="scroll" tabindex="0" role="region" aria-label="Table of verdicts">'
    yield "<table><thead><tr>"
    for title, numeric, _ in columns(comparison):
        yield f'<th scope="col"{_class(numeric)}>{escape(title)}</th>'
    yield "</tr></thead><tbody>"
    for row in comparison.rows:
        yield '<tr class="warning">' if row.verdict in ("slower", "cannot tell") else "<tr>"
        for index, (_, numeric, text) in enumerate(columns(comparison)):
            tag, closing = ('th scope="row"', "th") if index == 0 else ("td", "td")
            yield f"<{tag}{_class(numeric)}>{escape(text(row))}</{closing}>"
        yield "</tr>"
    yield "</tbody></table></div><ul>"
    yield from (f"<li>{escape(text)}</li>" for text in explanations(comparison))
    yield "</ul>"


def warnings(comparison: Comparison) -> list[str]:
    """Why rows have no verdict, and what besides time sets the runs apart, a sentence each."""
    found = [f"{_title(row)}: cannot tell: {row.reason}" for row in comparison.rows if row.reason]
    found += [f"{_title(row)}: {text}" for row in comparison.rows for text in row.warnings]
    if comparison.warnings:
        found.append(f"Careful, the runs differ in {'; '.join(comparison.warnings)}")
    return found


def explanations(comparison: Comparison) -> list[str]:
    """What the machine itself did between the runs, and how a verdict is reached."""
    found = []
    if comparison.machine:
        parts = (
            f"{shift.what} × {ratio_text(shift.ratio, shift.interval)}{_between(shift.interval)}"
            for shift in comparison.machine
        )
        found.append(f"The machine itself, time now over then: {', '.join(parts)}.")
    found.append(
        f"same: within {comparison.least_percent:g} %, which is the smallest difference that "
        f"counts. {FORMULA}"
    )
    return found


def ratio_text(ratio: float, interval: Interval | None) -> str:
    """A ratio with the digits that its interval supports, three decimals at most."""
    decimals = 3 if interval is None else min(3, max(2, statistics.decimals(ratio, interval)))
    return f"{ratio:,.{decimals}f}"


def _between(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f" ({'–'.join(ratio_text(end, interval) for end in interval)})"


def headline(comparison: Comparison) -> str:
    """What the run is compared with."""
    return f"Compared with {comparison.old}, measured {comparison.started}"


def columns(comparison: Comparison) -> tuple[tuple[str, bool, Callable[[RowVerdict], str]], ...]:
    """The table's columns: title, whether of numbers, and a row's text in it."""
    return (
        ("network", False, lambda row: row.label),
        ("precision", False, lambda row: row.precision or NOTHING),
        ("batch", True, lambda row: str(row.batch or NOTHING)),
        ("verdict", False, lambda row: row.verdict),
        ("time ×", True, _ratio),
        (f"{comparison.confidence:.0%} interval", True, _interval),
    )


def _ratio(row: RowVerdict) -> str:
    return NOTHING if row.ratio is None else ratio_text(row.ratio, row.interval)


def _interval(row: RowVerdict) -> str:
    if row.interval is None:
        return NOTHING
    return "–".join(ratio_text(end, row.interval) for end in row.interval)


def _title(row: RowVerdict) -> str:
    batch = f"batch {row.batch}" if row.batch else ""
    return " ".join(part for part in (row.label, row.precision, batch) if part)


def _class(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _line(console: Console, text: str, style: str) -> None:
    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)
