"""The roofline by hand, in the JSON file, on a terminal and on the page."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from page_results import said
from rich.console import Console

from repr_bench.report.html import render_page
from repr_bench.report.plots import roofline as plot_module
from repr_bench.report.plots.roofline import roofline_plot
from repr_bench.report.terminal import print_report
from repr_bench.results.file import from_json, to_json
from repr_bench.results.results import Results
from repr_bench.results.roofline import Peak, Reached, Roofline, Timed, Work, reached_by
from repr_bench.statistics.intervals import Interval

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


def test_peaks_are_those_of_the_best_run() -> None:
    assert [peak.rate for peak in PEAKS] == [100, 80, 10, 40]
    assert ROOFLINE.best("float32") == PEAKS[0]
    assert ROOFLINE.best("int8") is None


def test_ceilings_and_shares_by_hand() -> None:
    assert (SLOPED.operations, SLOPED.intensity, FLAT.intensity) == (2_000_000, 5, 20)
    sloped = ROOFLINE.reached(SLOPED, 0.1, Interval(0.08, 0.125))
    assert sloped is not None
    # 2·10⁶ operations in 0.1 ms are 20·10⁹ a second; memory allows 5 · 10
    assert (sloped.gflops, sloped.ceiling, sloped.memory_bound) == (20, 50, True)
    assert sloped.interval == Interval(16, 25)
    assert sloped.share_percent == pytest.approx(40)
    assert sloped.share == "40"
    flat = ROOFLINE.reached(FLAT, 0.05, None)
    assert flat is not None
    assert (flat.gflops, flat.ceiling, flat.memory_bound) == (160, 100, False)
    assert flat.share_percent == pytest.approx(160)  # no clipping


def test_int8_is_held_against_its_own_peak_or_has_none() -> None:
    work = replace(FLAT, precision="int8")
    assert ROOFLINE.reached(work, 1.0, None) is None
    assert ROOFLINE.missing(work) == "no int8 peak was measured here"
    faster = replace(ROOFLINE, peaks=(*PEAKS, Peak("int8", "MatMulInteger", 512, 150, (1,))))
    reached = faster.reached(work, 1.0, None)
    assert reached is not None
    assert reached.ceiling == 150


def test_without_bandwidth_or_with_a_reason_there_is_no_ceiling() -> None:
    assert "bandwidth" in replace(ROOFLINE, peaks=PEAKS[:2]).missing(FLAT)
    emulated = replace(FLAT, reason="fp16 is emulated on a CPU")
    assert ROOFLINE.missing(emulated) == "fp16 is emulated on a CPU"
    assert ROOFLINE.reached(emulated, 1.0, None) is None


def test_only_timed_rows_have_a_place() -> None:
    timed = [Timed(("lenet5", "fp32", 8), 1.0, None), Timed(("other", "fp32", 1), 1.0, None)]
    assert [row.work for row in reached_by(ROOFLINE, timed)] == [FLAT]


@pytest.fixture
def with_roofline(results: Results) -> Results:
    absent = replace(FLAT, precision="int8")
    return replace(results, roofline=replace(ROOFLINE, works=(SLOPED, FLAT, absent)))


def test_json_round_trip_and_derived(with_roofline: Results) -> None:
    text = to_json(with_roofline)
    assert from_json(text) == with_roofline
    body = json.loads(text)["roofline"]
    assert body["peaks"][0]["samples_ns"] == [20, 10, 15]
    assert body["derived"]["giga_a_second"]["float32"] == {
        "value": 100,
        "how": "ONNX Runtime MatMul",
    }
    (row,) = body["derived"]["rows"]
    # the fixture's median is 11 ms
    assert row["gflops"] == pytest.approx(2 / 11)
    assert row["share_percent"] == pytest.approx(100 * 2 / 11 / 50)


def test_a_file_from_before_is_read(results: Results) -> None:
    body = json.loads(to_json(results)) | {"schema": 1}
    del body["roofline"], body["profiles"]
    assert from_json(json.dumps(body)) == results


def printed(results: Results) -> str:
    console = Console(width=400, highlight=False, markup=False, no_color=True)
    with console.capture() as capture:
        print_report(results, console)
    return capture.get()


def test_the_table_names_peaks_shares_and_reasons(with_roofline: Results, results: Results) -> None:
    text = printed(with_roofline)
    assert (
        "Peaks with 2 threads: float32 products: 100.0 GFLOP/s (ONNX Runtime MatMul, 512 × 512"
        in text
    )
    assert "best of 3 runs; numpy matmul (BLAS) 80.0)" in text
    assert "memory, read and written: 10.0 GB/s" in text
    assert "no share of lenet5 int8 batch 8: no int8 peak was measured here" in text
    assert "a note" in text
    assert "no error" in said(with_roofline)
    row = next(line for line in text.splitlines() if line.startswith("lenet5") and "memory" in line)
    assert row.split()[:4] == ["lenet5", "fp32", "1", "5.000"]
    assert "Roofline" not in printed(results)


def test_the_page_draws_it(with_roofline: Results, results: Results) -> None:
    text = render_page(with_roofline)
    assert 'id="roofline"' in text
    assert "<figcaption>Batch 1</figcaption>" in text
    assert "Roofline. lenet5 fp32: 5 operations a byte" in text
    assert "operations a byte (log scale)" in text
    assert 'id="roofline"' not in render_page(results)


def test_twenty_names_do_not_cover_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plot_module, "to_svg", lambda figure, *_: figures.append(figure) or "")
    generator, rows = np.random.default_rng(0), list[Reached]()
    for number in range(22):
        spread = float(np.exp(generator.normal(0, 0.3)))
        work = Work(f"network{number:02}", "fp32", 1, 1, int(20_000_000 * spread), 500_000, 500_000)
        reached = ROOFLINE.reached(work, work.operations / 1e6 / generator.uniform(50, 95), None)
        assert reached is not None
        rows.append(reached)
    roofline_plot(ROOFLINE, rows, "test")
    (figure,) = figures
    axes = figure.axes[0]
    figure.draw_without_rendering()
    names = [text for text in axes.texts if text.get_text().startswith("network")]
    assert len(names) == 22
    boxes = [Text.get_window_extent(text) for text in names]  # without the lines to the points
    for one, other in combinations(boxes, 2):
        assert not one.shrunk(0.9, 0.8).overlaps(other.shrunk(0.9, 0.8))
