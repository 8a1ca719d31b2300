"""Rows of scenarios: figures by hand, and the same when read back from JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from repr_bench.results import Results, from_json, to_json
from repr_bench.scenario_results import (
    UNANSWERED,
    BatchTrial,
    LoadGenSummary,
    RateTrial,
    ScenarioRow,
    StageRow,
    latency_ms,
)
from repr_bench.windows import WINDOWS, by_time

MS = 1_000_000

HELD = RateTrial(
    offered=100.0,
    seed=1,
    confirms=True,
    verdict="held",
    reason="",
    slo_ms=15.0,
    scheduled=6,
    refused=1,
    seconds=0.1,
    windows_ns=((4 * MS, 16 * MS, UNANSWERED), (5 * MS, 6 * MS, 15 * MS)),
    window_seconds=(0.05, 0.05),
    lateness_ns=(0, 1000, 2000, 3000, 1_400_000, 1000),
    batches=((1, 3), (2, 1)),
)
SERVER = ScenarioRow(
    *("lenet5", "fp32", "server", "repr-bench", "measured"),
    slo_ms=15.0,
    batch=32,
    trials=(
        replace(HELD, offered=200.0, confirms=False, verdict="missed", scheduled=1000),
        replace(HELD, offered=150.0, confirms=False, verdict="missed"),
        replace(HELD, confirms=False),
        HELD,
    ),
)
STREAM = ScenarioRow(
    *("lenet5", "fp32", "multi-stream", "repr-bench", "measured"),
    batch=8,
    windows_ns=((1 * MS, 3 * MS), (2 * MS, 4 * MS)),
    window_seconds=(0.004, 0.006),
)
OFFLINE = ScenarioRow(
    *("lenet5", "fp32", "offline", "repr-bench", "measured"),
    batch=32,
    instances=2,
    windows_ns=((MS,), (MS, MS)),
    window_seconds=(0.001, 0.001),
    batches=(BatchTrial(1, ((MS,),), (0.001,)),),
)
LOADGEN = ScenarioRow(
    *("lenet5", "fp32", "single-stream", "LoadGen", "measured"),
    batch=1,
    windows_ns=((5 * MS, 6 * MS), (7 * MS,)),
    window_seconds=(0.011, 0.007),
    loadgen=LoadGenSummary(
        *("single-stream", "PerformanceOnly", True, "90.0th percentile latency (ns)", 7e6),
        percentiles_ns={"90": 7e6},
        parameters={"target_qps": "500"},
        reasons=("Early stopping not satisfied",),
        version="6.0.17",
    ),
)
STAGES = StageRow(
    *("lenet5", "fp32", 1, "measured"),
    images="JPEGs",
    stages=("decode", "infer"),
    stages_ns=(((1 * MS, 2 * MS), (3 * MS,)), ((4 * MS, 6 * MS), (5 * MS,))),
    bare_ns=((4 * MS, 4 * MS), (4 * MS,)),
)


def _all(results: Results) -> Results:
    return replace(results, scenarios=(SERVER, STREAM, OFFLINE, LOADGEN), end_to_end=(STAGES,))


def test_round_trip(results: Results) -> None:
    full = _all(results)
    assert from_json(to_json(full)) == full


def test_a_file_of_the_first_schema_is_read(results: Results) -> None:
    body = json.loads(to_json(results)) | {"schema": 1}
    del body["scenarios"], body["end_to_end"]
    assert from_json(json.dumps(body)) == results


def test_derived_figures_stand_beside_the_samples(results: Results) -> None:
    body = json.loads(to_json(_all(results)))
    server, stream, _, loadgen = body["scenarios"]
    assert server["derived"]["rate"] == 100.0
    assert server["derived"]["next_rate"] == 150.0
    curve = [(trial["offered"], trial["derived"]["goodput"]["value"]) for trial in server["trials"]]
    assert curve == [(200.0, 40.0), (150.0, 40.0), (100.0, 40.0), (100.0, 40.0)]
    assert server["trials"][0]["derived"]["p50_ms"]["value"] == 6.0
    assert server["trials"][0]["derived"]["p99_ms"] is None  # infinite, as one had no answer
    assert stream["derived"]["p99_ms"]["value"] == 4.0
    assert "rate" not in loadgen["derived"]
    assert body["end_to_end"][0]["derived"]["decode_p50_ms"]["value"] == 2.0


def test_a_trial_by_hand() -> None:
    assert (HELD.queries, HELD.answered, HELD.stopped) == (6, 5, False)
    assert HELD.achieved == pytest.approx(50.0)
    assert HELD.goodput is not None
    assert HELD.goodput.value == pytest.approx(40.0)  # 4, 5, 6, 15 ms in 0.1 s
    assert HELD.refused_share == pytest.approx(1 / 6)
    assert HELD.mean_batch == pytest.approx(5 / 4)
    assert HELD.late_ms == 1.4
    assert HELD.trusted
    assert not replace(HELD, lateness_ns=(1_600_000,)).trusted
    p99 = HELD.latency_ms(99)
    assert p99 is not None
    assert p99.value == math.inf
    assert replace(HELD, batches=()).mean_batch is None


def test_unanswered_queries_are_slower_than_any_other() -> None:
    windows = ((*[MS] * 98, UNANSWERED), (2 * MS,))
    found = latency_ms(windows, 99)
    assert found is not None
    assert found.value == 2.0
    assert found.interval is not None
    assert found.interval.high == math.inf
    assert latency_ms((), 50) is None


def test_rows_by_hand() -> None:
    assert (SERVER.rate, SERVER.next_rate, SERVER.queries) == (100.0, 150.0, 6)
    assert SERVER.images_per_second == HELD.goodput
    assert STREAM.images_per_second is not None
    assert STREAM.images_per_second.value == pytest.approx(8 * 4 / 0.010)
    assert OFFLINE.images_per_second is not None
    assert OFFLINE.images_per_second.value == pytest.approx(32 * 3 / 0.002)
    assert OFFLINE.batches[0].images_per_second is not None
    assert OFFLINE.batches[0].images_per_second.value == pytest.approx(1000)
    empty = ScenarioRow("x", None, "server", "repr-bench", "failed", "why")
    assert (empty.rate, empty.next_rate, empty.queries) == (None, None, 0)
    assert empty.images_per_second is None
    assert empty.latency_ms == {}


def test_stages_by_hand() -> None:
    assert STAGES.total_ns == ((5 * MS, 8 * MS), (8 * MS,))
    assert STAGES.calls == 3
    medians = {name: figure.value for name, figure in STAGES.medians_ms.items()}
    assert medians == {"decode": 2.0, "infer": 5.0, "total": 8.0, "bare": 4.0}
    assert STAGES.shares["decode"].value == pytest.approx(6 / 21)
    assert sum(figure.value for figure in STAGES.shares.values()) == pytest.approx(1.0)
    nothing = StageRow("x", None, None, "failed", "why")
    assert (nothing.calls, nothing.medians_ms, nothing.shares) == (0, {}, {})


def test_windows_are_equal_stretches_and_empty_ones_give_their_time_away() -> None:
    windows, seconds = by_time([1, 2, 3, 4], [0, 1, 11 * MS, 12 * MS], 12 * MS)
    assert windows == ((1, 2), (3, 4))  # 11 ms is where the last stretch begins
    assert seconds == pytest.approx((0.006, 0.006))
    moments = [k * MS + 1 for k in range(WINDOWS)]
    windows, seconds = by_time(range(WINDOWS), moments, WINDOWS * MS)
    assert windows == tuple((k,) for k in range(WINDOWS))
    assert by_time([], [], 0) == ((), ())


def test_a_trials_figures_are_found_once() -> None:
    trial = SERVER.confirmed
    assert trial is not None
    assert trial.latency_ms(99) is trial.latency_ms(99) is SERVER.latency_ms[99]
    assert trial.goodput is trial.goodput is SERVER.images_per_second
