"""The bars: held by the mean and by the least, against the best peer of each network, exit status."""

from dataclasses import replace
from pathlib import Path

import peer_rows
import pytest
from page_results import GRAPH, RESULTS, ROW

from repr_bench import bars
from repr_bench.bars import BARS, Finding
from repr_bench.results.file import write_results
from repr_bench.results.graph import Accuracy
from repr_bench.results.peers import MEASURES, OURS, Measure, PeerRow
from repr_bench.results.profile import Layer, Profile
from repr_bench.results.results import Results
from repr_bench.results.roofline import Peak, Roofline, Work

Speeds = dict[str, dict[str, float]]
"""By peer and network: how many times as long as ours."""

HELD_BY: Speeds = {
    "onnxruntime": {"small": 1.2, "large": 1.3},
    "openvino": {"small": 1.4, "large": 1.1},
}
LATENCY, THROUGHPUT, BF16, INT8 = BARS


def peers(measure: Measure, precision: str, speeds: Speeds = HELD_BY) -> tuple[PeerRow, ...]:
    """Ours takes 1 ms on each network."""
    every = {OURS: dict.fromkeys(("small", "large"), 1.0), **speeds}
    return tuple(
        replace(
            peer_rows.row(label, measure, peer, 1),
            precision=precision,
            rounds_ns=((round(1e6 * slower),) * 3,) * 3,
        )
        for peer, of in every.items()
        for label, slower in of.items()
    )


