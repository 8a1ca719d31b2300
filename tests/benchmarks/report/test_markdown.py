"""CSV and Markdown: every figure with its interval, as it is on the terminal, for every kind of row."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import page_results
import pytest
import scenario_rows as made

from repr_bench import cli
from repr_bench.report.csv import CSV_COLUMNS, to_csv
from repr_bench.report.markdown import to_markdown
from repr_bench.report.sections import peers as peer_table
from repr_bench.report.sections import profiles as profile_table
from repr_bench.report.sections import roofline as roofline_table
from repr_bench.report.sections.columns import COLUMNS, shown_columns
from repr_bench.results.agreement import Flips
from repr_bench.results.file import write_results
from repr_bench.results.other_tools import OtherRow
from repr_bench.results.peers import PeerRow
from repr_bench.results.results import Results
from repr_bench.results.row import Row

MS = 1_000_000
STREAM = replace(
    made.STREAM,
    scenario="single-stream",
    batch=1,
    windows_ns=((1 * MS, 3 * MS), (2 * MS, 4 * MS)),
    window_seconds=(0.004, 0.006),
)
STAGES = replace(
    made.STAGES,
    images="",
    stages_ns=(((2 * MS,), (2 * MS,)), ((3 * MS,), (3 * MS,))),
    bare_ns=((3 * MS,), (3 * MS,)),
)
PEER = PeerRow(
    label="lenet5",
    precision="fp32",
    measure="latency",
    batch=1,
    peer="torch",
    status="measured",
    images=1,
    rounds_ns=((7 * MS,),) * 2,
)
OTHER = OtherRow(
    tool="trtexec",
    name="resnet50.times",
    file="r/resnet50.times.json",
    samples_ns=(2 * MS, 3 * MS),
    copies=True,
)


@pytest.fixture
def everything(results: Results, failed_row: Row) -> Results:
    return replace(
        results,
        rows=(*results.rows, failed_row),
        scenarios=(STREAM,),
        end_to_end=(STAGES,),
        peers=(PEER,),
        others=(OTHER,),
    )


def records(results: Results) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(results))))


def test_csv_has_figures_and_both_ends_in_full_precision(results: Results, row: Row) -> None:
    (found,) = records(results)
    for percent in (50, 90, 99):
        figure = row.latency_ms[percent]
        assert figure.interval is not None
        assert float(found[f"p{percent}_ms"]) == figure.value
        assert float(found[f"p{percent}_ms_low"]) == figure.interval.low
        assert float(found[f"p{percent}_ms_high"]) == figure.interval.high
    assert row.images_per_second is not None
    assert float(found["images_per_second"]) == row.images_per_second.value
    assert float(found["top1_percent"]) == 75
    assert round(float(found["top1_percent_low"]), 1) == 73.1
    assert found["top5_percent"] == found["flips_lost"] == ""
    assert (found["parameters"], found["samples"], found["emulated"]) == ("62006", "120", "no")


def test_csv_says_of_each_row_what_kind_it_is(everything: Results) -> None:
    found = records(everything)
    assert [record["kind"] for record in found] == [
        *("graph", "graph", "scenario", "end-to-end", "peer", "other")
    ]
    graph, failed, scenario, stages, peer, other = found
    assert list(graph) == list(CSV_COLUMNS)
    assert (failed["status"], failed["reason"]) == ("failed", "model.onnx was altered")
    assert (failed["precision"], failed["batch"], failed["p50_ms"]) == ("fp32", "", "")
    assert (scenario["measure"], scenario["p50_ms"], scenario["samples"]) == (
        *("single-stream", "2.0", "4"),
    )
    assert (stages["p50_ms"], stages["images_per_second"]) == ("5.0", "")
    assert (peer["run_by"], peer["p50_ms"], peer["p90_ms"]) == ("torch", "7.0", "")
    assert (other["run_by"], other["p50_ms"], other["p50_ms_low"]) == ("trtexec", "2.5", "")
    assert other["network"].startswith("trtexec: ")
    assert "no accuracy" in other["reason"]


def test_csv_quotes_what_needs_it(results: Results, failed_row: Row) -> None:
    odd = replace(failed_row, label='a,"b"\nc')
    assert records(replace(results, rows=(odd,)))[0]["network"] == 'a,"b"\nc'


def test_csv_counts_flips(results: Results, row: Row) -> None:
    assert row.graph is not None
    flipped = replace(row, graph=replace(row.graph, flips=Flips(5, 2)))
    (found,) = records(replace(results, rows=(flipped,)))
    assert (found["flips_lost"], found["flips_gained"]) == ("5", "2")
    assert 0.4 < float(found["flips_p_value"]) < 0.5


def test_markdown_is_the_terminals_table_with_all_its_columns(results: Results, row: Row) -> None:
    lines = to_markdown(results).splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == [column.text(row) for column in shown_columns(results.rows)]
    assert lines[0].count("|") == lines[1].count("|") == len(cells) + 1
    assert lines[1].startswith("| --- | --- | ---: |")
    assert any(line.startswith("- Latency of one call of Session.run") for line in lines)


def test_markdown_escapes_what_it_would_take_for_its_own(results: Results, row: Row) -> None:
    odd = replace(row, label="my_net|<b>*\nx")
    line = to_markdown(replace(results, rows=(odd,))).splitlines()[2]
    assert line.startswith(r"| my\_net\|\<b>\* x | fp32 | 1 |")


def test_markdown_has_every_kind_of_table(everything: Results) -> None:
    text = to_markdown(everything)
    assert "| trtexec: resnet50.times | - | - | 2.5" in text
    assert "### Scenarios" in text
    assert "| decode |" in text
    assert "### Peers" in text
    assert "| torch | 7" in text
    assert "- mine fp32: model.onnx was altered" in text


def tables(text: str) -> dict[str, list[list[str]]]:
    """The table below each heading: its cells, the titles first; what is not whole is an error."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found.setdefault(heading, []).append(cells)
    for titles, rule, *rows in found.values():
        assert set(rule) <= {"---", "---:"}
        assert {len(cells) for cells in (rule, *rows)} == {len(titles)}
    return {name: [titles, *rows] for name, (titles, _, *rows) in found.items()}


