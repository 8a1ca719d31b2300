"""The curve of a server: latency against the offered rate, with the bound and the rate that held."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from repr_bench.report.plots.canvas import (
    ACCENT,
    FAINT,
    HEIGHT,
    INK,
    SECOND,
    WIDTH,
    Key,
    Mark,
    key,
    one_axes,
    to_svg,
)
from repr_bench.report.rows import title_of
from repr_bench.results.scenarios import ScenarioRow
from repr_bench.results.trials import RateTrial, per_second
from repr_bench.statistics.intervals import CONFIDENCE_PERCENT

_ROOM = 1.6
"""Above and below the latencies, as a factor."""
SERVER_TEXT = (
    "Latency of a server against the rate that is offered. Arrows at the upper edge are percentiles "
    "that no answer bounds. The tables have the same figures, and say where the load generator was "
    "late: there nobody knows what the network does."
)
_CURVES: tuple[tuple[int, str, str, Mark], ...] = (
    (50, ACCENT, "s", "square"),
    (99, SECOND, "o", "dot"),
)
"""Percentile, colour and mark: a mark of its own, for readers who see no difference in colour."""


def server_plot(row: ScenarioRow, prefix: str) -> str:
    """p50 and p99 in ms of each rate that ``row`` tried; both axes logarithmic.

    Full marks held the bound, hollow ones did not. A percentile that no answer bounds is drawn
    as an arrow at the upper edge. Raises ``ValueError`` for a row without trials.
    """
    if not row.trials:
        raise ValueError(f"{title_of(row)} tried no rates, there is nothing to draw")
    across, up = "offered queries/s (log scale)", "latency, ms (log scale)"
    figure, axes = one_axes((WIDTH, HEIGHT), across, up, log="xy")
    bound = row.trials[0].slo_ms
    # by rate, the confirming run of a rate last
    trials = sorted(row.trials, key=lambda trial: (trial.offered, trial.confirms))
    known = [f.value for t in trials for p, *_ in _CURVES if (f := t.latency_ms.get(p)) is not None]
    shown = [value for value in known if value > 0 and math.isfinite(value)] + [bound]
    low = min(shown) / _ROOM
    axes.set_ylim(low, max(shown) * _ROOM)
    first, last = trials[0].offered, trials[-1].offered
    room = max(last / first, 1.5) ** 0.06
    axes.set_xlim(first / room, last * room)
    axes.axhline(bound, color=INK, linewidth=1, linestyle="--", zorder=1)
    if row.rate is not None:
        axes.axvline(row.rate, color=INK, linewidth=1, linestyle=":", zorder=1)
    for percent, colour, mark, _ in _CURVES:
        _draw(axes, trials, percent, colour, mark)
    return to_svg(
        figure, prefix, f"Latency against offered rate, {title_of(row)}", _describe(row, trials)
    )


def server_keys(row: ScenarioRow) -> list[Key]:
    """The legend of :func:`server_plot`."""
    found = [key(mark, colour, f"p{percent}") for percent, colour, _, mark in _CURVES]
    found.append(key("ring", SECOND, "hollow: the bound was missed"))
    found.append(key("whisker", FAINT, f"{CONFIDENCE_PERCENT} % interval"))
    found.append(key("dash", INK, f"bound {row.trials[0].slo_ms:g} ms"))
    if row.rate is not None:
        found.append(key("dots", INK, f"{per_second(row.rate)}/s confirmed"))
    return found


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
