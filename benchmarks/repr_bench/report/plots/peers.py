"""Peers on the page: the means over networks, each ratio with its interval, and the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from repr_bench.report.plots.figures import ACCENT, FAINT, INK, SECOND, _axes, _svg
from repr_bench.report.sections.peers import (
    TITLES,
    WORDS,
    meanings,
    overalls,
    peer_cells,
    peer_problems,
    summaries,
)
from repr_bench.results.peers import Overall, PeerRow
from repr_bench.statistics.intervals import times

_WIDTH, _ROW, _FRAME = 6.4, 0.26, 0.75
"""Inches: the plot's width, the height of a network, and that of everything else."""
_ROOM = 1.1
"""Left and right of the outermost interval, as a factor."""


def peer_body(rows: tuple[PeerRow, ...]) -> Iterator[str]:
    """What stands in the page's section."""
    yield from _list(peer_problems(rows), ' class="warning"')
    groups = [*overalls(rows)]
    if groups:
        yield (
            "<p>Right of the line at 1 ours is faster. Bars are 95 % intervals; the diamond is the "
            "geometric mean over networks.</p>"
        )
        yield '<div class="plots">'
        limits = _limits([found for _, found in groups])
        for number, (what, found) in enumerate(groups):
            plot = ratio_plot(what, found, limits, f"peer{number}")
            yield f"<figure>{plot}<figcaption>{escape(what)}</figcaption></figure>"
        yield "</div>"
        yield from _list(summaries(rows))
    yield from _table(rows)
    yield from _list(meanings(rows))


def ratio_plot(what: str, found: Overall, limits: tuple[float, float], prefix: str) -> str:
    """Each network's ratio and the mean, a line each, between ``limits`` on a log axis."""
    figure, axes = _axes(_WIDTH, _ROW * (len(found.ratios) + 1) + _FRAME)
    axes.set_xscale("log")
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
    axes.xaxis.set_major_locator(LogLocator(subs=_steps(limits)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("times as fast (log scale)")
    axes.grid(color=FAINT, linewidth=0.4, alpha=0.5, axis="x")
    summary = "; ".join(f"{name}: {times(ratio)}" for name, ratio, *_ in lines)
    return _svg(figure, prefix, f"Ours against {what}", summary)


def _limits(groups: Sequence[Overall]) -> tuple[float, float]:
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


def _table(rows: tuple[PeerRow, ...]) -> Iterator[str]:
    yield '<div class="scroll" tabindex="0" role="region" aria-label="Table of peers">'
    yield "<table><thead><tr>"
    yield from (f'<th scope="col"{_class(title)}>{escape(title)}</th>' for title in TITLES)
    yield "</tr></thead><tbody>"
    for first, *others in peer_cells(rows):
        yield f'<tr><th scope="row">{escape(first)}</th>'
        yield from (
            f"<td{_class(title)}>{escape(text)}</td>"
            for title, text in zip(TITLES[1:], others, strict=True)
        )
        yield "</tr>"
    yield "</tbody></table></div>"


def _class(title: str) -> str:
    return "" if title in WORDS else ' class="number"'


def _list(sentences: Sequence[str], attributes: str = "") -> Iterator[str]:
    if sentences:
        yield f"<ul{attributes}>"
        yield from (f"<li>{escape(text)}</li>" for text in sentences)
        yield "</ul>"
