"""Whole runs of scenarios on small artifacts, and on lenet5; the table, the page, mistakes."""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scenario_rows as made
from page_results import said, shown

from repr_bench import cli
from repr_bench.cli import scenario_options
from repr_bench.options import parser
from repr_bench.progress import RunProgress
from repr_bench.report.html import render_page
from repr_bench.report.sections.scenarios import with_interval
from repr_bench.request import ScenarioOptions
from repr_bench.results.file import read_results
from repr_bench.results.graph import Agreement, Graph
from repr_bench.results.results import Results
from repr_bench.results.trials import SCENARIOS, UNANSWERED, Outcome, RateTrial
from repr_bench.scenarios import offline, server, streams
from repr_bench.scenarios import run as scenarios
from repr_bench.statistics.intervals import Figure, Interval

ArtifactMaker = Callable[..., Path]
QUICK = ("--seconds", "0.05", "--samples", "12", "--threads", "1", "--instances", "1")


pytestmark = pytest.mark.usefixtures("ten_images", "in_tmp_path")
Driven = Callable[..., tuple[int, Results]]


@pytest.fixture
def driven(make_artifact: ArtifactMaker) -> Driven:
    """Drives ``linear`` by the command line; the exit status, and the results as they were kept."""

    def run(*options: str, folder: Path | None = None, targets: Sequence[str] = ()) -> Any:
        command = [*targets, str(folder or make_artifact()), *QUICK, *options, "--json", "r.json"]
        return cli.main(command), read_results(Path("r.json"))

    return run


