"""The comparison of two runs for a reader."""

from collections.abc import Iterator, Mapping

from repr_bench.report.dates import moment
from repr_bench.report.document import NOTHING, Line, Note, Section, Tone, notes, table
from repr_bench.report.rows import title_of
from repr_bench.results.comparison import Comparison, RowVerdict
from repr_bench.statistics.intervals import Interval, decimals
from repr_bench.statistics.verdict import FORMULA

_TONES: Mapping[str, Tone] = {"slower": "bad", "faster": "good", "cannot tell": "warning"}


def comparison_section(comparison: Comparison) -> Section:
    """A verdict on each row, why nothing can be told of some, and what else differs."""
    lines = [Line(_cells(row), _TONES.get(row.verdict, "")) for row in comparison.rows]
    interval = f"{comparison.confidence:.0%} interval"
    titles = ("network", "precision", "batch", "verdict", "time ×", interval)
    return Section(
        "comparison",
        "Comparison",
        text=f"Compared with {comparison.old}, measured {moment(comparison.started)}.",
        tables=(table("Table of verdicts", titles, lines, ("network", "precision", "verdict")),),
        notes=(*_doubts(comparison), *notes("meaning", explanations(comparison))),
    )


def _doubts(comparison: Comparison) -> Iterator[Note]:
    """Why rows have no verdict, and what besides time sets the runs apart."""
    for row in comparison.rows:
        if row.reason:
            yield Note("remark", f"{title_of(row)}: cannot tell: {row.reason}")
    for row in comparison.rows:
        yield from notes("remark", (f"{title_of(row)}: {text}" for text in row.warnings))
    if comparison.warnings:
        yield Note("caution", f"the runs differ in {'; '.join(comparison.warnings)}")


def explanations(comparison: Comparison) -> list[str]:
    """What the machine itself did between the runs, and how a verdict is reached."""
    found = []
    if comparison.machine:
        parts = (
            f"{shift.what} × {ratio_text(shift.ratio, shift.interval)}"
            + (f" ({_ends(shift.interval)})" if shift.interval else "")
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


def _ends(interval: Interval | None) -> str:
    return "–".join(ratio_text(end, interval) for end in interval or ())


def _cells(row: RowVerdict) -> tuple[str, ...]:
    return (
        *(row.label, row.precision or NOTHING, str(row.batch or NOTHING), row.verdict),
        NOTHING if row.ratio is None else ratio_text(row.ratio, row.interval),
        _ends(row.interval) or NOTHING,
    )
