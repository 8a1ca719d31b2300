"""All plots of a run, by the section of the page that they stand in."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from repr_bench.report.frontier import plotted
from repr_bench.report.plots.canvas import Key
from repr_bench.report.plots.figures import (
    distribution_keys,
    distribution_plot,
    pareto_keys,
    pareto_plot,
)
from repr_bench.report.plots.peers import common_limits, ratio_keys, ratio_plot
from repr_bench.report.plots.roofline import roofline_keys, roofline_plot
from repr_bench.report.plots.scenarios import SERVER_TEXT, server_keys, server_plot
from repr_bench.report.rows import title_of
from repr_bench.report.sections.peers import overalls
from repr_bench.results.peers import PeerRow, among
from repr_bench.results.results import Results
from repr_bench.results.roofline import Roofline, reached_by
from repr_bench.results.row import Row


class Plot(NamedTuple):
    """A drawing as SVG, and what stands below it."""

    svg: str
    caption: str
    keys: Sequence[Key] = ()


class Plots(NamedTuple):
    """Drawings that stand together, what they show, and the legend that all of them share."""

    text: str
    plots: Sequence[Plot] = ()
    keys: Sequence[Key] = ()


def drawn(results: Results) -> Mapping[str, Plots]:
    """The plots of every section that has some, under its name."""
    timed = [row for row in results.rows if row.samples]
    found = {"pareto": _pareto(timed), "distributions": _distributions(timed)}
    if results.roofline:
        found["roofline"] = _rooflines(results, results.roofline)
    if servers := [*_servers(results)]:
        found["scenarios"] = Plots(SERVER_TEXT, servers)
    if libraries := among(results.peers, servers=False):
        found["peers"] = _peers(libraries)
    return found


def _servers(results: Results) -> Iterator[Plot]:
    for number, row in enumerate(results.scenarios):
        if row.trials:
            svg = server_plot(row, f"server{number}")
            yield Plot(svg, title_of(row), server_keys(row))


def _pareto(rows: Sequence[Row]) -> Plots:
    """A plot for each batch size and set of images that says more than bars do."""
    return Plots(
        "To the left is faster, up is more accurate.",
        [
            Plot(
                pareto_plot(members, f"pareto{number}"),
                f"Batch {batch}. {images}",
                pareto_keys(members),
            )
            for number, ((batch, images), members) in enumerate(plotted(rows).items())
        ],
    )


def _distributions(rows: Sequence[Row]) -> Plots:
    if not rows:
        return Plots("Nothing was timed.")
    return Plots(
        "All samples of each row, the slowest thousandth in the last bar, and the median of each "
        "round, which shows drift.",
        [
            Plot(distribution_plot(row, f"row{number}"), _how_timed(row))
            for number, row in enumerate(rows)
        ],
        distribution_keys(),
    )


def _how_timed(row: Row) -> str:
    return (
        f"{title_of(row)}: {row.samples:,} samples; {'' if row.steady else 'not '}steady after "
        f"{len(row.warmup_ns):,} calls ({sum(row.warmup_ns) / 1e9:.2g} s) of warm-up; "
        f"fed with {row.inputs}"
    )


def _rooflines(results: Results, roofline: Roofline) -> Plots:
    reached = reached_by(roofline, results.rows)
    if not reached:
        return Plots("No row has a share of a ceiling.")
    plots = []
    for batch in sorted({row.work.batch for row in reached}):
        rows = [row for row in reached if row.work.batch == batch]
        svg = roofline_plot(roofline, rows, f"roofline{batch}")
        plots.append(Plot(svg, f"Batch {batch}", roofline_keys(roofline, rows)))
    return Plots(
        "To the right are networks that compute more with each byte; the line is what the "
        "machine allows.",
        plots,
    )


def _peers(rows: tuple[PeerRow, ...]) -> Plots:
    groups = [*overalls(rows)]
    if not groups:
        return Plots("")
    limits = common_limits([found for _, found in groups])
    return Plots(
        "Right of the line at 1 ours is faster.",
        [
            Plot(ratio_plot(what, found, limits, f"peer{number}"), what)
            for number, (what, found) in enumerate(groups)
        ],
        ratio_keys(),
    )
