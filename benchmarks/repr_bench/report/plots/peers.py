"""Plots of peers: each network's ratio with its interval, and the mean over networks."""

from collections.abc import Sequence

from repr_bench.report.plots.canvas import (
    ACCENT,
    INK,
    SECOND,
    WIDTH,
    Key,
    decimal_ticks,
    key,
    one_axes,
    to_svg,
)
from repr_bench.results.peers import Overall
from repr_bench.statistics.intervals import CONFIDENCE_PERCENT, times

_ROW, _FRAME = 0.26, 0.75
"""Inches: the height of a network, and that of everything else."""
_ROOM = 1.1
"""Left and right of the outermost interval, as a factor."""


def ratio_plot(what: str, found: Overall, limits: tuple[float, float], prefix: str) -> str:
    """Each network's ratio and the mean, a line each, between ``limits`` on a log axis."""
    size = WIDTH, _ROW * (len(found.ratios) + 1) + _FRAME
    figure, axes = one_axes(size, "times as fast (log scale)", log="x", grid="x")
    axes.set_xlim(*limits)
    axes.axvline(1.0, color=INK, linewidth=1, zorder=1)
    lines = [(one.ours.label, one.figure, "o", ACCENT) for one in found.ratios]
    lines.append(("geometric mean", found.mean, "D", SECOND))
    for at, (_, ratio, mark, colour) in enumerate(lines):
        if ratio.interval is not None:
            axes.plot(ratio.interval, (at, at), color=colour, linewidth=1.4, zorder=2)
        axes.plot(ratio.value, at, mark, color=colour, markersize=5, zorder=3)
    names = [name.replace("$", r"\$") for name, *_ in lines]  # a dollar sign begins a formula
    axes.set_yticks(range(len(lines)), names)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    decimal_ticks(axes.xaxis, _steps(limits))
    summary = "; ".join(f"{name}: {times(ratio)}" for name, ratio, *_ in lines)
    return to_svg(figure, prefix, f"Ours against {what}", summary)


def ratio_keys() -> list[Key]:
    """The legend of :func:`ratio_plot`."""
    return [
        key("dot", ACCENT, "a network"),
        key("diamond", SECOND, "geometric mean over networks"),
        key("whisker", ACCENT, f"{CONFIDENCE_PERCENT} % interval"),
        key("line", INK, "as fast as ours"),
    ]


def common_limits(groups: Sequence[Overall]) -> tuple[float, float]:
    """The same ends for all plots, so that they can be compared by eye; 1 is within."""
    figures = [one.figure for found in groups for one in found.ratios]
    ends = [end for figure in figures for end in (figure.value, *(figure.interval or ()))]
    return min(1.0, *ends) / _ROOM, max(1.0, *ends) * _ROOM


def _steps(limits: tuple[float, float]) -> tuple[float, ...]:
    """Ticks within a decade: a narrow axis would have one or none of 1, 2, 5."""
    low, high = limits
    if high < 3 * low:
        return (1, 1.1, 1.2, 1.3, 1.5, 1.7, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    return (1, 1.5, 2, 3, 5, 7) if high < 20 * low else (1, 2, 5)
