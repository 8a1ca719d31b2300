"""Two runs compared: rows matched, verdicts with their reasons, and what differs said."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_results import FAILED

from repr_bench import cli
from repr_bench.compare import compare
from repr_bench.report.html import render_page
from repr_bench.results.file import from_json, to_json, write_results
from repr_bench.results.machine import GpuState, ReferenceLoadTimes, RoundState
from repr_bench.results.results import Results
from repr_bench.statistics.verdict import (
    resolution_percent,
    spread_percent,
    steadied,
    waiting_excess,
)

STATE = RoundState(1.0, 0.9, 10, 0.0, 0.1, 0.0, (), None, 0.1)


def rounds(ms: float, noise: float = 0.002) -> tuple[tuple[int, ...], ...]:
    """Twelve rounds of nine samples about ``ms``, medians scattered by ``noise``."""
    generator = np.random.default_rng(int(ms * 1000))
    medians = 1e6 * ms * (1 + noise * generator.standard_normal(12))
    return tuple(tuple(round(m) + k for k in range(-4, 5)) for m in medians)


@pytest.fixture
def run(results: Results) -> Results:
    reference_load = ReferenceLoadTimes(rounds(0.13)[:13], rounds(0.3)[:13])
    row = replace(results.rows[0], rounds_ns=rounds(1.0))
    return replace(results, rows=(row,), machine=(STATE,) * 12, reference_load=reference_load)


def compared(old: Results, new: Results, least: float = 2.0) -> Any:
    """The first verdict."""
    return compare(old, new, "old.json", least).rows[0]


def on_graph(run: Results, **changes: Any) -> Results:
    """The same run of another graph."""
    graph: Any = run.rows[0].graph
    return with_row(run, graph=replace(graph, **changes))


def with_row(run: Results, **changes: object) -> Results:
    return replace(run, rows=(replace(run.rows[0], **changes),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ms", "least", "verdict"),
    [
        *((1.05, 2.0, "slower"), (0.95, 2.0, "faster"), (1.002, 2.0, "same"), (1.5, 2.0, "slower")),
        *((1.05, 10.0, "same"), (1.05, 1.0, "slower")),  # what counts is the user's to say
    ],
)
def test_verdicts(run: Results, ms: float, least: float, verdict: str) -> None:
    row = compared(run, with_row(run, rounds_ns=rounds(ms)), least)
    assert (row.verdict, row.reason) == (verdict, "")
    assert row.ratio == pytest.approx(ms, rel=0.003)
    assert row.interval.low < row.ratio < row.interval.high


def test_a_machine_that_got_slower_is_blamed(run: Results) -> None:
    slow = ReferenceLoadTimes(rounds(0.1404), rounds(0.3))
    later = replace(with_row(run, rounds_ns=rounds(1.05)), reference_load=slow)
    comparison = compare(run, later, "", 2.0)
    told = comparison.rows[0].verdict, comparison.rows[0].reason
    assert told == ("cannot tell", "the machine itself was 7.8% slower (matrix product)")
    assert comparison.machine[0].ratio == pytest.approx(1.08, rel=0.005)


def test_the_copy_counts_for_large_graphs_alone(run: Results) -> None:
    slow = ReferenceLoadTimes(rounds(0.13), rounds(0.36))
    later = replace(with_row(run, rounds_ns=rounds(1.05)), reference_load=slow)
    assert compared(run, later).verdict == "slower"
    row = compared(on_graph(run, bytes=10**8), later)
    assert row.verdict == "cannot tell"
    assert "memory copy" in row.reason


def test_long_calls_of_a_process_that_waits_are_not_judged(run: Results) -> None:
    waiting = replace(STATE, waited_seconds=2.7, turns=1000)  # turns of 0.9 ms, calls of 1 ms
    later = replace(with_row(run, rounds_ns=rounds(1.5)), machine=(waiting,) * 12)
    row = compared(run, later)
    assert row.verdict == "cannot tell"
    assert row.reason == "the process waited for a CPU 75% of its time"


def test_a_gpus_clock_counts_for_what_runs_on_it(run: Results) -> None:
    on_gpu = on_graph(run, device="cuda")
    fast, slow = (
        (replace(STATE, gpus=(GpuState(0, clock, 50, ()),)),) * 12 for clock in (1980, 1800)
    )
    before, after = replace(on_gpu, machine=fast), with_row(on_gpu, rounds_ns=rounds(1.05))
    row = compared(before, replace(after, machine=slow))
    assert row.verdict == "cannot tell"
    assert "10.0% slower (GPU clock)" in row.reason
    assert compared(before, replace(after, machine=fast)).verdict == "slower"


def test_without_a_yardstick_nothing_is_told(run: Results) -> None:
    row = compared(replace(run, reference_load=None), with_row(run, rounds_ns=rounds(2)))
    assert row.verdict == "cannot tell"
    assert "no reference load" in row.reason


def test_rows_of_one_run_and_of_too_few_rounds(run: Results) -> None:
    eight = replace(run.rows[0], batch=8)
    few = with_row(run, rounds_ns=rounds(1)[:5])
    old, new = replace(run, rows=(*run.rows, FAILED)), replace(few, rows=(*few.rows, eight))
    rows = compare(old, new, "", 2.0).rows
    assert [(row.batch, row.verdict) for row in rows] == [(1, "cannot tell"), (8, "only new")]
    assert rows[0].reason == "5 rounds, and 6 are needed"
    assert compare(replace(run, rows=(eight,)), run, "", 2.0).rows[1].verdict == "only old"


def test_what_else_differs_is_said(run: Results) -> None:
    other = with_row(on_graph(run, sha256="00" * 32, device="cuda"), inputs="noise")
    machine = replace(run.environment, versions={"numpy": "2.1"}, cpu="Another CPU")
    other = replace(other, environment=machine, settings=replace(run.settings, threads=1))
    found = compare(run, other, "", 2.0)
    assert found.rows[0].warnings == (
        "another graph (its hash differs)",
        "another device: cpu, now cuda",
        "fed with evaluation images, now with noise",
    )
    differs = "CPU: A CPU, now Another CPU", "threads: all, now 1", "numpy: 2.0, now 2.1"
    assert found.warnings == differs
    assert compare(run, run, "", 2.0).warnings == ()


def test_waiting_by_hand() -> None:
    # calls of 1 ms, turns of 10 ms: a fifth is touched, and the others' median is p40
    samples = [[1_000_000 + 1000 * k for k in range(-49, 51)]] * 6
    expected = np.log(1_000_000 / 990_000)
    assert waiting_excess(samples, 0.010, 0.5) == pytest.approx(expected, rel=1e-3)
    assert waiting_excess(samples, 0.010, 0.001) == pytest.approx(0.002, rel=1e-2)
    assert waiting_excess(samples, float("inf"), 0.0) == 0
    assert waiting_excess(samples, 0.001, 0.05) == pytest.approx(-np.log(0.95))
    assert waiting_excess(samples, 0.001, 0.11) == float("inf")


def test_noise_of_a_row() -> None:
    assert resolution_percent(rounds(1.0)[:5]) is None
    calm, wild = (resolution_percent(rounds(1.0, noise)) or 0 for noise in (0.002, 0.05))
    assert 0 < calm < 1 < 5 < wild
    assert spread_percent([[100], [112], [105]]) == pytest.approx(12)


def test_comparison_is_kept_in_json_and_shown_on_the_page(run: Results) -> None:
    whole = replace(run, comparison=compare(run, with_row(run, rounds_ns=rounds(1.5)), "a<b", 2.0))
    assert from_json(to_json(whole)) == whole
    page = render_page(whole)
    for shown in ('<section id="comparison"', "Compared with a&lt;b", "slower"):
        assert shown in page


@pytest.mark.usefixtures("in_tmp_path")
def test_command_compares_two_files(run: Results, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(run, Path("old.json"))
    write_results(with_row(run, rounds_ns=rounds(1.1)), Path("new.json"))
    files = ["--compare", "old.json", "--from", "new.json", "--json", "both.json"]
    assert cli.main(files) == 3
    out = capsys.readouterr().out
    assert "Compared with old.json" in out
    assert "slower" in out
    assert json.loads(Path("both.json").read_text())["comparison"]["rows"][0]["verdict"] == "slower"
    assert cli.main([*files, "--same-within", "20"]) == 0
    assert cli.main(["--from", "new.json", "--compare", "missing.json"]) == 1
    assert "missing.json cannot be read" in capsys.readouterr().err


def test_a_drift_is_taken_out_as_far_as_the_yardstick_drifted_too() -> None:
    moments = np.arange(12.0)
    row, middle = 5 + 0.02 * moments, 5 + 0.02 * 5.5

    def left(*yardstick: float) -> np.ndarray:
        return np.asarray(steadied(row, [slope * np.arange(13.0) for slope in yardstick]))

    assert left(0.02) == pytest.approx(np.full(12, middle))
    assert left(0.01) == pytest.approx(middle + 0.005 * (moments - 5.5))  # half as much again
    for nothing in ((), (0.0,), (-0.02,)):
        assert left(*nothing) == pytest.approx(row)
    assert left(-0.02, 0.02) == pytest.approx(np.full(12, middle))  # one part's is enough


def test_a_slow_down_shows_on_a_machine_that_drifts(run: Results) -> None:
    """Rounds 10 % faster at the beginning than at the end, and the yardstick with them."""

    def drifting(ms: float) -> Results:
        steps = enumerate(np.linspace(0.95, 1.05, 12))
        return with_row(run, rounds_ns=tuple(rounds(ms * step)[k] for k, step in steps))

    old, new = drifting(1.0), drifting(1.05)
    assert compared(old, new).verdict == "cannot tell"
    products = tuple((round(130_000 * step),) for step in np.linspace(0.95, 1.05, 13))
    both = ReferenceLoadTimes(products, rounds(0.3))
    old, new = (replace(r, reference_load=both) for r in (old, new))
    assert compared(old, new).verdict == "slower"
