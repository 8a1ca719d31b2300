"""The bars: held by the mean and by the least, not held without figures, exit status."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from repr_bench import bars
from repr_bench.graphs import Graph
from repr_bench.peer_rows import OURS, Measure, PeerRow
from repr_bench.results import Results, Row, write_results

NETWORKS = ("small", "large")


def peer_row(label: str, measure: Measure, peer: str, ns: int) -> PeerRow:
    blank = PeerRow(label, "fp32", measure, 1, peer, "measured", "")
    return replace(blank, images=1, rounds_ns=tuple((ns + k, ns + k, ns + k) for k in range(3)))


def peers(speedups: dict[tuple[Measure, str], dict[str, float]]) -> tuple[PeerRow, ...]:
    """Ours takes 1 ms on each network, the peers so many times as long."""
    rows = []
    for label in NETWORKS:
        rows += [peer_row(label, m, OURS, 1_000_000) for m in ("latency", "throughput")]  # type: ignore[arg-type]
        for (measure, peer), of in speedups.items():
            if label in of:
                rows.append(peer_row(label, measure, peer, round(1_000_000 * of[label])))
    return tuple(rows)


ALL_HELD: dict[tuple[Measure, str], dict[str, float]] = {
    ("latency", "onnxruntime"): {"small": 0.98, "large": 1.05},
    ("throughput", "onnxruntime"): {"small": 1.10, "large": 1.14},
    ("throughput", "torch.compile"): {"small": 2.0, "large": 1.0},
    ("throughput", "openvino-throughput"): {"small": 1.31, "large": 1.31},
}


@pytest.fixture
def held(results: Results, graph: Graph, row: Row) -> Results:
    large = replace(graph, multiply_adds=100_000_001)
    rounds = tuple(tuple(ns // 2 for ns in samples) for samples in row.rounds_ns)
    rows = (
        replace(row, label="large", graph=large),
        replace(row, label="large", graph=large, precision="int8", rounds_ns=rounds),
        replace(row, label="small"),
        replace(row, label="small", precision="int8"),  # too small to count
    )
    return replace(results, rows=rows, peers=peers(ALL_HELD))


def test_all_are_held(held: Results) -> None:
    found = bars.verdicts(held)
    assert [verdict.held for verdict in found] == [True] * 5
    means = [verdict.found.mean.value for verdict in found if verdict.found]
    expected = [(0.98 * 1.05) ** 0.5, (1.10 * 1.14) ** 0.5, 2.0**0.5, 1.31, 2.0]
    assert means == pytest.approx(expected, rel=1e-4)
    assert str(found[0]).startswith("held")
    assert "1.01 × (1.01–1.01) over 2 networks; least 0.98 ×" in str(found[0])


@pytest.mark.parametrize(
    ("key", "of", "which"),
    [
        (("latency", "onnxruntime"), {"small": 0.98, "large": 1.01}, 0),  # the mean is below 1
        (("latency", "onnxruntime"), {"small": 0.96, "large": 2.0}, 0),  # the least is below 0.97
        (("throughput", "onnxruntime"), {"small": 1.09, "large": 1.10}, 1),
        (("throughput", "torch.compile"), {"small": 1.29, "large": 1.30}, 2),
        (("throughput", "openvino-throughput"), {"small": 9.0, "large": 0.9}, 3),
    ],
)
def test_each_can_fail(
    held: Results, key: tuple[Measure, str], of: dict[str, float], which: int
) -> None:
    found = bars.verdicts(replace(held, peers=peers({**ALL_HELD, key: of})))
    assert [index for index, verdict in enumerate(found) if not verdict.held] == [which]
    assert str(found[which]).startswith("NOT HELD")


def test_int8_is_judged_at_the_largest_batch(held: Results) -> None:
    at_8 = [replace(row, batch=8) for row in held.rows if row.label == "large"]
    slow = tuple(tuple(2 * ns for ns in samples) for samples in at_8[1].rounds_ns)
    results = replace(held, rows=(*held.rows, at_8[0], replace(at_8[1], rounds_ns=slow)))
    verdict = bars.verdicts(results)[-1]
    assert verdict.found is not None
    assert verdict.found.mean.value == pytest.approx(1.0)
    assert not verdict.held


def test_what_was_not_measured_is_not_held(held: Results) -> None:
    found = bars.verdicts(replace(held, peers=(), rows=()))
    assert [verdict.held for verdict in found] == [False] * 5
    assert {str(verdict).split("  ")[0] for verdict in found} == {"NOT MEASURED"}


def test_a_network_that_a_peer_lacks_is_named(held: Results) -> None:
    some = {**ALL_HELD, ("throughput", "torch.compile"): {"small": 2.0}}
    verdict = bars.verdicts(replace(held, peers=peers(some)))[2]
    assert verdict.held
    assert "over 1 network; " in str(verdict)
    assert str(verdict).endswith("; without large")


def test_the_command_prints_them_all_and_its_status_says_it(
    held: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.json"
    write_results(held, path)
    assert bars.main([str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert "int8 against fp32" in lines[4]
    write_results(replace(held, peers=()), path)
    assert bars.main([str(path)]) == 1
    assert bars.main([str(tmp_path / "none.json")]) == 1
    assert "cannot be read" in capsys.readouterr().err
