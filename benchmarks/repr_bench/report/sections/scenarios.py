"""The tables of a run of scenarios: what each found, the rates a server held, where time goes."""

import math
from collections.abc import Iterator, Sequence

from repr_bench.report.document import NOTHING, Kind, Note, Section, notes, table
from repr_bench.report.rows import title_of
from repr_bench.report.sections.columns import (
    AGREE,
    TOP1,
    agreement_text,
    marked,
    text_of,
    top1_text,
)
from repr_bench.report.sections.figures import INTERRUPTED, cautions
from repr_bench.report.sections.servers import IN_PROCESS, RUN_BY
from repr_bench.results.results import Results
from repr_bench.results.scenarios import ScenarioRow, StageRow, overload_ratio
from repr_bench.results.trials import (
    MLPERF_SECONDS,
    PERCENT,
    TRUSTED_LATENESS,
    RateTrial,
    per_second,
)
from repr_bench.statistics import intervals
from repr_bench.statistics.intervals import Figure, times

_NAMES = ("network", "precision", "scenario", "driven by")
_TITLES = (*_NAMES, "batch", "queries", "p50 ms", "p90 ms", "p99 ms")
_RESULT = "result (95 %)"
_SPARE = ("queries", "p50 ms", "p90 ms", "p99 ms", "batch", "driven by")
_SPARE_OF_TRIALS = ("mean batch", "refused %", "answered/s", "late p99 ms", "p50 ms")
_TRIAL_TITLES = (
    *("offered/s", "verdict", "answered/s", "in time/s", "p50 ms", "p99 ms"),
    *("refused %", "mean batch", "late p99 ms"),
)
_STAGE_TITLES = ("stage", "p50 ms (95 %)", "share % (95 %)")

SCENARIO_FORMULA = (
    "single-stream: one sample a query, each sent as the last is answered, p90. multi-stream: eight "
    "samples a query, p99. server: Poisson arrivals of single samples into the runtime's batcher, the "
    "highest rate whose p99 holds the bound. offline: all instances busy, images/s, the best batch size."
)
OVERLOAD_FORMULA = (
    "overload: in process the artifact's batcher is offered the rate that holds the bound; in turn with "
    "it each server is offered several times that, and is told the bound as its deadline, then half of "
    "it. In time: answered within the bound; p50 to p99 are of the answered. It is over when at most 1 % "
    "of those that come from then on miss the bound."
)
ARRIVAL_FORMULA = (
    "Latency in the server scenario counts from the scheduled arrival; a query without an answer "
    "counts as infinitely slow."
)


def scenarios_section(results: Results) -> Section:
    """All tables of the run: the scenarios, the rates of each server, the stages of each way."""
    answers = _answers(results.scenarios)
    remote = any(row.server for row in results.scenarios)
    titles = (*_TITLES[:3], *[RUN_BY] * remote, *_TITLES[3:], *answers, _RESULT)
    lines = [_scenario_line(row, answers, results, remote=remote) for row in results.scenarios]
    main = (table("Scenarios", titles, lines, (*_NAMES, RUN_BY, _RESULT), _SPARE),) if lines else ()
    return Section(
        "scenarios",
        "Scenarios",
        tables=main,
        parts=(*_servers(results), *_ways(results)),
        notes=(
            *scenario_problems(results),
            *notes("caution", scenario_cautions(results)),
            *notes("meaning", scenario_meanings(results)),
        ),
    )


def _servers(results: Results) -> Iterator[Section]:
    for row in results.scenarios:
        if row.trials:
            heading = f"{title_of(row)}: rates in the order they were tried"
            rates = table(
                heading, _TRIAL_TITLES, map(_trial_line, row.trials), ("verdict",), _SPARE_OF_TRIALS
            )
            yield Section("", heading, tables=(rates,), folded=True)


def _ways(results: Results) -> Iterator[Section]:
    for stages in results.end_to_end:
        if stages.calls:
            heading = f"{title_of(stages)} to label{_accuracy(stages)}"
            times = table(heading, _STAGE_TITLES, _stage_lines(stages), ("stage",))
            yield Section("", heading, tables=(times,))


