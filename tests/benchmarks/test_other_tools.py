"""Runs of trtexec and LoadGen beside ours: their own label, formulae and words, no accuracy."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scenario_rows
from loadgen_logs import MULTI_STREAM_DETAIL, OFFLINE, SERVER, SINGLE_STREAM
from page_results import said, shown

from repr_bench import cli
from repr_bench.errors import BenchError
from repr_bench.other_tools import read_other
from repr_bench.report.html import render_page
from repr_bench.results.file import read_results, write_results
from repr_bench.results.other_tools import trtexec_percentile
from repr_bench.results.results import Results


def times(path: Path, count: int = 4, copy: float = 0.25) -> Path:
    queries = [{"h2dMs": copy, "computeMs": 1.0 + i, "d2hMs": copy} for i in range(count)]
    path.write_text(json.dumps(queries))
    return path


def test_trtexecs_percentiles_are_its_own() -> None:
    hundred = list(range(100, 0, -1))
    # In 32-bit floats 1 - 0.9 is a little more than 0.1, and 1 - 0.99 a little less than 0.01.
    for samples, percent, found in (
        *((hundred, 50, 50.5), (hundred[:-1], 50, 51), (hundred, 90, 90)),
        *((list(range(1000)), 99, 990), ([7], 99, 7)),
    ):
        assert trtexec_percentile(samples, percent) == found
    with pytest.raises(ValueError, match="at least one"):
        trtexec_percentile([], 50)


def test_a_file_of_trtexec(tmp_path: Path) -> None:
    row = read_other(times(tmp_path / "resnet50.json"))
    assert (row.label, row.batch, row.images_per_second) == ("trtexec: resnet50", None, None)
    assert row.latency_ms[50].value == 3.0  # of 1.5, 2.5, 3.5, 4.5
    assert row.latency_ms[99].interval is None
    for words in ("4 queries", "trtexec's clock, copies to and from", "no accuracy"):
        assert words in row.meaning
    assert "WITHOUT copies" in read_other(times(tmp_path / "x.json", copy=0)).meaning


def test_a_folder_of_loadgen_is_named_by_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "h100"
    folder.mkdir()
    summary = folder / "mlperf_log_summary.txt"
    summary.write_text(SERVER)
    for path in (folder, summary):
        row: Any = read_other(path)
        assert (row.label, row.images_per_second.value) == ("LoadGen: h100", 190.09)
        assert [row.latency_ms[p].value for p in (50, 99)] == [6.137985, 23.130667]
        assert "server scenario, NOT valid by its rules (Performance constraints" in row.meaning


def test_loadgen_shows_what_it_states_and_no_more(tmp_path: Path) -> None:
    file = tmp_path / "run.txt"
    file.write_text(SINGLE_STREAM)
    row = read_other(file)
    assert (row.label, row.images_per_second, row.batch) == ("LoadGen: run", None, None)
    assert list(row.latency_ms) == [50, 90]
    assert ", valid by its rules;" in row.meaning
    file.write_text(OFFLINE)
    offline = read_other(file)
    assert (offline.latency_ms, offline.images_per_second is None) == ({}, False)
    file.write_text(MULTI_STREAM_DETAIL)
    assert read_other(file).batch == 8


@pytest.mark.parametrize("text", ["", "[]", "[1]", '{"a": 1}', "network,p50\n"])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text(text)
    with pytest.raises(BenchError):
        read_other(file)


def test_a_missing_file_is_said_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["--with", "no/such.json"]) == 1
    assert "no/such.json cannot be read" in capsys.readouterr().err


@pytest.fixture
def beside(results: Results, tmp_path: Path) -> Results:
    return replace(results, others=(read_other(times(tmp_path / "net.json")),))


def test_table_and_page_show_it_under_its_label_with_its_meaning(beside: Results) -> None:
    cells = shown(beside).splitlines()[2].split()
    assert cells[:7] == ["trtexec:", "net", "-", "-", "3.000", "4.500", "4.500"]
    assert cells[8] == "-"  # no accuracy
    assert beside.others[0].meaning in said(beside)
    page = render_page(beside)
    assert '<th scope="row">trtexec: net</th>' in page
    assert "another run, not timed in our rounds" in page


def test_below_scenarios_it_has_a_table_of_its_own(beside: Results) -> None:
    alone = replace(beside, rows=(), scenarios=(scenario_rows.STREAM,))
    first, _, rest = shown(alone).partition("Scenarios")
    assert "lenet5" not in first
    assert "trtexec: net" in first
    assert "lenet5" in rest
    assert "no accuracy" in said(alone)


def test_the_command_takes_several(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    write_results(results, old)
    one, two = times(tmp_path / "one.json"), tmp_path / "two.txt"
    two.write_text(SERVER)
    arguments = ["--from", str(old), "--with", str(one), "--with", str(two), "--json", str(new)]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert out.index("trtexec: one") < out.index("LoadGen: two")
    assert read_results(new).others == (read_other(one), read_other(two))
