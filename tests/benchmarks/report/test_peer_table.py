"""The table of peers: figures, ratios, means over networks, and the sentences below."""

from dataclasses import replace

from peer_rows import ROWS, row

from repr_bench.report.sections.peers import meanings, peer_cells, peer_problems, summaries
from repr_bench.results.peers import OURS
from repr_bench.statistics.intervals import Figure, Interval, times


def test_each_row_has_its_figure_and_its_ratio_at_the_same_batch() -> None:
    cells = list(peer_cells(ROWS))
    assert [(c[0], *c[2:5], c[7].split(" ×")[0]) for c in cells] == [
        ("a", "latency", "1", OURS, "-"),
        ("a", "latency", "1", "p", "2.00"),
        ("b", "latency", "1", OURS, "-"),
        ("b", "latency", "1", "p", "0.50"),
        ("a", "throughput", "1", OURS, "-"),
        ("a", "throughput", "8", OURS, "-"),
        ("a", "throughput", "1", "p", "1.00"),
        ("a", "throughput", "8", "p", "5.00"),
    ]
    assert cells[0][5].startswith("1.00")
    assert cells[5][5] == "-"
    assert cells[5][6].startswith(("4,000", "3,999"))


def test_the_means_over_networks_name_the_least() -> None:
    assert summaries(ROWS) == [
        "p, fp32 latency at batch 1: ours is 1.00 × (1.00–1.00) as fast over 2 networks; "
        "least 0.50 × (0.50–0.50), b",
        "p, fp32 throughput at batch 1: ours is 1.00 × (1.00–1.00) as fast over 1 network; "
        "least 1.00 × (1.00–1.00), a",
        "p, fp32 throughput at batch 8: ours is 5.00 × (5.00–5.00) as fast over 1 network; "
        "least 5.00 × (5.00–5.00), a",
        "p, fp32 throughput with each at its best batch: ours is 4.00 × (4.00–4.00) as fast over 1 "
        "network; least 4.00 × (4.00–4.00), a",
    ]


def test_precisions_are_not_averaged_together() -> None:
    int8 = tuple(replace(each, precision="int8") for each in ROWS[:2])
    assert [text.partition(";")[0] for text in summaries((*ROWS[2:4], *int8))] == [
        "p, fp32 latency at batch 1: ours is 0.50 × (0.50–0.50) as fast over 1 network",
        "p, int8 latency at batch 1: ours is 2.00 × (2.00–2.00) as fast over 1 network",
    ]


def test_reasons_are_said_once_with_all_they_hold_for() -> None:
    assert [str(note) for note in peer_problems(ROWS)] == [
        "q absent for a fp32, b fp32: q is not installed: pip install q",
        "p failed for a fp32 batch 8: no kernel",
    ]


def test_settings_and_the_least_agreement_are_said() -> None:
    text = "\n".join(meanings(ROWS))
    assert "p (latency): settings of p" in text
    assert "our top-1 on at least 199 of 200 images" in text
    assert "geometric mean" in text


def test_a_latency_on_the_gpu_is_a_measure_of_its_own() -> None:
    rows = (*ROWS, row("a", "on-gpu", OURS, 1.0), row("a", "on-gpu", "p", 3.0))
    ours, theirs = list(peer_cells(rows))[-2:]
    assert (ours[2], ours[5].startswith("1.00")) == ("on-gpu", True)
    assert theirs[7].startswith("3.00 ×")
    assert any(text.startswith("p, fp32 on-gpu at batch 1: ") for text in summaries(rows))
    said = "inputs and outputs lie on the GPU"
    assert (said in "".join(meanings(rows)), said in "".join(meanings(ROWS))) == (True, False)


def test_times() -> None:
    assert [
        times(Figure(1.2345, None)),
        times(Figure(12.345, Interval(11.0, 13.0))),
        times(Figure(4321.0, Interval(4000.0, 5000.0))),
        times(Figure(0.0123, Interval(0.01, 0.02))),
    ] == ["1.23 ×", "12.3 × (11.0–13.0)", "4,321 × (4,000–5,000)", "0.012 × (0.010–0.020)"]