def test_markdown_has_the_tables_of_every_section(results: Results) -> None:
    whole = page_results.everything(results)
    text = to_markdown(whole)
    found = tables(text)
    comparison, roofline = whole.comparison, whole.roofline
    assert comparison is not None
    assert roofline is not None
    compared = found["Comparison"]
    assert compared[0][3:] == ["verdict", "time ×", "99% interval"]
    assert "Compared with old.json, measured 2026-01-01T03:04:05+00:00." in text
    assert compared[1][:4] == ["lenet5", "fp32", "1", "slower"]
    assert len(compared) == 1 + len(comparison.rows)
    assert "- lenet5 fp32 batch 8: cannot tell: the machine itself was 9 % slower" in text
    placed = roofline_table.places(whole, roofline).reached
    assert placed
    assert found["Roofline"] == [
        [*roofline_table.TITLES],
        *([*roofline_table.cells(row)] for row in placed),
    ]
    operators = found["Operators of resnet20 fp32 batch 1"]
    assert operators[0] == [*profile_table.OPERATORS]
    assert operators[1][:2] == ["Conv", "12"]
    layers = found["Slowest layers of resnet20 fp32 batch 1"]
    assert layers[0] == [*profile_table.LAYERS]
    assert len(layers) == 1 + 10
    assert "#### Profile of vgg16 int8 batch 1\n\nno trace\n" in text
    assert len(found["Scenarios"]) == 1 + 2
    rates = found["lenet5 fp32 server: rates in the order they were tried"]
    assert len(rates) == 1 + len(whole.scenarios[0].trials)
    assert found["resnet50-imagenet fp32 batch 1 from JPEG to label"][1][0] == "decode"
    assert found["Peers"][0] == [*peer_table.TITLES]
    assert len(found) == 10


def test_words_are_to_the_left_and_figures_to_the_right(results: Results) -> None:
    text = to_markdown(page_results.everything(results))
    _, _, after = text.partition("### Roofline\n\n")
    assert after.splitlines()[1] == "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: |"
    _, _, after = text.partition("### Peers\n\n")
    assert after.splitlines()[1] == "| --- | --- | --- | ---: | --- | ---: | ---: | ---: |"


def test_csv_of_a_server_has_the_rate_that_held_and_its_bound(results: Results) -> None:
    held, missed = page_results.everything(results).scenarios
    missed = replace(missed, trials=missed.trials[:-1])
    found = [
        record
        for record in records(replace(results, scenarios=(held, missed, STREAM)))
        if record["kind"] == "scenario"
    ]
    assert [record["held_rate"] for record in found] == ["500.0", "", ""]
    assert [record["slo_ms"] for record in found] == ["15.0", "15.0", ""]


def test_files_are_written_from_a_file_of_results(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, table, text = tmp_path / "r.json", tmp_path / "new" / "r.csv", tmp_path / "new" / "r.md"
    write_results(results, old)
    arguments = ["--from", str(old), "--csv", str(table), "--markdown", str(text)]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert table.read_text("utf-8") == to_csv(results)
    assert text.read_text("utf-8") == to_markdown(results)
    assert f"table: {table}" in err
    assert out.startswith("network ")
    assert sorted(path.name for path in table.parent.iterdir()) == ["r.csv", "r.md"]


@pytest.mark.parametrize("option", ["--csv", "--markdown"])
def test_standard_output_holds_nothing_else(
    option: str, results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "r.json"
    write_results(results, old)
    assert cli.main(["--from", str(old), option, "-"]) == 0
    assert capsys.readouterr().out == {"--csv": to_csv, "--markdown": to_markdown}[option](results)


def test_both_cannot_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--csv", "-", "--markdown", "-"]) == 1
    assert "name a file for one" in capsys.readouterr().err


def test_a_folder_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--from", "no.json", "--csv", str(tmp_path)]) == 1
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("first", ["--list", "--tune"])
def test_what_writes_no_rows_takes_no_table(first: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [first, *(["latency"] if first == "--tune" else []), "--csv", "r.csv"]
    with pytest.raises(SystemExit) as caught:
        cli.main(given)
    assert caught.value.code == 2
    assert "--csv" in capsys.readouterr().err


def test_every_column_is_in_the_csv() -> None:
    there = {
        *("network", "precision", "batch", "p50_ms", "p90_ms", "p99_ms", "images_per_second"),
        *("top1_percent", "top5_percent", "agreement_percent", "flips_p_value"),
        *("graph_bytes", "parameters", "multiply_adds"),
    }
    assert there <= set(CSV_COLUMNS)
    assert len(COLUMNS) == len(there)
