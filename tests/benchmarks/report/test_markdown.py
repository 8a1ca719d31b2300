"""CSV and Markdown: every figure with its interval, as it is on the terminal, for every kind of row."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import peer_rows
import pytest
import scenario_rows as made
from page_results import FAILED, GRAPH, RESULTS, ROW, everything, with_row

from repr_bench import cli
from repr_bench.report.csv import CSV_COLUMNS, to_csv
from repr_bench.report.markdown import to_markdown
from repr_bench.report.sections import roofline as roofline_table
from repr_bench.report.sections.columns import shown_columns
from repr_bench.results.file import write_results
from repr_bench.results.graph import Flips
from repr_bench.results.other_tools import OtherRow
from repr_bench.results.results import Results
from repr_bench.results.roofline import reached_by

MS = 1_000_000
OTHER = OtherRow(
    tool="trtexec",
    name="resnet50.times",
    file="r/resnet50.times.json",
    samples_ns=(2 * MS, 3 * MS),
    copies=True,
)
EVERY_KIND = replace(
    RESULTS,
    rows=(ROW, FAILED),
    scenarios=(made.STREAM,),
    end_to_end=(made.STAGES,),
    peers=(replace(peer_rows.row("lenet5", "latency", "torch", 1), rounds_ns=((7 * MS,),) * 2),),
    others=(OTHER,),
)


def records(results: Results) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(results))))


def test_csv_has_figures_and_both_ends_in_full_precision() -> None:
    (found,) = records(RESULTS)
    for percent in (50, 90, 99):
        names = [f"p{percent}_ms{end}" for end in ("", "_low", "_high")]
        value, interval = ROW.latency_ms[percent]
        assert [float(found[name]) for name in names] == [value, *(interval or ())]
    rate: Any = ROW.images_per_second
    assert float(found["images_per_second"]) == rate.value
    assert float(found["top1_percent"]) == 75
    assert round(float(found["top1_percent_low"]), 1) == 73.1
    assert found["top5_percent"] == found["agreement_percent"] == found["flips_lost"] == ""
    counts = ("graph_bytes", "parameters", "multiply_adds", "samples", "emulated")
    assert [found[name] for name in counts] == ["250000", "62006", "651720", "120", "no"]


def test_csv_says_of_each_row_what_kind_it_is() -> None:
    found = records(EVERY_KIND)
    assert [*found[0]] == [*CSV_COLUMNS]
    columns = ("kind", "run_by", "measure", "status", "p50_ms", "p50_ms_low", "p90_ms", "samples")
    low = str(ROW.latency_ms[50].interval[0])  # type: ignore[index]
    assert [tuple(record[name] for name in columns) for record in found] == [
        ("graph", "repr-bench", "", "measured", "11.0", low, "17.0", "120"),
        ("graph", "repr-bench", "", "failed", "", "", "", "0"),
        ("scenario", "repr-bench", "multi-stream", "measured", "2.0", "1.0", "4.0", "4"),
        ("end-to-end", "repr-bench", "", "measured", "8.0", "5.0", "", "3"),
        ("peer", "torch", "latency", "measured", "7.0", "7.0", "7.0", "2"),
        ("other", "trtexec", "", "", "2.5", "", "3.0", "2"),
    ]
    _, failed, _, stages, _, other = found
    assert (failed["precision"], failed["batch"]) == ("fp32", "")
    assert failed["reason"] == "model.onnx was altered"
    assert stages["images_per_second"] == ""
    assert other["network"].startswith("trtexec: ")
    assert "no accuracy" in other["reason"]


def test_csv_quotes_what_needs_it_and_counts_flips() -> None:
    (found,) = records(with_row(label='a,"b"\nc', graph=replace(GRAPH, flips=Flips(5, 2))))
    assert found["network"] == 'a,"b"\nc'
    assert (found["flips_lost"], found["flips_gained"]) == ("5", "2")
    assert 0.4 < float(found["flips_p_value"]) < 0.5


def test_csv_of_a_server_has_the_rate_that_held_and_its_bound() -> None:
    held, missed = everything().scenarios
    missed = replace(missed, trials=missed.trials[:-1])
    found = records(replace(RESULTS, rows=(), scenarios=(held, missed, made.STREAM)))
    assert [(record["held_rate"], record["slo_ms"]) for record in found] == [
        *(("500.0", "15.0"), ("", "15.0"), ("", ""))
    ]


def test_markdown_is_the_terminals_table_with_all_its_columns() -> None:
    lines = to_markdown(RESULTS).splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == [column.text(ROW) for column in shown_columns(RESULTS.rows)]
    assert lines[0].count("|") == lines[1].count("|") == len(cells) + 1
    assert lines[1].startswith("| --- | --- | ---: |")
    assert any(line.startswith("- Latency of one call of Session.run") for line in lines)


def test_markdown_escapes_what_it_would_take_for_its_own() -> None:
    line = to_markdown(with_row(label="my_net|<b>*\nx")).splitlines()[2]
    assert line.startswith(r"| my\_net\|\<b>\* x | fp32 | 1 |")


WORDS = {
    *("network", "precision", "verdict", "bound by", "operator", "layer", "does the work of"),
    *("scenario", "driven by", "result (95 %)", "stage", "measure", "run by"),
}


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
        # words are to the left, figures to the right
        assert rule == ["---" if title in WORDS else "---:" for title in titles]
        assert {len(cells) for cells in rows} == {len(titles)}
    return {name: [titles, *rows] for name, (titles, _, *rows) in found.items()}


def test_markdown_has_the_tables_of_every_section() -> None:
    whole: Any = replace(everything(), others=(OTHER,))
    text = to_markdown(whole)
    found = tables(text)
    for expected in (
        "| trtexec: resnet50.times | - | - | 2.5",
        "Compared with old.json, measured 1 January 2026, 03:04 UTC.",
        "- lenet5 fp32 batch 8: cannot tell: the machine itself was 9 % slower",
        "#### Profile of vgg16 int8 batch 1\n\nno trace\n",
        "- mine fp32: artifacts/mine/model.onnx was altered",
        "- openvino, fp32 latency at batch 1: ours is ",
        "- ncnn absent for lenet5 fp32: ncnn is not installed",
    ):
        assert expected in text
    assert found["Comparison"][0][3:] == ["verdict", "time ×", "99% interval"]
    assert found["Comparison"][1][:4] == ["lenet5", "fp32", "1", "slower"]
    placed = reached_by(whole.roofline, whole.rows)
    assert placed
    assert found["Roofline"][1:] == [[*roofline_table.cells(row)] for row in placed]
    assert found["Operators of resnet20 fp32 batch 1"][1][:2] == ["Conv", "12"]
    assert found["resnet50-imagenet fp32 batch 1 from JPEG to label"][1][0] == "decode"
    assert {name: len(lines) - 1 for name, lines in found.items()} == {
        "": len(whole.rows) + 1,
        "Comparison": len(whole.comparison.rows),
        "Roofline": len(placed),
        "Operators of resnet20 fp32 batch 1": 1,
        "Slowest layers of resnet20 fp32 batch 1": 10,
        "Scenarios": 2,
        "lenet5 fp32 server: rates in the order they were tried": len(whole.scenarios[0].trials),
        "resnet50 int8 server: rates in the order they were tried": 7,
        "resnet50-imagenet fp32 batch 1 from JPEG to label": 6,
        "Peers": sum(bool(row.rounds_ns) for row in whole.peers),
    }


def test_one_table_stands_alone_on_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "r.json"
    write_results(RESULTS, old)
    for option, render in (("--csv", to_csv), ("--markdown", to_markdown)):
        assert cli.main(["--from", str(old), option, "-"]) == 0
        assert capsys.readouterr().out == render(RESULTS)
