"""The parts of the page that are found by rules: bars, points worth a plot, places of names, dates."""

from dataclasses import replace

import numpy as np
import pytest
from page_results import AGREEMENT, GRAPH, MS, RESULTS, ROW, with_graph, with_row

from repr_bench.report.dates import moment, span
from repr_bench.report.frontier import comparable, pareto_front, plotted
from repr_bench.report.latency_bars import bar_keys, beside, panels
from repr_bench.report.plots.canvas import name_points, one_axes
from repr_bench.results.row import Row


def test_pareto_front_by_hand() -> None:
    #          0         1          2 slower, worse  3 same speed, worse  4 slowest, best
    points = [(1.0, 70), (2.0, 90), (3.0, 80), (1.0, 60), (9.0, 95), (9.5, 95)]
    assert pareto_front(points) == [0, 1, 4]
    assert pareto_front([]) == []


def test_points_are_compared_on_the_same_images_and_batch_if_their_latency_counts() -> None:
    assert not comparable(with_row(precision="fp16").rows)  # emulated
    assert GRAPH.accuracy is not None
    other = replace(GRAPH, accuracy=replace(GRAPH.accuracy, description="all 10,000 images"))
    rows = (ROW, replace(ROW, label="b", graph=other), replace(ROW, batch=8))
    assert [*comparable(rows)] == [
        (1, "2,000 made-up images"),
        (1, "all 10,000 images"),
        (8, "2,000 made-up images"),
    ]


def test_a_plot_needs_three_points_and_a_line() -> None:
    def at(ms: float, top1: int) -> Row:
        assert GRAPH.accuracy is not None
        graph = replace(GRAPH, accuracy=replace(GRAPH.accuracy, top1=top1))
        return replace(ROW, graph=graph, rounds_ns=((int(ms * MS),),))

    assert not plotted([at(1, 1500), at(2, 1600)])
    assert not plotted([at(1, 1600), at(2, 1500), at(3, 1400)])  # one beats all others
    assert len(plotted([at(1, 1500), at(2, 1600), at(3, 1400)])) == 1


def test_bars_begin_at_zero_share_their_scale_and_have_the_accuracy_beside_them() -> None:
    slow = replace(ROW, precision="int8", rounds_ns=((40 * MS,) * 3,) * 2)
    fast = replace(ROW, precision="fp16", rounds_ns=((10 * MS,) * 3,) * 2)
    (first, second) = panels(replace(RESULTS, rows=(replace(slow, batch=8), slow, fast)))
    assert (first.batch, second.batch) == (1, 8)
    ((name, bars),) = first.groups
    assert (name, first.accuracy) == ("lenet5", "top-1 %")
    assert [(bar.precision, bar.end, bar.hollow) for bar in bars] == [
        ("int8", 100, False),
        ("fp16", 25, True),
    ]
    assert (bars[0].latency, bars[0].accuracy, bars[0].within) == ("40.00", "75.00", "73.1–76.8")
    assert first.remarks == ["Hollow: emulated on this device, its latency says nothing."]
    assert beside(RESULTS) == "Beside it top-1 with its 95 % interval, on 2,000 made-up images."
    assert beside(with_graph(accuracy=None)) == ""
    compared = with_graph(accuracy=None, agreement=AGREEMENT)
    assert beside(compared) == "Beside it the share of the same answers as its fp32 graph."
    keys = bar_keys(replace(RESULTS, rows=(slow, fast)))
    assert [key.text for key in keys] == ["int8", "fp16", "95 % interval of the latency"]
    assert panels(replace(RESULTS, rows=())) == []


def test_names_cover_no_point_no_line_and_no_other_name() -> None:
    random = np.random.default_rng(3)
    points = [(float(x), float(y)) for x, y in random.uniform(1, 2, (12, 2))]
    line = [(1.0, 1.0), (2.0, 2.0)]
    figure, axes = one_axes((5.2, 3.4), "x", log="")
    for point in [*points, *line]:
        axes.plot(*point, "o")
    name_points(figure, axes, points, ["a network"] * 11 + [""], lines=[line])
    assert len(axes.texts) == 11
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for at, a in enumerate(boxes) for b in boxes[:at])
    along = np.linspace(*map(np.array, line), 200)
    for place in axes.transData.transform([*points, *along]):
        assert not any(box.contains(*place) for box in boxes)


@pytest.mark.parametrize(
    ("started", "finished", "text"),
    [
        ("2026-11-26T15:20:00+00:00", "2026-11-26T15:20:59+00:00", "26 November 2026, 15:20 UTC"),
        (
            "2026-11-26T16:20:00+01:00",
            "2026-11-26T15:24:00",
            "26 November 2026, 15:20 to 15:24 UTC",
        ),
        (
            "2026-11-30T23:59:00Z",
            "2026-12-01T00:01:00Z",
            "30 November 2026, 23:59 UTC to 1 December 2026, 00:01 UTC",
        ),
        ("then", "now", "then to now"),
    ],
)
def test_dates_are_for_people(started: str, finished: str, text: str) -> None:
    assert span(started, finished) == text
    assert moment("2026-01-02T03:04:05+00:00") == "2 January 2026, 03:04 UTC"
