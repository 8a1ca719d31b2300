"""Error against depth, plain and residual, in training and in the test (as He et al. 2016, Fig. 6)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repr_models.errors import DataError
from repr_models.studies.catalogue import PROG, find_runs
from repr_models.studies.records import checkpoint_records, read_record
from repr_models.studies.table import error, errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Line = tuple[str, bool, list[tuple[int, float, float]]]
"""Which images, whether residual, and by depth: training and test error (0 to 1)."""


def lines(records: Path, checkpoints: Path) -> list[Line]:
    """What the plot shows: the runs of the study of depth, then the bundled checkpoints.

    Raises :class:`DataError` if there is neither.
    """
    found = defaultdict[tuple[str, bool], list[tuple[int, float, float]]](list)
    for run in find_runs(["depth"]):
        record = read_record(records, run.name)
        if record is not None and not record["diverged"]:
            point = (run.depth, error(record, "train"), error(record, "test"))
            found["16×16", run.residual].append(point)
    for each in checkpoint_records(checkpoints):
        if not each.group_norm:
            by = ", Muon" if each.record["recipe"].get("optimizer") == "muon" else ""
            found[f"32×32, bundled{by}", each.residual].append((each.depth, *errors(each)))
    if not found:
        raise DataError(f"{records} has no record to draw; make them: {PROG} run depth --data DIR")
    return [(*line, sorted(points)) for line, points in sorted(found.items())]


def figure(found: Sequence[Line]) -> Figure:
    """Two panels, training and test error in per cent against depth in layers."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7.2, 3.0), layout="constrained")
    panels = drawing.subplots(1, 2, sharey=True)
    for column, (panel, title) in enumerate(
        zip(panels, ("training error, %", "test error, %"), strict=True)
    ):
        for images, residual, points in found:
            panel.plot(
                [point[0] for point in points],
                [100 * point[1 + column] for point in points],
                marker="o",
                markersize=4,
                color="#c44e52" if residual else "#4c72b0",
                markerfacecolor="white" if "Muon" in images else None,
                linestyle=":" if images == "16×16" else "-",
                label=f"{'residual' if residual else 'plain'}, {images}",
            )
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("layers")
        panel.set_xticks(sorted({point[0] for line in found for point in line[2]}))
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    drawing.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    return drawing


def draw(path: Path, records: Path, checkpoints: Path) -> None:
    """Write the plot as SVG to ``path``.

    Raises :class:`DataError` for another suffix or without records.
    """
    if path.suffix != ".svg":
        raise DataError(f"the plot is SVG; name a file that ends in .svg, not {path.name}")
    drawing = figure(lines(records, checkpoints))
    import matplotlib as mpl

    style = {"svg.fonttype": "none", "font.family": ["sans-serif"], "svg.hashsalt": "depth"}
    with mpl.rc_context(style):  # type: ignore[arg-type]
        drawing.savefig(path, format="svg", metadata={"Date": None}, facecolor="white")
