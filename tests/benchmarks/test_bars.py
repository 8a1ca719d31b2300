"""The bars: held by the mean and by the least, not held without figures, exit status."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import peer_rows
import pytest
from page_results import GRAPH, RESULTS, ROW

from repr_bench import bars
from repr_bench.results.file import write_results
from repr_bench.results.graph import Accuracy
from repr_bench.results.peers import MEASURES, OURS, Measure, PeerRow
from repr_bench.results.profile import Layer, Profile
from repr_bench.results.roofline import Peak, Roofline, Work

NETWORKS = ("small", "large")


def peers(speedups: dict[tuple[Measure, str], dict[str, float]]) -> tuple[PeerRow, ...]:
    """Ours takes 1 ms on each network, the peers so many times as long."""
    ours = {(measure, OURS): dict.fromkeys(NETWORKS, 1.0) for measure in MEASURES}
    return tuple(
        replace(peer_rows.row(label, measure, peer, 1), rounds_ns=((round(1e6 * times),) * 3,) * 3)
        for (measure, peer), of in {**ours, **speedups}.items()
        for label, times in of.items()
    )


ALL_HELD: dict[tuple[Measure, str], dict[str, float]] = {
    ("latency", "onnxruntime"): {"small": 0.98, "large": 1.05},
    ("throughput", "onnxruntime"): {"small": 1.10, "large": 1.14},
    ("throughput", "torch.compile"): {"small": 2.0, "large": 1.0},
    ("throughput", "openvino-throughput"): {"small": 1.31, "large": 1.31},
}


LARGE = replace(GRAPH, multiply_adds=100_000_001)
TWICE = tuple(tuple(ns // 2 for ns in samples) for samples in ROW.rounds_ns)
HELD = replace(
    RESULTS,
    rows=(
        replace(ROW, label="large", graph=LARGE),
        replace(ROW, label="large", graph=LARGE, precision="int8", rounds_ns=TWICE),
        replace(ROW, label="small"),
        replace(ROW, label="small", precision="int8"),  # too small to count
    ),
    peers=peers(ALL_HELD),
)


def test_all_are_held() -> None:
    found = bars.findings(HELD)
    assert [finding.held for finding in found] == [True] * 8
    means = [finding.found.mean.value for finding in found if finding.found]
    twice = [mean for mean in ((1.10 * 1.14) ** 0.5, 2.0**0.5, 1.31) for _ in range(2)]
    expected = [(0.98 * 1.05) ** 0.5, *twice, 2.0]
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
def test_each_can_fail(key: tuple[Measure, str], of: dict[str, float], which: int) -> None:
    found = bars.findings(replace(HELD, peers=peers({**ALL_HELD, key: of})))
    failed = [finding for finding in found if not finding.held]
    assert {finding.bar for finding in failed} == {bars.BARS[which]}
    assert all(str(finding).startswith("NOT HELD") for finding in failed)


def test_throughput_is_judged_at_each_batch_size_and_at_the_best() -> None:
    at_8 = peers({**ALL_HELD, ("throughput", "onnxruntime"): {"small": 1.0, "large": 1.0}})
    # Twice as fast as at batch 1, so that these are the best.
    more = [replace(row, batch=8, images=2) for row in at_8 if row.measure == "throughput"]
    rows = [*HELD.peers, *more]
    of_ort = [v for v in bars.findings(replace(HELD, peers=tuple(rows))) if v.bar == bars.BARS[1]]
    assert [(v.case, v.held) for v in of_ort] == [
        ("at batch 1", True),
        ("at batch 8", False),
        ("with each at its best batch", False),
    ]
    assert "plain ONNX Runtime at batch 8: at least 1.10 ×; 1.00 ×" in str(of_ort[1])


def test_it_says_what_a_bar_that_is_not_held_would_take() -> None:
    peak = Peak("float32", "a product", 8, 4_000, (10,))  # 400 GFLOP/s
    memory = Peak("memory", "a copy", 8, 10, (1,))
    # 0.1 G operations in 1 ms are 100 GFLOP/s.
    works = tuple(Work(name, "fp32", 8, 1, 400_000_000, 1, 1) for name in NETWORKS)
    layer = Layer("conv", "Conv", ("conv",), 1, (900,))
    others = Layer("add", "Add", ("add",), 0, (100,))
    profile = Profile(
        label="small", precision="fp32", batch=1, layers=(layer, others), runs_us=(1000,)
    )
    slow = peers({**ALL_HELD, ("throughput", "onnxruntime"): {"small": 0.5, "large": 2.0}})
    results = replace(
        HELD, peers=slow, roofline=Roofline(2, (peak, memory), works), profiles=(profile,)
    )
    by_case = {(v.bar.what, v.case): bars.reasons(results, v) for v in bars.findings(results)}
    assert by_case.pop((bars.BARS[1].what, "at batch 1")) == [
        "small: ours 100 GFLOP/s (25 %), onnxruntime 200 GFLOP/s (50 %), the bar asks for "
        "220 GFLOP/s (55 %) of a peak of 400; 90 % of ours is in Conv"
    ]
    assert by_case.pop((bars.BARS[1].what, "with each at its best batch"))
    assert not any(by_case.values())
    assert not any(bars.reasons(HELD, finding) for finding in bars.findings(HELD))


def test_int8_is_judged_at_the_largest_batch() -> None:
    at_8 = [replace(row, batch=8) for row in HELD.rows if row.label == "large"]
    slow = tuple(tuple(2 * ns for ns in samples) for samples in at_8[1].rounds_ns)
    results = replace(HELD, rows=(*HELD.rows, at_8[0], replace(at_8[1], rounds_ns=slow)))
    finding: Any = bars.findings(results)[-1]
    assert finding.found.mean.value == pytest.approx(1.0)
    assert not finding.held


def test_int8_must_keep_its_accuracy() -> None:
    def judged(accuracy: Accuracy | None) -> tuple[bool, str]:
        fp32, int8, *_ = HELD.rows
        of_fp32 = replace(LARGE, accuracy=Accuracy(900, None, 1000, "images", "0"))
        rows = (
            replace(fp32, graph=of_fp32),
            replace(int8, graph=replace(LARGE, accuracy=accuracy)),
        )
        finding = bars.findings(replace(HELD, rows=rows))[-1]
        return finding.held, str(finding).rpartition("; ")[2]

    assert judged(Accuracy(895, None, 1000, "images", "0"))[0]
    lost = judged(Accuracy(894, None, 1000, "images", "0"))
    assert lost == (False, "large loses 0.60 points of top-1")
    assert judged(None) == (False, "the top-1 of large was not measured")


def test_what_was_not_measured_is_not_held() -> None:
    found = bars.findings(replace(HELD, peers=(), rows=()))
    assert [finding.held for finding in found] == [False] * len(bars.BARS)
    assert {str(finding).split("  ")[0] for finding in found} == {"NOT MEASURED"}


def test_a_network_that_a_peer_lacks_is_named() -> None:
    some = {**ALL_HELD, ("throughput", "torch.compile"): {"small": 2.0}}
    finding = bars.findings(replace(HELD, peers=peers(some)))[3]
    assert finding.held
    assert "over 1 network; " in str(finding)
    assert str(finding).endswith("; without large")


def test_the_command_prints_them_all_and_its_status_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.json"
    write_results(HELD, path)
    assert bars.main([str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert "int8 against fp32" in lines[7]
    write_results(replace(HELD, peers=()), path)
    assert bars.main([str(path)]) == 1
    assert bars.main([str(tmp_path / "none.json")]) == 1
    assert "cannot be read" in capsys.readouterr().err
