"""The bars on the page: each row's p50 from zero, by batch and network, its accuracy beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from repr_bench.report.document import NOTHING
from repr_bench.report.plots.canvas import INK, Key, colour_of, key, precision_keys
from repr_bench.report.rows import answer_of
from repr_bench.report.sections.columns import BELOW_BAR, agreement_text, marked, text_of, top1_text
from repr_bench.results.results import Results
from repr_bench.results.row import Row
from repr_bench.statistics.intervals import CONFIDENCE_PERCENT


@dataclass(frozen=True)
class Bar:
    """One row: ``end`` is its p50 in percent of the panel's width, ``low`` to ``high`` its interval.

    ``colour`` is a variable of the style sheet, ``hollow`` a bar whose latency says nothing, and
    ``within`` the interval of the accuracy.
    """

    precision: str
    colour: str
    latency: str
    end: float
    low: float
    high: float
    accuracy: str
    within: str
    hollow: bool


@dataclass(frozen=True)
class Panel:
    """All rows of a batch size; ``groups`` are networks, each with its bars."""

    batch: int
    groups: tuple[tuple[str, tuple[Bar, ...]], ...]
    accuracy: str

    @property
    def remarks(self) -> list[str]:
        """What the marks in it mean."""
        found = []
        if any(bar.hollow for _, bars in self.groups for bar in bars):
            found.append("Hollow: emulated on this device, its latency says nothing.")
        if any(name.endswith(f" {BELOW_BAR}") for name, _ in self.groups):
            found.append(f"{BELOW_BAR} its weights are below their bar.")
        return found


def panels(results: Results) -> list[Panel]:
    """A panel for each batch size, the smallest first; rows in their order, those timed alone."""
    timed = [row for row in results.rows if row.samples]
    return [
        _panel(batch, [row for row in timed if row.batch == batch])
        for batch in sorted({row.batch for row in timed if row.batch})
    ]


def beside(results: Results) -> str:
    """What stands beside the bars, in a sentence."""
    graphs = [row.graph for row in results.rows if row.samples and row.graph]
    images = dict.fromkeys(graph.accuracy.description for graph in graphs if graph.accuracy)
    if images:
        return f"Beside it top-1 with its 95 % interval, on {'; '.join(images)}."
    compared = dict.fromkeys(graph.agreement.reference for graph in graphs if graph.agreement)
    if compared:
        return f"Beside it the share of the same answers as {' or '.join(compared)}."
    return ""


def bar_keys(results: Results) -> list[Key]:
    """The legend of all panels."""
    found = precision_keys((row.precision for row in results.rows if row.samples), "bar")
    return [*found, key("line", INK, f"{CONFIDENCE_PERCENT} % interval of the latency")]


def _panel(batch: int, rows: Sequence[Row]) -> Panel:
    top1 = any(answer_of(row, "top1_percent") for row in rows)
    agree = any(answer_of(row, "agreement_percent") for row in rows)
    longest = max(end for row in rows for end in _ends(row))
    names = dict.fromkeys(marked(row) for row in rows)
    return Panel(
        batch,
        tuple((name, tuple(_bars(rows, name, longest, top1=top1))) for name in names),
        "top-1 %" if top1 else "same answers %" if agree else "",
    )


def _bars(rows: Sequence[Row], name: str, longest: float, *, top1: bool) -> Iterator[Bar]:
    for row in rows:
        if marked(row) == name:
            figure = row.latency_ms[50]
            low, end, high = (100 * value / longest for value in _ends(row))
            # 75.00 (73.1–76.8), or words
            shown, _, within = (top1_text(row) if top1 else agreement_text(row)).partition(" (")
            yield Bar(
                precision=row.precision or NOTHING,
                colour=key("bar", colour_of(row.precision), "").colour,
                latency=text_of(figure),
                end=end,
                low=low,
                high=high,
                accuracy=shown,
                within=within.rstrip(")"),
                hollow=row.emulated,
            )


def _ends(row: Row) -> tuple[float, float, float]:
    """The low end of the p50's interval, the p50, and the high end, in ms."""
    value, interval = row.latency_ms[50]
    low, high = interval or (value, value)
    return low, value, high
