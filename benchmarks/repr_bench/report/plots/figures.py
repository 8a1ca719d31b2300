"""Plots of the main table: latency against accuracy, and the raw distributions."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from repr_bench.report.frontier import pareto_front, point
from repr_bench.report.plots.canvas import (
    ACCENT,
    FAINT,
    HEIGHT,
    INK,
    WIDTH,
    Key,
    Mark,
    colour_of,
    decimal_ticks,
    dress,
    empty_figure,
    key,
    name_points,
    one_axes,
    precision_keys,
    to_svg,
)
from repr_bench.report.rows import title_of
from repr_bench.results.row import Row
from repr_bench.results.trials import PERCENTILES
from repr_bench.statistics.intervals import CONFIDENCE_PERCENT

_MOST_BINS = 80
_LOGARITHMIC_FROM = 5
"""Slowest over fastest sample from which a linear axis would hide most of them."""


MOST_NAMES = 16
"""Of more points those alone have names that no other beats."""
PERCENTILE_LINES: Mapping[int, tuple[str, Mark]] = {
    50: ("-", "line"),
    90: ("--", "dash"),
    99: (":", "dots"),
}


def pareto_plot(rows: Sequence[Row], prefix: str) -> str:
    """p50 latency against top-1 of ``rows``, with both intervals and the Pareto front."""
    across = "p50 latency, ms (log scale)"
    figure, axes = one_axes((WIDTH, HEIGHT), across, "top-1, %", log="x")
    points, bars = [*map(point, rows)], []
    for row, (x, y) in zip(rows, points, strict=True):
        assert row.graph is not None, "only rows with an accuracy are drawn"
        if within := row.latency_ms[50].interval:
            bars.append([(end, y) for end in within])
        if within := row.graph.figures["top1_percent"].interval:
            bars.append([(x, end) for end in within])
    for bar in bars:
        axes.plot(*zip(*bar, strict=True), color=FAINT, linewidth=1.2, solid_capstyle="butt")
    front = pareto_front(points)
    best = [points[index] for index in front]
    axes.plot(*zip(*best, strict=True), color=INK, linewidth=1, zorder=2)
    for row, at in zip(rows, points, strict=True):
        axes.plot(*at, "o", color=colour_of(row.precision), markersize=6, zorder=3)
    axes.margins(x=0.25, y=0.15)
    everyone = len(points) <= MOST_NAMES
    names = [row.label if everyone or at in front else "" for at, row in enumerate(rows)]
    name_points(figure, axes, points, names, lines=[best, *bars])
    summary = "; ".join(
        f"{title_of(row)}: {x:.4g} ms, {y:.2f} %" for row, (x, y) in zip(rows, points, strict=True)
    )
    return to_svg(figure, prefix, f"Latency against accuracy. {summary}")


def pareto_keys(rows: Sequence[Row]) -> list[Key]:
    """The legend of :func:`pareto_plot`."""
    return [
        *precision_keys(row.precision for row in rows),
        key("line", INK, "no other is both faster and more accurate"),
        key("whisker", FAINT, f"{CONFIDENCE_PERCENT} % interval"),
    ]


def distribution_keys() -> list[Key]:
    """The legend of :func:`distribution_plot`."""
    marks = [key(mark, INK, f"p{p}") for p, (_, mark) in PERCENTILE_LINES.items()]
    return [key("bar", ACCENT, "samples"), *marks, key("dot", ACCENT, "median of a round")]


def distribution_plot(row: Row, prefix: str) -> str:
    """All samples of one row as a histogram, its percentiles marked, and each round's median."""
    figure = empty_figure(WIDTH, 1.6)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    rounds = [np.array(samples) / 1e6 for samples in row.rounds_ns]
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
    for percent, (style, _) in PERCENTILE_LINES.items():
        value = min(row.latency_ms[percent].value, float(edges[-1]))
        left.axvline(value, color=INK, linewidth=1, linestyle=style)
    left.set_yticks([])
    left.set_xlabel("ms (log scale)" if spread else "ms")
    if spread:
        decimal_ticks(left.xaxis)
    else:
        left.xaxis.set_major_locator(MaxNLocator(5))
    numbers = range(1, len(rounds) + 1)
    right.plot(numbers, [float(np.median(r)) for r in rounds], ".-", color=ACCENT, linewidth=0.8)
    right.set_xlabel("round: median, ms")
    right.set_xlim(0, max(row_count := len(rounds), 2) + 1)
    right.set_xticks(sorted({1, row_count}))
    for axes in (left, right):
        dress(axes)
    summary = ", ".join(f"p{p} {row.latency_ms[p]} ms" for p in PERCENTILES)
    return to_svg(figure, prefix, f"{title_of(row)}: {row.samples:,} samples, {summary}")
