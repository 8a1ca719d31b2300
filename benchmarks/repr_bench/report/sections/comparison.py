"""The comparison of two runs for a reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from repr_bench.report.document import NOTHING, Line, Note, Section, Tone, notes, table
from repr_bench.results.comparison import Comparison, RowVerdict
from repr_bench.statistics.intervals import Interval, decimals
from repr_bench.statistics.verdict import FORMULA

_TONES: Mapping[str, Tone] = {"slower": "bad", "faster": "good", "cannot tell": "warning"}


def comparison_section(comparison: Comparison) -> Section:
    """A verdict on each row, why nothing can be told of some, and what else differs."""
    columns = _columns(comparison)
    lines = [
        Line(tuple(text(row) for _, text in columns), _TONES.get(row.verdict, ""))
        for row in comparison.rows
    ]
    titles = [title for title, _ in columns]
    return Section(
        "comparison",
        "Comparison",
        text=f"Compared with {comparison.old}, measured {comparison.started}.",
        tables=(table("Table of verdicts", titles, lines, ("network", "precision", "verdict")),),
        notes=(*_doubts(comparison), *notes("meaning", explanations(comparison))),
    )


def _doubts(comparison: Comparison) -> Iterator[Note]:
    """Why rows have no verdict, and what besides time sets the runs apart."""
    for row in comparison.rows:
        if row.reason:
            yield Note("remark", f"{_title(row)}: cannot tell: {row.reason}")
    for row in comparison.rows:
        yield from notes("remark", (f"{_title(row)}: {text}" for text in row.warnings))
    if comparison.warnings:
        yield Note("caution", f"the runs differ in {'; '.join(comparison.warnings)}")


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
    places = 3 if interval is None else min(3, max(2, decimals(ratio, interval)))
    return f"{ratio:,.{places}f}"


def _between(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f" ({'–'.join(ratio_text(end, interval) for end in interval)})"


def _columns(comparison: Comparison) -> tuple[tuple[str, Callable[[RowVerdict], str]], ...]:
    """The table's columns: title, and a row's text in it."""
    return (
        ("network", lambda row: row.label),
        ("precision", lambda row: row.precision or NOTHING),
        ("batch", lambda row: str(row.batch or NOTHING)),
        ("verdict", lambda row: row.verdict),
        ("time ×", _ratio),
        (f"{comparison.confidence:.0%} interval", _interval),
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
