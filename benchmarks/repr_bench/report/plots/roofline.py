"""Plots of the roofline: networks below what the machine allows."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from repr_bench.report.plots.canvas import (
    HEIGHT,
    INK,
    SECOND,
    WIDTH,
    Key,
    colour_of,
    key,
    name_points,
    one_axes,
    precision_keys,
    to_svg,
)
from repr_bench.results.roofline import Peak, Reached, Roofline

_COLOURS = (INK, SECOND, colour_of("fp16"), colour_of("bf16"))
_ROOM = 1.6
"""Left and right of the points, and above the roof, as a factor."""


def roofline_plot(roofline: Roofline, rows: Sequence[Reached], prefix: str) -> str:
    """Intensity against 10⁹ operations a second of ``rows``, below the roofs; both axes log."""
    across, up = "operations a byte (log scale)", "10⁹ operations a second (log scale)"
    figure, axes = one_axes((WIDTH, HEIGHT), across, up, log="xy")
    points = [(row.work.intensity, row.gflops) for row in rows]
    roofs = _draw_roofs(axes, roofline, points, _peaks(roofline, rows))
    for row, point in zip(rows, points, strict=True):
        axes.plot(*point, "o", color=colour_of(row.work.precision), markersize=6, zorder=3)
    name_points(figure, axes, points, [row.work.label for row in rows], lines=roofs)
    summary = "; ".join(
        f"{row.work.label} {row.work.precision}: {row.work.intensity:.4g} operations a byte, "
        f"{row.gflops:.4g} GFLOP/s, {row.share_percent:.3g} % of {row.ceiling:.4g}"
        for row in rows
    )
    return to_svg(figure, prefix, f"Roofline. {summary}")


def _draw_roofs(
    axes: Axes, roofline: Roofline, points: Sequence[tuple[float, float]], peaks: Sequence[Peak]
) -> list[list[tuple[float, float]]]:
    """Draw the roofs over ``points``, and say where they run."""
    across, up = zip(*points, strict=True)
    memory, cache = roofline.best("memory"), roofline.best("cache")
    assert memory is not None, "rows without a roof are not drawn"
    ridge = peaks[0].rate / memory.rate
    left, right = min(*across, ridge) / _ROOM, max(*across, ridge) * _ROOM
    x = np.geomspace(left, right, 200)
    roofs = []
    for peak, colour in zip(peaks, _COLOURS, strict=False):
        for rate, style in ((memory.rate, "-"), (cache.rate if cache else None, "--")):
            if rate is not None:
                roof = np.minimum(peak.rate, x * rate)
                width = 1.2 if style == "-" else 0.8
                axes.plot(x, roof, style, color=colour, linewidth=width, zorder=1)
                corner = peak.rate / rate
                ends = [left, *([corner] if left < corner < right else []), right]
                roofs.append([(at, min(peak.rate, at * rate)) for at in ends])
    axes.set_xlim(left, right)
    top = max(*up, *(peak.rate for peak in peaks)) * _ROOM
    axes.set_ylim(min(*up, *(left * memory.rate for _ in peaks)) / _ROOM, top)
    return roofs


def _peaks(roofline: Roofline, rows: Sequence[Reached]) -> list[Peak]:
    """The peak of each precision that is drawn, float32's first; without a GPU that one always."""
    precisions = {row.work.precision for row in rows} | ({"fp32"} if roofline.threads else set())
    found = (
        roofline.compute_peak(name)
        for name in ("fp32", "int8", "fp16", "bf16")
        if name in precisions
    )
    return [peak for peak in found if peak]


def roofline_keys(roofline: Roofline, rows: Sequence[Reached]) -> list[Key]:
    """The legend of :func:`roofline_plot`."""
    found = precision_keys(row.work.precision for row in rows)
    for peak, colour in zip(_peaks(roofline, rows), _COLOURS, strict=False):
        found.append(key("line", colour, f"{peak.kind} from memory, {peak.rate:,.0f} at most"))
    if roofline.best("cache") is not None:
        found.append(key("dash", INK, "the same from the second-level cache"))
    return found
