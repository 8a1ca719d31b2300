"""LoadGen's own logs, ours or others': the summary, the detail log, the trace of samples."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from repr_bench.errors import ResultsError
from repr_bench.results.trials import LoadGenSummary, Scenario, Windows
from repr_bench.scenarios.windows import by_time

SUMMARY = "mlperf_log_summary.txt"
DETAIL = "mlperf_log_detail.txt"
TRACE = "mlperf_log_trace.json"

SCENARIOS: Mapping[str, Scenario] = {
    "SingleStream": "single-stream",
    "MultiStream": "multi-stream",
    "Server": "server",
    "Offline": "offline",
}
_RESULT = re.compile(
    r"\d+\.?\d*th percentile latency \(ns\)|(Completed |Scheduled )?[Ss]amples per second"
)
_PERCENTILE = re.compile(r"(\d+\.\d+) percentile latency \(ns\)")
_DETAIL_PERCENTILE = re.compile(r"result_(\d+\.\d+)_percentile_(?:per_query_)?latency_ns")
_SAMPLE = re.compile(
    r'"name":"Sample".*?"ts":(-?[\d.]+).*?"query_seq":(\d+).*?"complete_ns":(-?\d+)'
)
_MARK = ":::MLLOG "


def read_loadgen_summary(path: Path) -> LoadGenSummary:
    """What LoadGen found, from a folder of its logs, a summary or a detail log.

    Raises :class:`ResultsError` if there is no such file, or it is none of LoadGen's.
    """
    if path.is_dir():
        path = path / (SUMMARY if (path / SUMMARY).exists() else DETAIL)
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise ResultsError(
            f"{path} cannot be read: {error.strerror or error}; give a folder that LoadGen wrote, or "
            f"its {SUMMARY} or {DETAIL}"
        ) from error
    try:
        return _detail(text) if _MARK in text else _summary(text)
    except (KeyError, ValueError, TypeError) as error:
        raise ResultsError(
            f"{path} is no summary or detail log of LoadGen's performance mode: {error}"
        ) from error


def _summary(text: str) -> LoadGenSummary:
    head, parameters = text.split("Test Parameters Used")[:2] if "Test Par" in text else (text, "")
    pairs = dict(_pairs(head))
    if (result_name := next(filter(_RESULT.fullmatch, pairs), None)) is None:
        raise ValueError("it states no result")
    valid = pairs["Result is"]
    if valid not in ("VALID", "INVALID"):
        raise ValueError(f"the result is {valid!r}")
    unmet = [
        f"{name.removesuffix(' satisfied')} not satisfied"
        for name, answer in pairs.items()
        if name.endswith("satisfied") and answer.upper() == "NO"
    ]
    return LoadGenSummary(
        scenario=_scenario(pairs["Scenario"]),
        mode=pairs.get("Mode", ""),
        valid=valid == "VALID",
        result_name=result_name,
        result=float(pairs[result_name]),
        percentiles_ns=_percentiles(_PERCENTILE, pairs),
        parameters=dict(_pairs(parameters)),
        reasons=tuple(unmet),
    )


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and value.strip():
            yield name.strip(), value.strip()


def _scenario(written: str) -> Scenario:
    if written not in SCENARIOS:
        raise ValueError(f"there is no scenario {written!r:.40}")
    return SCENARIOS[written]


def _percentiles(written: re.Pattern[str], pairs: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{float(found[1]):g}": float(value)
        for name, value in pairs.items()
        if (found := written.fullmatch(name))
    }


_DETAIL_RESULT: Mapping[Scenario, tuple[str, str]] = {
    "single-stream": ("result_90.00_percentile_latency_ns", "90.0th percentile latency (ns)"),
    "multi-stream": (
        "result_99.00_percentile_per_query_latency_ns",
        "99.0th percentile latency (ns)",
    ),
    "server": ("result_completed_samples_per_sec", "Completed samples per second"),
    "offline": ("result_samples_per_second", "Samples per second"),
}
_UNMET = {
    "result_perf_constraints_met": "Performance constraints not satisfied",
    "result_min_duration_met": "Min duration not satisfied",
    "result_min_queries_met": "Min queries not satisfied",
    "early_stopping_met": "Early stopping not satisfied",
}


def _detail(text: str) -> LoadGenSummary:
    """A detail log says the same in JSON, an entry a line; of a key that recurs, the last."""
    pairs: dict[str, Any] = {}
    for line in text.splitlines():
        if line.startswith(_MARK):
            entry = json.loads(line.removeprefix(_MARK))
            pairs[entry["key"]] = entry["value"]
    scenario = _scenario(str(pairs["effective_scenario"]).removeprefix("TestScenario."))
    key, name = _DETAIL_RESULT[scenario]
    return LoadGenSummary(
        scenario=scenario,
        mode=str(pairs.get("effective_test_mode", "")),
        valid=pairs["result_validity"] == "VALID",
        result_name=name,
        result=float(pairs[key]),
        percentiles_ns=_percentiles(_DETAIL_PERCENTILE, pairs),
        parameters={
            key.removeprefix("effective_"): str(value)
            for key, value in pairs.items()
            if key.startswith("effective_")
        },
        reasons=tuple(words for key, words in _UNMET.items() if pairs.get(key) is False),
        version=str(pairs.get("loadgen_version", "")),
    )


def read_trace(path: Path, *, by_sample: bool = False) -> tuple[Windows, tuple[float, ...]]:
    """The latencies of all queries in LoadGen's trace, in ns, by windows, and these in seconds.

    They count from the scheduled arrival to the last sample of the query, and windows go by
    arrival; with ``by_sample``, each sample stands for itself, in the window in which it was
    completed. The trace is not quite JSON, so that its lines are matched. Raises
    :class:`ResultsError`.
    """
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror or error}") from error
    samples = [
        (round(float(found[1]) * 1e3), int(found[2]), int(found[3]))
        for line in text.splitlines()
        if (found := _SAMPLE.search(line))
    ]
    if not samples:
        raise ResultsError(f"{path} holds no samples; LoadGen writes them with enable_trace")
    begin = min(moment for moment, _, _ in samples)
    length = max(moment + latency for moment, _, latency in samples) - begin
    if by_sample:
        pairs = [(moment + latency - begin, latency) for moment, _, latency in samples]
    else:
        queries: dict[int, tuple[int, int]] = {}
        for moment, query, latency in samples:
            slowest = max(latency, queries.get(query, (0, 0))[1])
            queries[query] = (moment - begin, slowest)
        pairs = list(queries.values())
    pairs.sort()
    return by_time([latency for _, latency in pairs], [moment for moment, _ in pairs], length)
