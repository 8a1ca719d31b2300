"""Sorted tables: by every column, both ways, rows without a figure last."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from repr_bench import cli
from repr_bench.errors import UsageError
from repr_bench.report.sections.columns import COLUMNS
from repr_bench.report.sort import VALUES, Order, in_order, parse_order
from repr_bench.results.file import read_results, write_results
from repr_bench.results.graph import Accuracy
from repr_bench.results.other_tools import OtherRow
from repr_bench.results.results import Results
from repr_bench.results.row import Row

MS = 1_000_000


def test_every_column_of_the_table_can_be_sorted_by() -> None:
    assert list(VALUES) == [column.title.split()[0] for column in COLUMNS]
    for column in COLUMNS:
        assert parse_order(column.title) == Order(column.title.split()[0])


def test_the_direction_is_read() -> None:
    assert parse_order("P50,desc") == Order("p50", descending=True)
    assert parse_order("images/s,asc") == Order("images/s")
    with pytest.raises(UsageError, match="desc or asc, not 'down'"):
        parse_order("p50,down")


@pytest.mark.parametrize("text", ["speed", "", ",desc"])
def test_an_unknown_column_is_answered_with_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError, match="known: network, precision, batch, p50"):
        parse_order(text)


def test_the_command_refuses_an_unknown_column(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--sort", "speed"])
    assert caught.value.code == 2
    assert "images/s" in capsys.readouterr().err


def labels(results: Results, text: str) -> list[str]:
    return [row.label for row in in_order(results, parse_order(text)).rows]


@pytest.fixture
def several(results: Results, row: Row, failed_row: Row) -> Results:
    def made(label: str, milliseconds: int, batch: int, top1: int) -> Row:
        assert row.graph is not None
        accuracy = Accuracy(top1, None, 2000, "2,000 made-up images", "ef" * 32)
        graph = replace(row.graph, accuracy=accuracy, parameters=top1 * 1000)
        rounds = ((milliseconds * MS,) * 5,) * 12
        return replace(row, label=label, batch=batch, graph=graph, rounds_ns=rounds)

    rows = (failed_row, made("b", 9, 8, 1500), made("C", 5, 1, 1400), made("a", 20, 1, 1600))
    return replace(results, rows=rows)


def test_rows_without_a_figure_are_last_both_ways(several: Results) -> None:
    assert labels(several, "p50") == ["C", "b", "a", "mine"]
    assert labels(several, "p50,desc") == ["a", "b", "C", "mine"]
    assert labels(several, "top-1,desc") == ["a", "b", "C", "mine"]
    assert labels(several, "params") == ["C", "b", "a", "mine"]
    assert labels(several, "images/s,desc") == ["b", "C", "a", "mine"]


def test_words_are_sorted_without_regard_to_case(several: Results) -> None:
    assert labels(several, "network") == ["a", "b", "C", "mine"]


def test_equals_stay_as_they_were(several: Results) -> None:
    assert labels(several, "batch") == ["C", "a", "b", "mine"]
    assert labels(several, "batch,desc") == ["b", "C", "a", "mine"]
    assert labels(several, "top-5") == ["mine", "b", "C", "a"]


def test_runs_of_other_tools_are_sorted_among_themselves(several: Results) -> None:
    others = tuple(
        OtherRow(tool="trtexec", name=str(t), file="f", samples_ns=(t * MS,)) for t in (3, 1, 2)
    )
    found = in_order(replace(several, others=others), Order("p50"))
    assert [row.name for row in found.others] == ["1", "2", "3"]
    assert [row.label for row in found.rows] == ["C", "b", "a", "mine"]


def test_table_page_csv_and_markdown_are_sorted_and_json_is_not(
    several: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.json"
    write_results(several, old)
    files = {name: tmp_path / f"r.{name}" for name in ("json", "html", "csv", "markdown")}
    options = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert cli.main(["--from", str(old), "--sort", "p50", *options]) == 1  # since a row failed
    shown = capsys.readouterr().out.splitlines()[1:5]
    assert [line.split()[0] for line in shown] == ["C", "b", "a", "mine"]
    assert [row.label for row in read_results(files["json"]).rows] == ["mine", "b", "C", "a"]
    lines = files["csv"].read_text("utf-8").splitlines()[1:]
    assert [line.split(",")[1] for line in lines] == ["C", "b", "a", "mine"]
    lines = files["markdown"].read_text("utf-8").splitlines()[2:6]
    assert [line.split()[1] for line in lines] == ["C", "b", "a", "mine"]
    page = files["html"].read_text("utf-8")
    heads = [page.index(f'<th scope="row">{name}') for name in ("C", "b", "a", "mine")]
    assert heads == sorted(heads)
