"""Plots as SVG for the page: latency against accuracy, and the raw distributions.

Drawn by matplotlib with text left as text. Colours are placeholders that become CSS
variables, so that the same drawing serves a light and a dark page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from repr_bench.report.sections.columns import title_of
from repr_bench.results.row import PERCENTILES, UNIT_NS, Row

INK, FAINT, ACCENT, SECOND = "#010203", "#020304", "#030405", "#040506"
_VARIABLES = {INK: "--ink", FAINT: "--faint", ACCENT: "--accent", SECOND: "--second"}
_MOST_BINS = 80
_SVG_DPI = 72
"""What the SVG backend draws at, so that places in pixels are the same before and after."""
_LABEL_POINTS = 8
_FARTHEST_LINES = 16
_LOGARITHMIC_FROM = 5
"""Slowest over fastest sample from which a linear axis would hide most of them."""


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (latency, accuracy) points that no other beats in both, by latency."""
    front: list[int] = []
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    for index in order:
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def pareto_plot(rows: Sequence[Row], prefix: str) -> str:
    """p50 latency against top-1 of ``rows``, with both intervals and the Pareto front."""
    figure, axes = _axes(9.6, 4.4)
    points = []
    for row in rows:
        latency = row.latency_ms[50]
        assert row.graph is not None, "only rows with an accuracy are drawn"
        assert row.graph.accuracy is not None
        top1 = row.graph.accuracy.top1_percent
        points.append((latency.value, top1.value))
        for interval, horizontal in ((latency.interval, True), (top1.interval, False)):
            if interval is None:
                continue
            ends, x, y = (interval.low, interval.high), (latency.value,) * 2, (top1.value,) * 2
            axes.plot(
                ends if horizontal else x,
                y if horizontal else ends,
                color=FAINT,
                linewidth=1.2,
                solid_capstyle="butt",
            )
    front = pareto_front(points)
    axes.plot(*zip(*(points[i] for i in front), strict=True), color=ACCENT, linewidth=1, zorder=2)
    for index, point in enumerate(points):
        axes.plot(*point, "o", color=ACCENT if index in front else SECOND, markersize=6, zorder=3)
    axes.set_xscale("log")
    _decimal_ticks(axes)
    axes.margins(x=0.25, y=0.15)
    _name_points(figure, axes, points, [f"{row.label} {row.precision}" for row in rows])
    axes.set_xlabel("p50 latency, ms (log scale)")
    axes.set_ylabel("top-1, %")
    axes.grid(color=FAINT, linewidth=0.4, alpha=0.5)
    summary = "; ".join(
        f"{title_of(row)}: {x:.4g} ms, {y:.2f} %" for row, (x, y) in zip(rows, points, strict=True)
    )
    return _svg(figure, prefix, f"Latency against accuracy. {summary}")


