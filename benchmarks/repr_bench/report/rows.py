"""What rows of every kind have in common: their figures, where that kind has them."""

from repr_bench.results.comparison import RowVerdict
from repr_bench.results.graph import Graph
from repr_bench.results.other_tools import OtherRow
from repr_bench.results.peers import PeerRow
from repr_bench.results.profile import Profile
from repr_bench.results.roofline import Work
from repr_bench.results.row import Row
from repr_bench.results.scenarios import ScenarioRow, StageRow
from repr_bench.statistics.intervals import Figure

AnyRow = Row | OtherRow | ScenarioRow | StageRow | PeerRow


def title_of(row: AnyRow | RowVerdict | Work | Profile) -> str:
    """A row's name in a sentence: ``resnet20 fp32 batch 8``, ``resnet20 fp32 server (LoadGen)``."""
    if isinstance(row, ScenarioRow):
        who = row.server or (row.source if row.source != "repr-bench" else "")
        which = f"{row.scenario} ({who})" if who else row.scenario
    else:
        which = f"batch {row.batch}" if row.batch else ""
    way = "from JPEG" if isinstance(row, StageRow) else ""
    return " ".join(filter(None, (row.label, row.precision, which, way)))


def latency_of(row: AnyRow, percent: int) -> Figure | None:
    """A percentile in ms, where that kind of row has it; of a way from JPEG, of the whole."""
    if isinstance(row, StageRow):
        return row.medians_ms.get("total") if percent == 50 and row.calls else None
    if isinstance(row, PeerRow):
        return row.latency_ms.get(percent) if row.measure != "throughput" else None
    return row.latency_ms.get(percent)


def rate_of(row: AnyRow) -> Figure | None:
    """Images a second, where that kind of row has it."""
    return None if isinstance(row, StageRow) else row.images_per_second


def graph_of(row: AnyRow) -> Graph | None:
    """The graph that ran, of the kinds of rows that say so."""
    return None if isinstance(row, OtherRow) else row.graph


def answer_of(row: AnyRow, name: str) -> Figure | None:
    """The figure of that name in ``Graph.figures``, where it is known."""
    graph = graph_of(row)
    return graph.figures.get(name) if graph else None