def rows(precision: str, times: int, label: str = "large", top1: int = 900) -> tuple[object, ...]:
    graph = replace(
        GRAPH, multiply_adds=80_000_001, accuracy=Accuracy(top1, None, 1000, "images", "0")
    )
    rounds = tuple(tuple(ns // times for ns in samples) for samples in ROW.rounds_ns)
    return (replace(ROW, label=label, precision=precision, graph=graph, rounds_ns=rounds),)


TABLE = (
    *(*rows("fp32", 1), *rows("bf16", 3), *rows("int8", 4)),
    *(replace(ROW, label="small", precision=p) for p in bars.PRECISIONS),  # too small to count
)
EVERY = {(m, p): peers(m, p) for m in MEASURES for p in bars.PRECISIONS}
AMX = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni")


def results(
    changed: dict[tuple[Measure, str], tuple[PeerRow, ...]] | None = None,
    features: tuple[str, ...] = AMX,
    table: tuple[object, ...] = TABLE,
) -> Results:
    every = tuple(row for of in {**EVERY, **(changed or {})}.values() for row in of)
    environment = replace(RESULTS.environment, cpu_features=features)
    return replace(RESULTS, rows=table, peers=every, environment=environment)  # type: ignore[arg-type]


def failed(of: Results) -> list[tuple[str, str]]:
    found = [finding for finding in bars.findings(of) if not finding.held]
    assert all(str(finding).startswith("NOT") for finding in found)
    return [(finding.bar.what, finding.case.name) for finding in found]


def one(of: Results, bar: bars.Bar, case: str) -> Finding:
    (found,) = (f for f in bars.findings(of) if (f.bar, f.case.name) == (bar, case))
    return found


def test_all_are_held_and_ours_is_judged_by_the_best_peer_of_each_network() -> None:
    found = bars.findings(results())
    assert [finding.held for finding in found] == [True] * 8
    means = [finding.found.mean.value for finding in found if finding.found]
    assert means == pytest.approx([(1.2 * 1.1) ** 0.5] * 6 + [3.0, 4.0], rel=1e-4)
    assert str(found[0]).startswith("held  ")
    assert "least 1.10 × (1.10–1.10) on large, to openvino (at least 0.98 ×)" in str(found[0])


@pytest.mark.parametrize("precision", bars.PRECISIONS)
@pytest.mark.parametrize(
    ("measure", "times", "held"),
    [
        ("latency", (0.99, 1.13), True),
        ("latency", (0.97, 1.30), False),  # the least is below 1 / 1.02
        ("latency", (1.05, 1.05), False),  # the mean is below 1 / 0.95
        ("throughput", (0.985, 1.24), True),
        ("throughput", (0.97, 1.5), False),
        ("throughput", (1.09, 1.10), False),
    ],
)
def test_each_has_a_mean_and_a_floor_in_each_precision(
    measure: Measure, times: tuple[float, float], held: bool, precision: str
) -> None:
    slow = peers(measure, precision, {"p": dict(zip(("small", "large"), times, strict=True))})
    bar = LATENCY if measure == "latency" else THROUGHPUT
    expected = [] if held else [(bar.what, f"{precision} at batch 1")]
    assert failed(results({(measure, precision): slow})) == expected


def test_throughput_is_judged_at_each_batch_size_and_latency_at_1() -> None:
    fast: Speeds = {"p": {"small": 0.5, "large": 0.5}}
    more = {
        (m, "fp32"): (*EVERY[m, "fp32"], *(replace(r, batch=8) for r in peers(m, "fp32", fast)))
        for m in MEASURES
    }
    assert failed(results(more)) == [(THROUGHPUT.what, "fp32 at batch 8")]


def test_servers_and_ours_on_other_devices_are_no_peers() -> None:
    fast: Speeds = {"ours-cuda": {"small": 0.1}, "server": {"large": 0.1}, **HELD_BY}
    of = [replace(row, server=row.peer == "server") for row in peers("latency", "fp32", fast)]
    assert failed(results({("latency", "fp32"): tuple(of)})) == []


def test_a_network_that_was_not_compared_is_named_and_nothing_is_held() -> None:
    some = peers("latency", "fp32", {"p": {"small": 2.0}})
    finding = one(results({("latency", "fp32"): some}), LATENCY, "fp32 at batch 1")
    assert not finding.held
    assert "over 1 network; " in str(finding)
    assert str(finding).endswith("; without large")


def test_what_was_not_measured_is_not_held() -> None:
    found = bars.findings(replace(results(), peers=(), rows=()))
    assert [str(finding).split("  ")[0] for finding in found] == ["NOT MEASURED"] * 8


def test_a_cpu_is_not_asked_for_what_it_lacks() -> None:
    fp32 = {("latency", p): () for p in ("bf16", "int8")}
    fp32 |= {("throughput", p): () for p in ("bf16", "int8")}
    table = tuple(row for row in TABLE if getattr(row, "precision", "") == "fp32")
    of = results(fp32, ("avx2",), table)  # type: ignore[arg-type]
    excused = [str(finding) for finding in bars.findings(of) if finding.case.excused]
    assert failed(of) == []
    assert len(excused) == 6
    assert all(words.startswith("NOT ASKED FOR  ") for words in excused)
    assert excused[0].endswith("the CPU, A CPU, has none of amx_bf16, avx512_bf16")
    # Without AMX bf16 is compared with the peers, but need not be so much faster than fp32.
    slow = (*rows("fp32", 1), *rows("bf16", 2), *rows("int8", 4))
    of = results(features=("avx512_bf16", "avx512_vnni"), table=slow)
    assert failed(of) == []
    assert "has no AMX" in str(one(of, BF16, "over 30 M"))
    assert failed(results(table=slow)) == [(BF16.what, "over 30 M")]
    # An older file does not say: then bf16 is not asked for, where there is none.
    assert len(failed(results(fp32, (), table))) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("precision", "top1", "words"),
    [
        ("int8", 895, ""),
        ("int8", 894, "large loses 0.60 points of top-1"),
        ("bf16", 899, ""),
        ("bf16", 898, "large loses 0.20 points of top-1"),
    ],
)
def test_a_lower_precision_must_keep_its_accuracy(precision: str, top1: int, words: str) -> None:
    table = tuple(row for row in TABLE if getattr(row, "precision", "") != precision)
    of = results(table=(*table, *rows(precision, 4, top1=top1)))
    bar, case = (BF16, "over 30 M") if precision == "bf16" else (INT8, "over 80 M")
    finding = one(of, bar, case)
    assert finding.held is not bool(words)
    assert words in str(finding)


def test_a_lower_precision_is_judged_at_the_largest_batch() -> None:
    at_8 = [replace(row, batch=8) for row in (*rows("fp32", 1), *rows("int8", 2))]  # type: ignore[type-var]
    finding = one(results(table=(*TABLE, *at_8)), INT8, "over 80 M")
    assert finding.found
    assert finding.found.mean.value == pytest.approx(2.0)
    assert not finding.held


def test_it_says_what_a_bar_that_is_not_held_would_take() -> None:
    peak = Peak("float32", "a product", 8, 4_000, (10,))  # 400 GFLOP/s
    memory = Peak("memory", "a copy", 8, 10, (1,))
    # 0.1 G operations in 1 ms are 100 GFLOP/s.
    works = tuple(Work(name, "fp32", 8, 1, 400_000_000, 1, 1) for name in ("small", "large"))
    layer = Layer("conv", "Conv", ("conv",), 1, (900,))
    others = Layer("add", "Add", ("add",), 0, (100,))
    profile = Profile(
        label="small", precision="fp32", batch=1, layers=(layer, others), runs_us=(1000,)
    )
    slow = peers("throughput", "fp32", {"onnxruntime": {"small": 0.5, "large": 2.0}})
    of = replace(
        results({("throughput", "fp32"): slow}),
        roofline=Roofline(2, (peak, memory), works),
        profiles=(profile,),
    )
    assert [(f.bar, why) for f in bars.findings(of) for why in bars.reasons(of, f)] == [
        (
            THROUGHPUT,
            "small: ours 100 GFLOP/s (25 %), onnxruntime 200 GFLOP/s (50 %), the bar asks for "
            "220 GFLOP/s (55 %) of a peak of 400; 90 % of ours is in Conv",
        )
    ]
    assert not any(bars.reasons(results(), finding) for finding in bars.findings(results()))


def test_the_command_prints_them_all_and_its_status_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.json"
    write_results(results(), path)
    assert bars.main([str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert "int8 to fp32" in lines[7]
    write_results(replace(results(), peers=()), path)
    assert bars.main([str(path)]) == 1
    assert bars.main([str(tmp_path / "none.json")]) == 1
    assert "cannot be read" in capsys.readouterr().err