def distribution_plot(row: Row, prefix: str) -> str:
    """All samples of one row as a histogram, its percentiles marked, and each round's median."""
    figure = _figure(6.4, 1.5)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    rounds = [np.array(samples) / UNIT_NS for samples in row.rounds_ns]
    pooled = np.concatenate(rounds)
    # The slowest thousandth would squeeze all others into one bar: it stands in the last one.
    end = float(np.quantile(pooled, 0.999, method="higher"))
    start = float(pooled.min())
    bins = min(_MOST_BINS, max(10, round(2 * pooled.size**0.5)))
    if end <= start:  # all samples are equal
        end = start * 1.01 + 1e-9
    spread = end > _LOGARITHMIC_FROM * start > 0
    edges = (np.geomspace if spread else np.linspace)(start, end, bins + 1)
    left.set_xscale("log" if spread else "linear")
    counts, _ = np.histogram(np.minimum(pooled, edges[-1]), edges)
    left.stairs(counts, edges, fill=True, color=ACCENT, linewidth=0)
    for percent in PERCENTILES:
        value = min(row.latency_ms[percent].value, float(edges[-1]))
        left.axvline(value, color=INK, linewidth=0.8)
        left.annotate(
            f"p{percent}",
            (value, 1),
            (0, 2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=INK,
        )
    left.set_yticks([])
    left.set_xlabel("ms (log scale)" if spread else "ms")
    if spread:
        _decimal_ticks(left)
    numbers = range(1, len(rounds) + 1)
    right.plot(numbers, [float(np.median(r)) for r in rounds], ".-", color=ACCENT, linewidth=0.8)
    right.set_xlabel("round: median, ms")
    right.set_xlim(0, max(row_count := len(rounds), 2) + 1)
    right.set_xticks(sorted({1, row_count}))
    for axes in (left, right):
        _dress(axes)
    summary = ", ".join(f"p{p} {row.latency_ms[p]} ms" for p in PERCENTILES)
    return _svg(figure, prefix, f"{title_of(row)}: {row.samples:,} samples, {summary}")


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, on which text is measured as the SVG backend will set it."""
    figure = Figure(figsize=(width, height), dpi=_SVG_DPI)
    FigureCanvasSVG(figure)
    return figure


def _lay_out(figure: Figure) -> None:
    """Make room for what stands outside the axes.

    Done here once: a figure that has a layout is drawn twice by matplotlib, the first time for
    nothing but its layout.
    """
    ConstrainedLayoutEngine().execute(figure)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _figure(width, height)
    axes = figure.subplots()
    _dress(axes)
    return figure, axes


def _dress(axes: Axes) -> None:
    axes.tick_params(which="both", colors=INK, labelsize=8, width=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=INK, fontsize=9)


def _decimal_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _name_points(
    figure: Figure, axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str]
) -> None:
    """Write each name near its point: the nearest place where it covers no point and no name."""
    _lay_out(figure)  # it must stand before places are compared
    at = axes.transData.transform(points)
    height = 1.3 * _LABEL_POINTS
    taken = [_Box(x - 4, y - 4, x + 4, y + 4) for x, y in at]
    for (x, y), point, name in sorted(zip(at, points, names, strict=True), key=lambda p: -p[0][1]):
        width = 0.6 * _LABEL_POINTS * len(name)
        places = [
            (dx, dy * height)
            for distance in (lines + 0.6 for lines in range(_FARTHEST_LINES))
            for dx, dy in (
                (10.0, distance),
                (-10.0 - width, distance),
                (10.0, -distance),
                (-10.0 - width, -distance),
            )
        ]
        boxes = [
            _Box(x + dx, y + dy - height / 2, x + dx + width, y + dy + height / 2)
            for dx, dy in places
        ]
        inside = _Box(*axes.bbox.extents)
        free = (b for b in boxes if b.within(inside) and not any(b.meets(t) for t in taken))
        box = next(free, boxes[0])
        taken.append(box)
        far = abs(box.middle - y) > height
        axes.annotate(
            name.replace("$", r"\$"),  # a dollar sign would begin a formula
            point,
            (box.left - x, box.middle - y),
            textcoords="offset pixels",
            va="center",
            fontsize=_LABEL_POINTS,
            color=INK,
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.6} if far else None,
        )


class _Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def middle(self) -> float:
        return (self.bottom + self.top) / 2

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )

    def within(self, other: _Box) -> bool:
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.bottom >= other.bottom
            and self.top <= other.top
        )


def _svg(figure: Figure, prefix: str, summary: str, description: str = "") -> str:
    """The figure as an element for a page: no addresses, ids of its own, colours by CSS.

    ``summary`` is read aloud; with a ``description`` it is the title, and that the details.
    """
    import matplotlib as mpl

    stream = io.StringIO()
    style = {"svg.fonttype": "none", "font.family": ["sans-serif"], "svg.hashsalt": prefix}
    with mpl.rc_context(style):  # type: ignore[arg-type]
        _lay_out(figure)
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{prefix}-", text)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    opening = f'<svg role="img" aria-label="{escape(summary)}"'
    if not description:
        return text.replace("<svg", opening, 1)
    start, rest = text.replace("<svg", f'{opening} aria-describedby="{prefix}-desc"', 1).split(
        ">", 1
    )
    words = f'<title>{escape(summary)}</title><desc id="{prefix}-desc">{escape(description)}</desc>'
    return f"{start}>{words}{rest}"
