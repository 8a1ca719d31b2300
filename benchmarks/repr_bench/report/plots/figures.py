"""Plots of the main table: latency against accuracy, and the raw distributions."""

from collections.abc import Sequence

import numpy as np

from repr_bench.report.plots.canvas import (
    ACCENT,
    FAINT,
    INK,
    SECOND,
    decimal_ticks,
    dress,
    empty_figure,
    name_points,
    one_axes,
    to_svg,
    write,
)
from repr_bench.report.rows import title_of
from repr_bench.results.row import Row
from repr_bench.results.trials import PERCENTILES

_MOST_BINS = 80
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
    across = "p50 latency, ms (log scale)"
    figure, axes = one_axes((9.6, 4.4), across, "top-1, %", log="x")
    points = []
    for row in rows:
        latency = row.latency_ms[50]
        assert row.graph is not None, "only rows with an accuracy are drawn"
        top1 = row.graph.figures["top1_percent"]
        points.append((latency.value, top1.value))
        x, y = (latency.value,) * 2, (top1.value,) * 2
        for ends, others in ((latency.interval, y), (x, top1.interval)):
            if ends and others:
                axes.plot(ends, others, color=FAINT, linewidth=1.2, solid_capstyle="butt")
    front = pareto_front(points)
    axes.plot(*zip(*(points[i] for i in front), strict=True), color=ACCENT, linewidth=1, zorder=2)
    for index, point in enumerate(points):
        axes.plot(*point, "o", color=ACCENT if index in front else SECOND, markersize=6, zorder=3)
    axes.margins(x=0.25, y=0.15)
    name_points(figure, axes, points, [f"{row.label} {row.precision}" for row in rows])
    summary = "; ".join(
        f"{title_of(row)}: {x:.4g} ms, {y:.2f} %" for row, (x, y) in zip(rows, points, strict=True)
    )
    return to_svg(figure, prefix, f"Latency against accuracy. {summary}")


def distribution_plot(row: Row, prefix: str) -> str:
    """All samples of one row as a histogram, its percentiles marked, and each round's median."""
    figure = empty_figure(6.4, 1.5)
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
    for percent in PERCENTILES:
        value = min(row.latency_ms[percent].value, float(edges[-1]))
        left.axvline(value, color=INK, linewidth=0.8)
        top = ("data", "axes fraction")
        write(left, f"p{percent}", (value, 1), (0, 2), xycoords=top, ha="center", fontsize=7)
    left.set_yticks([])
    left.set_xlabel("ms (log scale)" if spread else "ms")
    if spread:
        decimal_ticks(left.xaxis)
    numbers = range(1, len(rounds) + 1)
    right.plot(numbers, [float(np.median(r)) for r in rounds], ".-", color=ACCENT, linewidth=0.8)
    right.set_xlabel("round: median, ms")
    right.set_xlim(0, max(row_count := len(rounds), 2) + 1)
    right.set_xticks(sorted({1, row_count}))
    for axes in (left, right):
        dress(axes)
    summary = ", ".join(f"p{p} {row.latency_ms[p]} ms" for p in PERCENTILES)
    return to_svg(figure, prefix, f"{title_of(row)}: {row.samples:,} samples, {summary}")
