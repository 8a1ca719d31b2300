"""The curve of a server: latency against the offered rate, with the bound and the rate that held."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from repr_bench.report.plots.canvas import ACCENT, FAINT, INK, SECOND, one_axes, to_svg, write
from repr_bench.report.rows import title_of
from repr_bench.results.scenarios import ScenarioRow
from repr_bench.results.trials import RateTrial, per_second

_ROOM = 1.6
"""Above and below the latencies, as a factor."""
SERVER_CAPTION = (
    "Full marks held the bound, hollow ones did not; arrows at the edge are percentiles that no "
    "answer bounds. Bars are 95 % intervals. The table has the same figures, and says where the load "
    "generator was late: there nobody knows what the network does."
)
_CURVES = ((50, ACCENT, "s"), (99, SECOND, "o"))
"""Percentile, colour and mark: a mark of its own, for readers who see no difference in colour."""


def server_plot(row: ScenarioRow, prefix: str) -> str:
    """p50 and p99 in ms of each rate that ``row`` tried; both axes logarithmic.

    Full marks held the bound, hollow ones did not. A percentile that no answer bounds is drawn
    as an arrow at the upper edge. Raises ``ValueError`` for a row without trials.
    """
    if not row.trials:
        raise ValueError(f"{title_of(row)} tried no rates, there is nothing to draw")
    across, up = "offered queries/s (log scale)", "latency, ms (log scale)"
    figure, axes = one_axes((9.0, 3.6), across, up, log="xy")
    bound = row.trials[0].slo_ms
    # by rate, the confirming run of a rate last
    trials = sorted(row.trials, key=lambda trial: (trial.offered, trial.confirms))
    known = [f.value for t in trials for p, *_ in _CURVES if (f := t.latency_ms.get(p)) is not None]
    shown = [value for value in known if value > 0 and math.isfinite(value)] + [bound]
    low = min(shown) / _ROOM
    axes.set_ylim(low, max(shown) * _ROOM)
    first, last = trials[0].offered, trials[-1].offered
    room = max(last / first, 1.5) ** 0.06
    axes.set_xlim(first / room, last * room**2)  # to the right the curves' names stand
    axes.axhline(bound, color=INK, linewidth=1, linestyle="--", zorder=1)
    _write(axes, f"bound {bound:g} ms", (axes.get_xlim()[0], bound), (4, 3), "left")
    if row.rate is not None:
        axes.axvline(row.rate, color=INK, linewidth=1, linestyle=":", zorder=1)
        # below the curves, on the side where there is more room
        text, at = f"{per_second(row.rate)}/s confirmed", (row.rate, low)
        if row.rate**2 > first * last:
            _write(axes, text, at, (-4, 4), "right")
        else:
            _write(axes, text, at, (4, 4), "left")
    for percent, colour, mark in _CURVES:
        _draw(axes, trials, percent, colour, mark)
    return to_svg(
        figure, prefix, f"Latency against offered rate, {title_of(row)}", _describe(row, trials)
    )


def _describe(row: ScenarioRow, trials: Sequence[RateTrial]) -> str:
    """The curve in words: each rate with its percentiles, and what was confirmed."""
    found = "no rate was confirmed"
    if row.rate is not None:
        found = f"{per_second(row.rate)} queries/s confirmed within {row.trials[0].slo_ms:g} ms"
    rates = (
        f"{per_second(trial.offered)}/s: {_words(trial, 50)}, {_words(trial, 99)}, {trial.outcome}"
        for trial in trials
    )
    return f"{found}; {'; '.join(rates)}"


def _words(trial: RateTrial, percent: int) -> str:
    figure = trial.latency_ms.get(percent)
    if figure is None:
        return f"p{percent} unknown"
    if not math.isfinite(figure.value):
        return f"p{percent} without bound"
    return f"p{percent} {figure.value:.4g} ms"


def _draw(axes: Axes, trials: Sequence[RateTrial], percent: int, colour: str, mark: str) -> None:
    """One percentile: a line through the last run at each rate, and a mark for every run."""
    low, high = axes.get_ylim()
    line: dict[float, float] = {}
    for trial in trials:
        figure = trial.latency_ms.get(percent)
        if figure is None:
            continue
        endless = not math.isfinite(figure.value)
        line[trial.offered] = at = high if endless else figure.value
        if figure.interval is not None and not endless:
            ends = [min(max(end, low), high) for end in figure.interval]
            axes.plot((trial.offered,) * 2, ends, color=FAINT, linewidth=1.2, zorder=2)
        axes.plot(
            trial.offered,
            at,
            marker="^" if endless else mark,
            fillstyle="full" if trial.outcome == "held" else "none",
            color=colour,
            markersize=6,
            zorder=3,
            clip_on=False,
        )
    if line:
        axes.plot([*line], [*line.values()], color=colour, linewidth=1, zorder=2)
        _write(axes, f"p{percent}", [*line.items()][-1], (8, 0), "left", colour)


def _write(
    axes: Axes,
    text: str,
    at: tuple[float, float],
    offset: tuple[float, float],
    side: str,
    colour: str = INK,
) -> None:
    up = "bottom" if offset[1] else "center"
    write(axes, text, at, offset, ha=side, va=up, color=colour, annotation_clip=False)