def result_text(row: ScenarioRow, beside: Sequence[ScenarioRow] = ()) -> str:
    """What the scenario is about, in one figure and its interval; ``beside`` are the run's others."""
    if row.loadgen is not None:
        valid = "valid" if row.loadgen.valid else "invalid"
        return f"{_loadgen_result(row)}; {valid} to LoadGen"
    if row.scenario == "overload":
        return _overload_text(row, beside)
    if row.scenario == "server":
        if row.rate is None:
            return NOTHING
        least = "at least " if row.generator_limit else ""
        beyond = f", {per_second(row.next_rate)} do not" if row.next_rate else ""
        return f"{least}{per_second(row.rate)} queries/s hold p99 ≤ {row.slo_ms:g} ms{beyond}"
    if row.scenario == "offline":
        figure = row.images_per_second
        if figure is None:
            return NOTHING
        many = f" × {row.instances} instances" if row.instances > 1 else ""
        return f"{with_interval(figure)} images/s, batch {row.batch}{many}"
    found = row.latency_ms.get(PERCENT[row.scenario])
    return NOTHING if found is None else f"p{PERCENT[row.scenario]} {with_interval(found)} ms"


def _overload_text(row: ScenarioRow, beside: Sequence[ScenarioRow]) -> str:
    """What was in time of what was offered, how fast the rest was refused, when it was over."""
    if not row.trials or row.images_per_second is None:
        return NOTHING
    good = (
        f"{with_interval(row.images_per_second)}/s in time of {per_second(row.trials[0].offered)}/s"
    )
    if not row.server:
        return f"{good}, the rate that holds p99 ≤ {row.slo_ms:g} ms"
    ours = [o for o in beside if o.scenario == "overload" and not o.server and o.label == row.label]
    found = next((overload_ratio(o, row) for o in ours if o.precision == row.precision), None)
    share = sum(t.refused for t in row.trials) / row.queries
    told = f" in {text_of(row.refusal_ms)} ms (p99)" if row.refusal_ms else ""
    after = row.recovered_seconds
    over = "not over within 3 s" if after is None else f"over after {after:.2g} s"
    return "; ".join(
        (
            good,
            *([f"{times(found)} in process"] if found else []),
            f"{100 * share:.0f} % refused{told}",
            over,
        )
    )


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
        return intervals.figure(value)
    low, high = (end * factor for end in figure.interval)
    if not math.isfinite(high):
        return f"{intervals.figure(value)} ({intervals.figure(low)}–∞)"
    interval = intervals.Interval(low, high)
    places = intervals.decimals(value, interval)
    return f"{value:,.{places}f} ({low:,.{places}f}–{high:,.{places}f})"


def scenario_problems(results: Results) -> Iterator[Note]:
    """Why a row has no figures, a note each."""
    if results.interrupted and not results.rows:  # else it stands below their table
        yield Note("problem", INTERRUPTED)
    rows: tuple[ScenarioRow | StageRow, ...] = (*results.scenarios, *results.end_to_end)
    for row in rows:
        if row.reason:
            kind: Kind = "remark" if row.status == "absent" else "problem"
            yield Note(kind, f"{title_of(row)}: {row.reason}")


