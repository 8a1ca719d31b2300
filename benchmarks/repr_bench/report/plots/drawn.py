"""All plots of a run, by the section of the page that they stand in."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from repr_bench.report.plots.figures import distribution_plot, pareto_plot
from repr_bench.report.plots.peers import common_limits, ratio_plot
from repr_bench.report.plots.roofline import roofline_plot
from repr_bench.report.plots.scenarios import SERVER_CAPTION, server_plot
from repr_bench.report.rows import title_of
from repr_bench.report.sections.peers import overalls
from repr_bench.report.sections.scenarios import server_name
from repr_bench.results.peers import PeerRow
from repr_bench.results.results import Results
from repr_bench.results.roofline import Roofline, reached_by
from repr_bench.results.row import Row
from repr_bench.statistics.intervals import CONFIDENCE_PERCENT


class Plot(NamedTuple):
    """A drawing as SVG, and what stands below it."""

    svg: str
    caption: str
    wide: bool = False


class Plots(NamedTuple):
    """Drawings that stand together, and what they show."""

    text: str
    plots: Sequence[Plot] = ()


def drawn(results: Results) -> Mapping[str, Plots]:
    """The plots of every section that has some, under its name."""
    timed = [row for row in results.rows if row.samples]
    found = {"pareto": _pareto(timed), "distributions": _distributions(timed)}
    if results.roofline:
        found["roofline"] = _rooflines(results, results.roofline)
    for number, row in enumerate(results.scenarios):
        if row.trials:
            name = server_name(number)
            found[name] = Plots("", [Plot(server_plot(row, name), SERVER_CAPTION, wide=True)])
    if results.peers:
        found["peers"] = _peers(results.peers)
    return found


def _pareto(rows: Sequence[Row]) -> Plots:
    """A plot for each batch size and set of images: accuracies on others cannot be compared."""
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        if row.graph and row.graph.accuracy and row.batch and not row.emulated:
            groups.setdefault((row.batch, row.graph.accuracy.description), []).append(row)
    if not groups:
        return Plots("No row has both a latency that counts and an accuracy.")
    return Plots(
        f"To the left is faster, up is better. The line joins the networks that no other beats in "
        f"both. Bars are {CONFIDENCE_PERCENT} % intervals.",
        [
            Plot(pareto_plot(members, f"pareto{number}"), f"Batch {batch}. {images}", wide=True)
            for number, ((batch, images), members) in enumerate(sorted(groups.items()))
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
    return Plots(
        "To the right are networks that compute more with each byte; the line is what the "
        "machine allows. The dashed line is what its second-level cache would.",
        [
            Plot(
                roofline_plot(
                    roofline,
                    [row for row in reached if row.work.batch == batch],
                    f"roofline{batch}",
                ),
                f"Batch {batch}",
                wide=True,
            )
            for batch in sorted({row.work.batch for row in reached})
        ],
    )


def _peers(rows: tuple[PeerRow, ...]) -> Plots:
    groups = [*overalls(rows)]
    if not groups:
        return Plots("")
    limits = common_limits([found for _, found in groups])
    return Plots(
        "Right of the line at 1 ours is faster. Bars are 95 % intervals; the diamond is the "
        "geometric mean over networks.",
        [
            Plot(ratio_plot(what, found, limits, f"peer{number}"), what)
            for number, (what, found) in enumerate(groups)
        ],
    )
