"""The roofline by hand, in the JSON file, on a terminal and in its plot."""

import json
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure as Drawing
from matplotlib.text import Text
from page_results import RESULTS, ROW, said, shown

from repr_bench.report.plots import roofline as plot_module
from repr_bench.report.plots.roofline import roofline_plot
from repr_bench.results.file import to_json
from repr_bench.results.roofline import Peak, Roofline, Work, reached_by
from repr_bench.statistics.intervals import Figure, Interval

# 100 and 80 operations a nanosecond, 10 bytes a nanosecond, 40 in the cache
PEAKS = (
    Peak("float32", "ONNX Runtime MatMul", 512, 1000, (20, 10, 15)),
    Peak("float32", "numpy matmul (BLAS)", 1024, 800, (10, 12)),
    Peak("memory", "numpy copyto", 10**8, 1000, (100, 120)),
    Peak("cache", "numpy copyto", 10**6, 1000, (25,)),
)
# 2 · 1,000,000 operations over 400,000 bytes: 5 a byte, under the slope; 20 a byte, under the peak
SLOPED = Work("lenet5", "fp32", 1, 2, 1_000_000, 300_000, 100_000)
FLAT = Work("lenet5", "fp32", 8, 2, 4_000_000, 300_000, 100_000)
ROOFLINE = Roofline(2, PEAKS, (SLOPED, FLAT), ("a note",))
WITH_ROOFLINE = replace(
    RESULTS, roofline=replace(ROOFLINE, works=(SLOPED, FLAT, replace(FLAT, precision="int8")))
)
MS = Figure(1.0, None)


def test_ceilings_and_shares_by_hand() -> None:
    assert (SLOPED.operations, SLOPED.intensity, FLAT.intensity) == (2_000_000, 5, 20)
    sloped: Any = ROOFLINE.reached(SLOPED, Figure(0.1, Interval(0.08, 0.125)))
    # 2·10⁶ operations in 0.1 ms are 20·10⁹ a second; memory allows 5 · 10
    assert (sloped.gflops, sloped.ceiling, sloped.memory_bound) == (20, 50, True)
    assert sloped.interval == Interval(16, 25)
    assert sloped.share_percent == pytest.approx(40)
    assert sloped.share == "40"
    flat: Any = ROOFLINE.reached(FLAT, Figure(0.05, None))
    assert (flat.gflops, flat.ceiling, flat.memory_bound) == (160, 100, False)
    assert flat.share_percent == pytest.approx(160)  # no clipping


def test_int8_is_held_against_its_own_peak_or_has_none() -> None:
    work = replace(FLAT, precision="int8")
    assert ROOFLINE.reached(work, MS) is None
    assert ROOFLINE.missing(work) == "no int8 peak was measured here"
    faster = replace(ROOFLINE, peaks=(*PEAKS, Peak("int8", "MatMulInteger", 512, 150, (1,))))
    reached: Any = faster.reached(work, MS)
    assert reached.ceiling == 150


def test_without_bandwidth_or_with_a_reason_there_is_no_ceiling() -> None:
    assert "bandwidth" in replace(ROOFLINE, peaks=PEAKS[:2]).missing(FLAT)
    emulated = replace(FLAT, reason="fp16 is emulated on a CPU")
    assert ROOFLINE.missing(emulated) == "fp16 is emulated on a CPU"
    assert ROOFLINE.reached(emulated, MS) is None


def test_only_timed_rows_have_a_place() -> None:
    rows = (replace(ROW, batch=8), replace(ROW, label="other"), replace(ROW, rounds_ns=()))
    assert [row.work for row in reached_by(ROOFLINE, rows)] == [FLAT]


def test_what_is_derived_is_in_the_json() -> None:
    body = json.loads(to_json(WITH_ROOFLINE))["roofline"]
    assert body["peaks"][0]["samples_ns"] == [20, 10, 15]
    best = {"value": 100, "how": "ONNX Runtime MatMul"}
    assert body["derived"]["giga_a_second"]["float32"] == best
    (row,) = body["derived"]["rows"]
    # the row's median is 11 ms
    assert row["gflops"] == pytest.approx(2 / 11)
    assert row["share_percent"] == pytest.approx(100 * 2 / 11 / 50)


def test_the_table_names_peaks_shares_and_reasons() -> None:
    text = shown(WITH_ROOFLINE)
    for expected in (
        "Peaks with 2 threads: float32 products: 100.0 GFLOP/s (ONNX Runtime MatMul, 512 × 512",
        "best of 3 runs; numpy matmul (BLAS) 80.0)",
        "memory, read and written: 10.0 GB/s",
        "no share of lenet5 int8 batch 8: no int8 peak was measured here",
        "a note",
    ):
        assert expected in text
    assert "no error" in said(WITH_ROOFLINE)
    row = next(line for line in text.splitlines() if line.startswith("lenet5") and "memory" in line)
    assert row.split()[:4] == ["lenet5", "fp32", "1", "5.000"]
    assert "Roofline" not in shown(RESULTS)


def test_twenty_names_do_not_cover_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Drawing] = []
    monkeypatch.setattr(plot_module, "to_svg", lambda figure, *_: figures.append(figure) or "")
    generator, rows = np.random.default_rng(0), list[Any]()
    for number in range(22):
        spread = float(np.exp(generator.normal(0, 0.3)))
        work = Work(f"network{number:02}", "fp32", 1, 1, int(20_000_000 * spread), 500_000, 500_000)
        latency = work.operations / 1e6 / generator.uniform(50, 95)
        rows.append(ROOFLINE.reached(work, Figure(latency, None)))
    roofline_plot(ROOFLINE, rows, "test")
    (figure,) = figures
    axes = figure.axes[0]
    figure.draw_without_rendering()
    names = [text for text in axes.texts if text.get_text().startswith("network")]
    assert len(names) == 22
    boxes = [Text.get_window_extent(text) for text in names]  # without the lines to the points
    for one, other in combinations(boxes, 2):
        assert not one.shrunk(0.9, 0.8).overlaps(other.shrunk(0.9, 0.8))