def scenario_cautions(results: Results) -> list[str]:
    """What a reader must know before trusting these figures."""
    found = [] if results.rows else cautions(results)  # else they stand below their table
    unsure: list[str] = []
    for row in results.scenarios:
        confirmed = row.confirmed
        if row.generator_limit:
            found.append(
                f"{title_of(row)}: {row.generator_limit}; at higher rates it was late by more than "
                f"{100 * TRUSTED_LATENESS:g} % of the bound at p99, and a machine with more idle "
                f"cores lets it try them"
            )
        elif confirmed is not None and not confirmed.trusted:
            found.append(
                f"{title_of(row)} may hold more: the load generator was itself {confirmed.late_ms:.3g} ms "
                f"late at p99, which is in the latencies; run it on a machine with an idle core"
            )
        late = [trial.late_ms for trial in row.trials if not trial.trusted]
        if late and row.scenario == "overload":
            found.append(
                f"{title_of(row)}: in {len(late)} of {len(row.trials)} rounds the load generator was "
                f"itself up to {max(late):.3g} ms late at p99, which is in the latencies"
            )
        p99 = confirmed and confirmed.latency_ms.get(PERCENT["server"])
        if p99 and p99.interval and row.slo_ms and p99.interval.high > row.slo_ms:
            unsure.append(title_of(row))
    if unsure:
        found.append(
            f"p99 held its bound, but its interval reaches beyond, and a longer run (--seconds) would "
            f"tell: {', '.join(unsure)}"
        )
    if unsteady := [title_of(row) for row in results.scenarios if not row.steady]:
        found.append(f"not steady when the warm-up reached its limit: {', '.join(unsteady)}")
    reasons: dict[str, list[str]] = {}
    for row in results.scenarios:
        if row.loadgen is not None and row.loadgen.reasons:
            reasons.setdefault("; ".join(row.loadgen.reasons), []).append(title_of(row))
    found += [f"{reason}: {', '.join(titles)}" for reason, titles in reasons.items()]
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
    if any(row.scenario == "overload" for row in measured):
        found.append(OVERLOAD_FORMULA)
    if any(trial.realtime for row in results.scenarios for trial in row.trials):
        found.append(
            "The load generator had real-time priority on the CPUs that it shares with the service: "
            "clients have machines of their own."
        )
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
    if not results.rows:  # else it stands below their table
        found.append(intervals.PERCENTILE_FORMULA)
    found.append(intervals.LATENCY_INTERVAL_FORMULA)
    rows: tuple[ScenarioRow | StageRow, ...] = (*results.scenarios, *results.end_to_end)
    said = {row.graph.choice for row in results.rows if row.graph}
    if choices := dict.fromkeys(r.choice for r in rows if r.choice and r.choice not in said):
        found.append(f"Run by {'; '.join(choices)}.")
    return found


def _answers(rows: Sequence[ScenarioRow]) -> tuple[str, ...]:
    """The columns on what the graphs get right: agreement, where there is no top-1 of some."""
    top1 = any(top1_text(row) != NOTHING for row in rows)
    others = [row for row in rows if row.graph is None or row.graph.accuracy is None]
    agree = any(agreement_text(row) != NOTHING for row in others)
    return (*((TOP1,) if top1 else ()), *((AGREE,) if agree else ()))


def _accuracy(row: StageRow) -> str:
    """The same for a heading."""
    top1, agree = top1_text(row), agreement_text(row)
    if row.graph and row.graph.accuracy:
        return f"; top-1 %: {top1}"
    return f"; {top1}" if top1 != NOTHING else f"; agree %: {agree}" if agree != NOTHING else ""


def _scenario_line(
    row: ScenarioRow, answers: Sequence[str], results: Results, *, remote: bool
) -> tuple[str, ...]:
    offline = row.scenario == "offline"
    latencies = (
        NOTHING if offline or percent not in row.latency_ms else text_of(row.latency_ms[percent])
        for percent in (50, 90, 99)
    )
    batch = NOTHING if row.batch is None else str(row.batch)
    return (
        *(marked(row), row.precision or NOTHING, row.scenario),
        *([row.server or IN_PROCESS] * remote),
        row.source,
        *(batch, f"{row.queries:,}" if row.queries else NOTHING, *latencies),
        *(top1_text(row) if title == TOP1 else agreement_text(row) for title in answers),
        result_text(row, results.scenarios),
    )


def _trial_line(trial: RateTrial) -> tuple[str, ...]:
    outcome: str = "confirmed" if trial.confirms and trial.outcome == "held" else trial.outcome
    if trial.stopped and trial.outcome == "missed":
        outcome = f"missed after {trial.seconds:.2g} s"
    if trial.generator_limited:
        outcome += ", generator late"
    mean = trial.mean_batch
    return (
        *(per_second(trial.offered), outcome, per_second(trial.achieved), text_of(trial.goodput)),
        *(text_of(trial.latency_ms.get(50)), text_of(trial.latency_ms.get(99))),
        f"{100 * trial.refused_share:.2g}",
        NOTHING if mean is None else f"{mean:.3g}",
        f"{trial.late_ms:.{1 if trial.late_ms < 10 else 0}f}",
    )


def _stage_lines(row: StageRow) -> Iterator[tuple[str, str, str]]:
    for name in row.stages:
        share = with_interval(row.shares[name], 100)
        yield name, with_interval(row.medians_ms[name]), share
    yield "end to end", with_interval(row.medians_ms["total"]), "100"
    yield "network alone", with_interval(row.medians_ms["bare"]), ""
