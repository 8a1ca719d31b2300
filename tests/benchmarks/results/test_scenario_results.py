"""Rows of scenarios: figures by hand, and the same when read back from JSON."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from page_results import RESULTS
from scenario_rows import HELD, LOADGEN, MS, OFFLINE, SERVER, STAGES, STREAM

from repr_bench.results.file import to_json
from repr_bench.results.scenarios import StageRow
from repr_bench.results.trials import UNANSWERED, latency_ms, per_second
from repr_bench.scenarios.windows import WINDOWS, by_time

WHOLE = replace(RESULTS, scenarios=(SERVER, STREAM, OFFLINE, LOADGEN), end_to_end=(STAGES,))


def test_derived_figures_stand_beside_the_samples() -> None:
    body = json.loads(to_json(WHOLE))
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
    found = (HELD.achieved, HELD.refused_share, HELD.mean_batch, HELD.late_ms)
    assert found == pytest.approx((50.0, 1 / 6, 5 / 4, 1.4))
    goodput: Any = HELD.goodput
    assert goodput.value == pytest.approx(40.0)  # 4, 5, 6, 15 ms in 0.1 s
    assert HELD.trusted
    assert not replace(HELD, lateness_ns=(1_600_000,)).trusted
    assert replace(HELD, batches=()).mean_batch is None


def test_unanswered_queries_are_slower_than_any_other() -> None:
    windows = ((*[MS] * 98, UNANSWERED), (2 * MS,))
    found: Any = latency_ms(windows, 99)
    assert found.value == 2.0
    assert found.interval.high == math.inf
    assert latency_ms((), 50) is None


def test_rows_by_hand() -> None:
    assert (SERVER.rate, SERVER.next_rate, SERVER.queries) == (100.0, 150.0, 6)
    # its trial's figures, which are found once
    assert SERVER.images_per_second is HELD.goodput
    assert SERVER.latency_ms is HELD.latency_ms
    for row, rate in ((STREAM, 8 * 4 / 0.010), (OFFLINE, 32 * 3 / 0.002), (*OFFLINE.batches, 1000)):
        found: Any = row.images_per_second
        assert found.value == pytest.approx(rate)
    empty = replace(SERVER, status="failed", reason="why", trials=())
    assert (empty.rate, empty.next_rate, empty.queries) == (None, None, 0)
    assert (empty.images_per_second, empty.latency_ms) == (None, {})


def test_stages_by_hand() -> None:
    assert STAGES.total_ns == ((5 * MS, 8 * MS), (8 * MS,))
    assert STAGES.calls == 3
    medians = {name: figure.value for name, figure in STAGES.medians_ms.items()}
    assert medians == {"decode": 2.0, "infer": 5.0, "total": 8.0, "bare": 4.0}
    assert STAGES.shares["decode"].value == pytest.approx(6 / 21)
    assert sum(figure.value for figure in STAGES.shares.values()) == pytest.approx(1.0)
    nothing = StageRow(label="x", precision=None, batch=None, status="failed", reason="why")
    assert (nothing.calls, nothing.medians_ms, nothing.shares) == (0, {}, {})


def test_windows_are_equal_stretches_and_empty_ones_give_their_time_away() -> None:
    windows, seconds = by_time([1, 2, 3, 4], [0, 1, 11 * MS, 12 * MS], 12 * MS)
    assert windows == ((1, 2), (3, 4))  # 11 ms is where the last stretch begins
    assert seconds == pytest.approx((0.006, 0.006))
    moments = [k * MS + 1 for k in range(WINDOWS)]
    windows, seconds = by_time(range(WINDOWS), moments, WINDOWS * MS)
    assert windows == tuple((k,) for k in range(WINDOWS))
    assert by_time([], [], 0) == ((), ())


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(0.25, "0.25"), (12.345, "12.35"), (999.96, "1,000"), (1000, "1,000"), (52345.6, "52,346")],
)
def test_a_rate_has_four_digits_or_all_before_the_point(rate: float, shown: str) -> None:
    assert per_second(rate) == shown