def test_all_scenarios_of_an_artifact(driven: Driven, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--end-to-end", "--peers", "onnxruntime", "--html", "r.html", "--csv", "r.csv")
    code, found = driven("--scenario", "all", *more)
    out, err = capsys.readouterr()
    assert [(row.batch, row.status) for row in found.rows] == [(1, "measured"), (8, "measured")]
    assert [row.scenario for row in found.scenarios] == list(SCENARIOS)
    rows = {row.scenario: row for row in found.scenarios}
    # whether this machine settles on a rate is its own affair
    assert {row.status for row in found.scenarios if row.scenario != "server"} == {"measured"}
    assert code == (rows["server"].status == "failed")
    _accuracy_stands_beside_each_latency(found, out)
    single, server = rows["single-stream"], rows["server"]
    assert (single.batch, rows["multi-stream"].batch, server.slo_ms) == (1, 8, 15)
    assert (single.queries >= 12, single.inputs) == (True, "evaluation images")
    # which rates hold is the machine's; that all who were answered were in a batch is ours
    assert server.trials
    for trial in server.trials:
        assert trial.outcome in ("held", "missed")
        assert sum(size * runs for size, runs in trial.batches) >= trial.answered > 0
        assert len(trial.lateness_ns) == trial.queries
    assert rows["offline"].batch in (1, 8, 32)
    assert [trial.batch for trial in rows["offline"].batches] == [1, 8, 32]
    assert [row.batch for row in found.end_to_end] == [1, 8]
    assert "driven by" in out
    assert "MLPerf asks for 600 s" in said(found)
    assert "decode" in out
    assert "\x1b" not in out + err
    assert "Traceback" not in err
    page = Path("r.html").read_text("utf-8")
    assert "rates in the order they were tried" in page
    assert page.index('id="figures"') < page.index('id="scenarios"') < page.index('id="formulae"')
    assert out.index("graph MB") < out.index("driven by") < out.index("batch 8 from JPEG to label")
    assert out.index("batch 8 from JPEG to label") < out.index("ours is")
    assert {row.peer for row in found.peers} == {"ours", "onnxruntime"}
    assert said(found).count("The p-th percentile of n samples") == 1


def _accuracy_stands_beside_each_latency(found: Results, out: str) -> None:
    """Three of ten grey images are of the linear network's ninth class."""
    graph = found.rows[0].graph
    assert graph is not None
    assert {row.graph for row in (*found.scenarios, *found.end_to_end)} == {graph}
    for line in out.splitlines():
        if re.match(r"linear +fp32 +\S+ +repr-bench", line):
            assert "  30.00 (10.8–60.3)  " in line
    assert "linear fp32 batch 8 from JPEG to label; top-1 %: 30.00 (10.8–60.3)" in out
    body = json.loads(Path("r.json").read_text())
    for row in (*body["scenarios"], *body["end_to_end"]):
        top1 = row["derived"]["top1_percent"]
        assert (top1["value"], *top1["interval"]) == pytest.approx((30, 10.78, 60.32), abs=0.01)
    lines = list(csv.DictReader(io.StringIO(Path("r.csv").read_text())))
    driven = [line for line in lines if line["kind"] in ("scenario", "end-to-end")]
    assert [line["top1_percent"] for line in driven] == ["30.0"] * 6


def test_a_graph_of_a_fixed_batch(make_artifact: ArtifactMaker, driven: Driven) -> None:
    options = ("--scenario", "single-stream,offline,server", "--quiet")
    code, found = driven(*options, folder=make_artifact(batch=4))
    rows = {row.scenario: row for row in found.scenarios}
    assert rows["single-stream"].status == "absent"
    assert "fixed at 4" in rows["single-stream"].reason
    assert (rows["offline"].batch, len(rows["offline"].batches)) == (4, 1)
    assert code == (rows["server"].status == "failed")
    assert rows["server"].trials
    assert max(size for size, _ in rows["server"].trials[0].batches) <= 4


def _limited(rate: float, *_rest: Any, confirm: bool) -> RateTrial:
    """Of a service that holds 1000 queries/s."""
    outcome: Outcome = "held" if rate <= 1000 else "missed"
    return replace(made.HELD, offered=rate, confirms=confirm, outcome=outcome)


def test_the_rate_that_holds_is_the_rows(
    driven: Driven, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "try_rate", _limited)
    code, found = driven("--scenario", "server", "--slo", "500ms")
    (row,) = found.scenarios
    assert row.rate is not None
    assert row.next_rate is not None
    assert code == 0
    assert 950 < row.rate <= 1000 < row.next_rate
    out, err = capsys.readouterr()
    assert f"{row.rate:,.4g} queries/s hold p99 ≤ 500 ms, {row.next_rate:,.4g} do not" in out
    assert f"{row.rate:,.4g} queries/s confirmed" in err


def test_where_one_sample_takes_longer_than_the_bound_no_rate_is_tried(driven: Driven) -> None:
    code, found = driven("--scenario", "server", "--slo", "0.001us", "--quiet")
    (row,) = found.scenarios
    assert (code, row.status, row.trials, row.rate) == (0, "measured", (), None)
    assert "no rate can hold 1e-06 ms: one sample alone takes" in row.reason


@pytest.mark.parametrize(
    ("late_ns", "status", "code"), [(0, "measured", 0), (9_000_000, "failed", 1)]
)
def test_a_search_that_finds_nothing_fails_unless_that_is_a_finding(
    late_ns: int,
    status: str,
    code: int,
    driven: Driven,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def missed(rate: float, *_rest: Any, confirm: bool) -> RateTrial:
        trial = replace(made.HELD, offered=rate, confirms=confirm, outcome="missed")
        return replace(trial, lateness_ns=(late_ns,) * 6)

    monkeypatch.setattr(server, "try_rate", missed)
    exit_status, found = driven("--scenario", "server")
    (row,) = found.scenarios
    assert (exit_status, row.status, row.rate) == (code, status, None)
    assert row.trials[-1].offered * 15e-3 <= 0.1
    out, err = capsys.readouterr()
    assert f"linear fp32 server: {row.reason}" in out
    assert ("generator 9 ms late" in err) is bool(late_ns)


def test_what_fails_is_a_row_for_each_scenario(
    driven: Driven, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--precision", "fp16", "--scenario", "offline,server", "--quiet")
    code, found = driven(*options, targets=["no/such"])
    assert [(code, row.label, row.status) for row in found.scenarios] == [
        *[(1, "no/such", "failed")] * 2,
        *[(1, "linear", "absent")] * 2,
    ]
    assert "no/such: no/such is not an artifact" in capsys.readouterr().out
    assert "linear fp16 server: no fp16 graph in this artifact" in said(found)


@pytest.mark.parametrize("moment", ["single-stream", "server", "offline"])
def test_ctrl_c_keeps_what_was_measured(
    moment: str, driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = server.try_rate, list[Any]()

    def interrupted(*arguments: Any, **more: Any) -> Any:
        calls.append(arguments)
        if moment == "server" and len(calls) == 1:
            return real(*arguments, **more)
        raise KeyboardInterrupt

    if moment == "offline":  # the server is not what is looked at
        monkeypatch.setattr(server, "try_rate", _limited)
    where, name = {
        "single-stream": (streams, "measure"),
        "server": (server, "try_rate"),
        "offline": (offline, "try_batch"),
    }[moment]
    monkeypatch.setattr(where, name, interrupted)
    code, found = driven("--scenario", "all", "--quiet")
    assert (code, found.interrupted) == (130, True)
    last = found.scenarios[-1]
    assert (last.scenario, len(last.trials)) == (moment, int(moment == "server"))
    before = list(SCENARIOS).index(moment)
    assert [row.status for row in found.scenarios] == [*["measured"] * before, "interrupted"]


def test_ctrl_c_in_the_table_ends_the_run_before_the_scenarios(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    def advance(_self: object, what: str, done: float, total: float) -> None:
        if what == "measuring" and done > total / 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunProgress, "advance", advance)
    code, found = driven("--scenario", "offline", "--quiet")
    assert (code, found.interrupted, found.scenarios) == (130, True, ())
    assert found.rows[0].samples > 0


def test_what_a_cpu_emulates_is_not_driven(
    driven: Driven, make_artifact: ArtifactMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--device", "cpu", "--fp16", "--scenario", "single-stream", "--quiet")
    code, found = driven(*options, folder=make_artifact(more_precisions=("fp16",)))
    statuses = [(row.precision, row.status) for row in found.scenarios]
    assert (code, statuses) == (0, [("fp32", "measured"), ("fp16", "absent")])
    out = capsys.readouterr().out
    assert "linear fp16 single-stream: fp16 on a CPU is emulation: its latency would say" in out


def test_without_labels_agreement_stands_beside_the_latency(results: Results, graph: Graph) -> None:
    agreement = Agreement(
        "fp32", 2000, 1990, (), *(900.0, 1.0, 0.2, 0.0, 0.1), "photographs", "ab" * 32
    )
    answers = replace(graph, accuracy=None, accuracy_note="no labels", agreement=agreement)
    row = replace(made.STREAM, graph=answers)
    out = _printed(replace(results, scenarios=(row,), end_to_end=(made.STAGES,)))
    assert "agree % (95 %)" in out
    assert "top-1 % (95 %)" not in out
    assert "99.50 (" in out


def test_an_artifact_that_changes_during_the_run_is_said(
    driven: Driven,
    make_artifact: ArtifactMaker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = scenarios.load

    def altered(*arguments: Any, **more: Any) -> Any:
        make_artifact(classes=11)
        return real(*arguments, **more)

    monkeypatch.setattr(scenarios, "load", altered)
    assert driven("--scenario", "single-stream", "--quiet")[0] == 1
    assert "linear fp32 single-stream: " in (out := capsys.readouterr().out)
    assert "was written anew while it was measured" in out


def test_options() -> None:
    def chosen(*arguments: str) -> ScenarioOptions | None:
        return scenario_options(parser().parse_args(arguments))

    assert chosen() is None
    assert chosen("--slo", "20ms") is None
    for arguments, asked in (
        ("--scenario server --slo 15ms", (("server",), 15.0)),
        ("--scenario server --slo 0.1s", (("server",), 100.0)),
        ("--scenario server --slo 800us", (("server",), 0.8)),
        ("--scenario server --slo 800µs", (("server",), 0.8)),
        ("--scenario offline,server,offline", (("offline", "server"), 15.0)),
        ("--loadgen", (SCENARIOS, 15.0)),
        ("--end-to-end", ((), 15.0)),
    ):
        found: Any = chosen(*arguments.split())
        assert (found.scenarios, found.slo_ms) == (asked[0], pytest.approx(asked[1]))


def _printed(results: Results) -> str:
    """The tables of the scenarios, and all that is said of them."""
    return f"{shown(replace(results, rows=()))}\n{said(results)}"


def test_the_table_by_hand(results: Results) -> None:
    rows = (made.SERVER, made.STREAM, made.OFFLINE, made.LOADGEN)
    out = _printed(replace(results, rows=(), scenarios=rows, end_to_end=(made.STAGES,)))
    for words in (
        "100 queries/s hold p99 ≤ 15 ms, 150 do not",
        "p90 7.0 (6.0–7.0) ms; valid to LoadGen",
        "images/s, batch 32 × 2 instances",
        *("missed after 0.1 s", "confirmed", "its interval reaches beyond", "decode"),
        "Early stopping not satisfied: lenet5 fp32 single-stream (LoadGen)",
        "network alone",
    ):
        assert words in out
    assert "load generator" not in out


def test_a_generator_that_was_late_is_said(results: Results) -> None:
    def printed(*trials: RateTrial) -> str:
        return _printed(replace(results, scenarios=(replace(made.SERVER, trials=trials),)))

    late = replace(made.HELD, lateness_ns=(9_000_000,) * 6)
    out = printed(late)
    assert "lenet5 fp32 server may hold more" in out
    assert "9 ms late at p99" in out
    # where it kept higher rates from being tried, the figure is a lower bound
    lost = replace(late, outcome="missed", confirms=False, offered=200.0)
    for confirmed in (late, made.HELD):
        out = printed(lost, confirmed)
        assert "at least 100 queries/s hold p99 ≤ 15 ms" in out
        assert "do not" not in out
        assert (
            "lenet5 fp32 server: at least 100 queries/s: the load generator, not the network, is "
            "the limit"
        ) in out
        assert "missed, generator late" in out
        assert "may hold more" not in out
    # not for a rate far beyond, if the service itself missed a lower one
    missed = replace(made.HELD, outcome="missed", confirms=False, offered=150.0)
    out = printed(lost, missed, made.HELD)
    assert "  100 queries/s hold p99 ≤ 15 ms, 150 do not" in out
    assert "is the limit" not in out


def test_infinite_ends_are_shown() -> None:
    assert with_interval(Figure(2.0, Interval(1.5, float("inf")))) == "2.000 (1.500–∞)"
    assert with_interval(Figure(float("inf"), None)) == "∞"
    assert with_interval(Figure(0.5, Interval(0.49, 0.51)), 100) == "50 (49–51)"


def test_the_page_escapes_and_keeps_the_old_figures(results: Results) -> None:
    hostile = replace(made.SERVER, label="<script>alert(1)</script>")
    page = render_page(replace(results, scenarios=(hostile,)))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert 'id="figures"' in page
    lost = replace(made.HELD, windows_ns=((UNANSWERED,),), window_seconds=(0.1,))
    assert "∞" in render_page(replace(results, scenarios=(replace(hostile, trials=(lost,)),)))
