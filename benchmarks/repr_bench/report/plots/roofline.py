"""Plots of the roofline: networks below what the machine allows."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from repr_bench.report.plots.canvas import ACCENT, INK, SECOND, name_points, one_axes, to_svg, write
from repr_bench.results.roofline import Reached, Roofline

_ROOM = 1.6
"""Left and right of the points, and above the roof, as a factor."""


def roofline_plot(roofline: Roofline, rows: Sequence[Reached], prefix: str) -> str:
    """Intensity against 10⁹ operations a second of ``rows``, below the roofs; both axes log."""
    across, up = "operations a byte (log scale)", "10⁹ operations a second (log scale)"
    figure, axes = one_axes((9.0, 5.6), across, up, log="xy")
    points = [(row.work.intensity, row.gflops) for row in rows]
    int8 = any(row.work.precision == "int8" for row in rows)
    _draw_roofs(axes, roofline, points, int8=int8)
    for row, point in zip(rows, points, strict=True):
        colour = SECOND if row.work.precision == "int8" else ACCENT
        axes.plot(*point, "o", color=colour, markersize=6, zorder=3)
    alone = {row.work.precision for row in rows} == {"fp32"}
    names = [row.work.label if alone else f"{row.work.label} {row.work.precision}" for row in rows]
    name_points(figure, axes, points, names)
    summary = "; ".join(
        f"{row.work.label} {row.work.precision}: {row.work.intensity:.4g} operations a byte, "
        f"{row.gflops:.4g} GFLOP/s, {row.share_percent:.3g} % of {row.ceiling:.4g}"
        for row in rows
    )
    return to_svg(figure, prefix, f"Roofline. {summary}")


def _draw_roofs(
    axes: Axes, roofline: Roofline, points: Sequence[tuple[float, float]], *, int8: bool
) -> None:
    across, up = zip(*points, strict=True)
    memory, cache = roofline.best("memory"), roofline.best("cache")
    peaks = [p for p in (roofline.best("float32"), roofline.best("int8") if int8 else None) if p]
    assert memory is not None, "rows without a roof are not drawn"
    ridge = peaks[0].rate / memory.rate
    left, right = min(*across, ridge) / _ROOM, max(*across, ridge) * _ROOM
    x = np.geomspace(left, right, 200)
    for peak, colour in zip(peaks, (INK, SECOND), strict=False):
        axes.plot(x, np.minimum(peak.rate, x * memory.rate), color=colour, linewidth=1.2, zorder=1)
        if cache is not None:
            roof = np.minimum(peak.rate, x * cache.rate)
            axes.plot(x, roof, "--", color=colour, linewidth=0.8, zorder=1)
        name = f"{peak.kind} {peak.rate:,.0f}"
        write(axes, name, (right, peak.rate), (0, 3), ha="right", color=colour)
    axes.set_xlim(left, right)
    top = max(*up, *(peak.rate for peak in peaks)) * _ROOM
    axes.set_ylim(min(*up, *(left * memory.rate for _ in peaks)) / _ROOM, top)
