"""Rows whose latency and accuracy can be held against each other, and the best of them."""

from collections.abc import Iterable, Mapping, Sequence

from repr_bench.results.row import Row

FEWEST_POINTS = 3
"""Of fewer a plot says no more than the bars do."""


def counts(row: Row) -> bool:
    """Whether its latency says something: it was timed, not emulated, and its outputs are right."""
    wrong = row.graph is not None and row.graph.answers_differ
    return bool(row.samples and row.batch) and not row.emulated and not wrong


def comparable(rows: Iterable[Row]) -> Mapping[tuple[int, str], Sequence[Row]]:
    """Rows that count and whose accuracy is known, by batch size and set of images, in order.

    Latencies of other batches, and accuracies on other images, cannot be compared.
    """
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        if counts(row) and row.graph and row.graph.accuracy and row.batch:
            groups.setdefault((row.batch, row.graph.accuracy.description), []).append(row)
    return dict(sorted(groups.items()))


def point(row: Row) -> tuple[float, float]:
    """p50 in ms and top-1 in percent, of a row of :func:`comparable`."""
    assert row.graph is not None
    return row.latency_ms[50].value, row.graph.figures["top1_percent"].value


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (latency, accuracy) points that no other beats in both, by latency."""
    front: list[int] = []
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    for index in order:
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def plotted(rows: Iterable[Row]) -> Mapping[tuple[int, str], Sequence[Row]]:
    """The groups worth a plot: three points or more, and two or more that no other beats."""
    return {
        key: members
        for key, members in comparable(rows).items()
        if len(members) >= FEWEST_POINTS and len(pareto_front([*map(point, members)])) > 1
    }
