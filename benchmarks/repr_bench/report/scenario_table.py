"""The tables of a run of scenarios: what each found, the rates a server held, where time goes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from repr_bench import statistics
from repr_bench.report.columns import NOTHING
from repr_bench.report.notes import cautions
from repr_bench.results import Results
from repr_bench.scenario_results import (
    MLPERF_SECONDS,
    PERCENT,
    TRUSTED_LATENESS,
    RateTrial,
    ScenarioRow,
    StageRow,
)
from repr_bench.statistics import Figure

_NAMES = ("network", "precision", "scenario", "driven by")
_TITLES = (*_NAMES, "batch", "queries", "p50 ms", "p90 ms", "p99 ms", "result (95 %)")
_TRIAL_TITLES = (
    *("offered/s", "verdict", "answered/s", "in time/s", "p50 ms", "p99 ms"),
    *("refused %", "mean batch", "late p99 ms"),
)

SCENARIO_FORMULA = (
    "single-stream: one sample a query, each sent as the last is answered, p90. multi-stream: eight "
    "samples a query, p99. server: Poisson arrivals of single samples into the runtime's batcher, the "
    "highest rate whose p99 holds the bound. offline: all instances busy, images/s, the best batch size."
)
ARRIVAL_FORMULA = (
    "Latency in the server scenario counts from the scheduled arrival; a query without an answer "
    "counts as infinitely slow."
)


def print_scenarios(results: Results, console: Console) -> None:
    """Print the tables, and the sentences below them."""
    plain = not console.is_terminal
    if results.scenarios:
        lines = [_scenario_line(row) for row in results.scenarios]
        numeric = (*range(4, len(_TITLES) - 1),)
        console.print(_table(_TITLES, lines, numeric, plain=plain))
    for row in results.scenarios:
        if row.trials:
            _line(console, f"\n{_title(row)}: rates in the order they were tried", "bold")
            lines = [_trial_line(trial) for trial in row.trials]
            numeric = (0, *range(2, len(_TRIAL_TITLES)))
            console.print(_table(_TRIAL_TITLES, lines, numeric, plain=plain))
    for stage_row in results.end_to_end:
        if stage_row.calls:
            name = _join(stage_row.label, stage_row.precision, f"batch {stage_row.batch}")
            _line(console, f"\n{name}, from JPEG to label", "bold")
            titles = ("stage", "p50 ms (95 %)", "share % (95 %)")
            console.print(_table(titles, [*_stage_lines(stage_row)], (1, 2), plain=plain))
    for text in scenario_problems(results):
        _line(console, text, "yellow")
    for text in scenario_cautions(results):
        _line(console, f"Careful: {text}", "yellow")
    for text in scenario_meanings(results):
        _line(console, text, "dim")


def result_text(row: ScenarioRow) -> str:
    """What the scenario is about, in one figure and its interval."""
    if row.loadgen is not None:
        valid = "valid" if row.loadgen.valid else "invalid"
        return f"{_loadgen_result(row)}; {valid} to LoadGen"
    if row.scenario == "server":
        if row.rate is None:
            return NOTHING
        beyond = f", {row.next_rate:,.4g} do not" if row.next_rate else ""
        return f"{row.rate:,.4g} queries/s hold p99 ≤ {row.slo_ms:g} ms{beyond}"
    if row.scenario == "offline":
        figure = row.images_per_second
        if figure is None:
            return NOTHING
        many = f" × {row.instances} instances" if row.instances > 1 else ""
        return f"{with_interval(figure)} images/s, batch {row.batch}{many}"
    found = row.latency_ms.get(PERCENT[row.scenario])
    return NOTHING if found is None else f"p{PERCENT[row.scenario]} {with_interval(found)} ms"


def _loadgen_result(row: ScenarioRow) -> str:
    assert row.loadgen is not None
    if row.scenario in ("server", "offline"):
        figure = row.images_per_second
        assert figure is not None
        unit = "queries/s answered" if row.scenario == "server" else "images/s"
        return f"{with_interval(figure)} {unit}"
    percent = PERCENT[row.scenario]
    seen = row.latency_ms.get(percent)
    figure = Figure(row.loadgen.result / 1e6, seen.interval if seen else None)
    return f"p{percent} {with_interval(figure)} ms"


def with_interval(figure: Figure, factor: float = 1.0) -> str:
    """``0.515 (0.51–0.52)``, with the digits that the interval supports."""
    value = figure.value * factor
    if not math.isfinite(value):
        return "∞"
    if figure.interval is None:
        return statistics.figure(value)
    low, high = (end * factor for end in figure.interval)
    if not math.isfinite(high):
        return f"{statistics.figure(value)} ({statistics.figure(low)}–∞)"
    interval = statistics.Interval(low, high)
    places = statistics.decimals(value, interval)
    return f"{value:,.{places}f} ({low:,.{places}f}–{high:,.{places}f})"


def scenario_problems(results: Results) -> list[str]:
    """Why a row has no figures, a sentence each."""
    rows = (*results.scenarios, *results.end_to_end)
    found = [f"{_title(row)}: {row.reason}" for row in rows if row.reason]
    if results.interrupted:
        found.insert(0, "interrupted: what was measured until then is shown")
    return found


def scenario_cautions(results: Results) -> list[str]:
    """What a reader must know before trusting these figures."""
    found = cautions(results)
    for row in results.scenarios:
        confirmed = row.confirmed
        if confirmed is None:
            continue
        if not confirmed.trusted:
            found.append(
                f"{_title(row)} is not to be trusted: the generator of arrivals was itself "
                f"{confirmed.late_ms:.3g} ms late at p99, more than {100 * TRUSTED_LATENESS:g} % of "
                f"the bound; run it on a machine with an idle core"
            )
        p99 = confirmed.latency_ms(PERCENT["server"])
        if p99 is not None and p99.interval is not None and p99.interval.high > confirmed.slo_ms:
            found.append(
                f"{_title(row)}: p99 held its bound, but its interval reaches beyond; a longer run "
                f"(--seconds) would tell"
            )
    if unsteady := [_title(row) for row in results.scenarios if not row.steady]:
        found.append(f"not steady when the warm-up reached its limit: {', '.join(unsteady)}")
    for row in results.scenarios:
        if row.loadgen is not None and row.loadgen.reasons:
            found.append(f"{_title(row)}: {'; '.join(row.loadgen.reasons)}")
    return found


def scenario_meanings(results: Results) -> list[str]:
    """What the figures mean, and what MLPerf itself asks for."""
    found: list[str] = []
    measured = [row for row in results.scenarios if row.queries]
    if measured:
        shortest = min(row.measured_seconds for row in measured)
        found += [
            f"MLPerf asks for {MLPERF_SECONDS} s or more of each scenario; the shortest here took "
            f"{shortest:.3g} s, and the intervals say what that costs. No figure here is an MLPerf "
            f"result.",
            SCENARIO_FORMULA,
            ARRIVAL_FORMULA,
        ]
    if any(row.loadgen for row in results.scenarios):
        found.append(
            "LoadGen's percentile is the sorted[int(n·p)] of its own log; the interval is a "
            "bootstrap over windows of its trace."
        )
    if texts := dict.fromkeys(row.images for row in results.end_to_end if row.images):
        found.append(
            f"From JPEG to label: {'; '.join(texts)}. infer is Session.run within that chain, network "
            f"alone the same call on ready inputs, alternating with it; shares are of time in all."
        )
    found += [statistics.PERCENTILE_FORMULA, statistics.LATENCY_INTERVAL_FORMULA]
    rows = (*results.scenarios, *results.end_to_end)
    if choices := dict.fromkeys(row.choice for row in rows if row.choice):
        found.append(f"Run by {'; '.join(choices)}.")
    return found


def _scenario_line(row: ScenarioRow) -> tuple[str, ...]:
    offline = row.scenario == "offline"
    latencies = (
        NOTHING if offline or percent not in row.latency_ms else _text(row.latency_ms[percent])
        for percent in (50, 90, 99)
    )
    batch = NOTHING if row.batch is None else str(row.batch)
    return (
        *(row.label, row.precision or NOTHING, row.scenario, row.source),
        *(batch, f"{row.queries:,}" if row.queries else NOTHING, *latencies, result_text(row)),
    )


def _trial_line(trial: RateTrial) -> tuple[str, ...]:
    verdict = f"{trial.verdict}, longer" if trial.confirms else trial.verdict
    mean = trial.mean_batch
    return (
        *(f"{trial.offered:,.4g}", verdict, f"{trial.achieved:,.4g}", _text(trial.goodput)),
        *(_text(trial.latency_ms(50)), _text(trial.latency_ms(99))),
        f"{100 * trial.refused_share:.2g}",
        NOTHING if mean is None else f"{mean:.3g}",
        f"{trial.late_ms:.2g}",
    )


def _stage_lines(row: StageRow) -> Iterator[tuple[str, str, str]]:
    for name in row.stages:
        share = with_interval(row.shares[name], 100)
        yield name, with_interval(row.medians_ms[name]), share
    yield "end to end", with_interval(row.medians_ms["total"]), "100"
    yield "network alone", with_interval(row.medians_ms["bare"]), ""


def _text(figure: Figure | None) -> str:
    if figure is None:
        return NOTHING
    if not math.isfinite(figure.value):
        return "∞"
    interval = figure.interval
    if interval is not None and not math.isfinite(interval.high):
        interval = None
    return statistics.figure(figure.value, interval)


def _title(row: ScenarioRow | StageRow) -> str:
    if isinstance(row, StageRow):
        batch = "" if row.batch is None else f"batch {row.batch}"
        return _join(row.label, row.precision, "from JPEG", batch)
    driven = "" if row.source == "repr-bench" else f"({row.source})"
    return _join(row.label, row.precision, row.scenario, driven)


def _join(*parts: str | None) -> str:
    return " ".join(part for part in parts if part)


def _table(
    titles: Sequence[str], lines: Sequence[Sequence[str]], numeric: Sequence[int], *, plain: bool
) -> Table:
    table = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False)
    for index, title in enumerate(titles):
        table.add_column(Text(title), justify="right" if index in numeric else "left")
    for line in lines:
        table.add_row(*map(Text, line))
    return table


def _line(console: Console, text: str, style: str) -> None:
    # As Text, since names and paths are no markup; in a pipe a line stays one line.
    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)
