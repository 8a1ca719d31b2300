"""Rows of scenarios with figures that can be worked out by hand."""

from dataclasses import replace
from typing import Any

from repr_bench.results.scenarios import ScenarioRow, StageRow
from repr_bench.results.trials import UNANSWERED, BatchTrial, LoadGenSummary, RateTrial, Scenario

MS = 1_000_000


def _row(scenario: Scenario, **figures: Any) -> ScenarioRow:
    common: dict[str, Any] = {"label": "lenet5", "precision": "fp32", "status": "measured"}
    return ScenarioRow(scenario=scenario, **{"source": "repr-bench", **common, **figures})


HELD = RateTrial(
    offered=100.0,
    seed=1,
    confirms=True,
    outcome="held",
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
SERVER = _row(
    "server",
    slo_ms=15.0,
    batch=32,
    trials=(
        replace(HELD, offered=200.0, confirms=False, outcome="missed", scheduled=1000),
        replace(HELD, offered=150.0, confirms=False, outcome="missed"),
        replace(HELD, confirms=False),
        HELD,
    ),
)
STREAM = _row(
    "multi-stream",
    batch=8,
    windows_ns=((1 * MS, 3 * MS), (2 * MS, 4 * MS)),
    window_seconds=(0.004, 0.006),
)
OFFLINE = _row(
    "offline",
    batch=32,
    instances=2,
    windows_ns=((MS,), (MS, MS)),
    window_seconds=(0.001, 0.001),
    batches=(BatchTrial(1, ((MS,),), (0.001,)),),
)
LOADGEN = _row(
    "single-stream",
    source="LoadGen",
    batch=1,
    windows_ns=((5 * MS, 6 * MS), (7 * MS,)),
    window_seconds=(0.011, 0.007),
    loadgen=LoadGenSummary(
        scenario="single-stream",
        mode="PerformanceOnly",
        valid=True,
        result_name="90.0th percentile latency (ns)",
        result=7e6,
        percentiles_ns={"90": 7e6},
        parameters={"target_qps": "500"},
        reasons=("Early stopping not satisfied",),
        version="6.0.17",
    ),
)
STAGES = StageRow(
    label="lenet5",
    precision="fp32",
    batch=1,
    status="measured",
    images="JPEGs",
    stages=("decode", "infer"),
    stages_ns=(((1 * MS, 2 * MS), (3 * MS,)), ((4 * MS, 6 * MS), (5 * MS,))),
    bare_ns=((4 * MS, 4 * MS), (4 * MS,)),
)
