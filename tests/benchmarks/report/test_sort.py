"""Sorted tables: by every column, both ways, rows without a figure last."""

from dataclasses import replace
from pathlib import Path

import pytest
from page_results import FAILED, GRAPH, RESULTS, ROW

from repr_bench import cli
from repr_bench.report.sections.columns import COLUMNS
from repr_bench.report.sort import Order, in_order, parse_order
from repr_bench.results.file import read_results, write_results
from repr_bench.results.graph import Accuracy
from repr_bench.results.other_tools import OtherRow
from repr_bench.results.row import Row

MS = 1_000_000


def test_every_column_of_the_table_can_be_sorted_by_both_ways() -> None:
    for column in COLUMNS:
        assert parse_order(column.title) == Order(column.title.split()[0])
    assert parse_order("P50,desc") == Order("p50", descending=True)
    assert parse_order("images/s,asc") == Order("images/s")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("p50,down", "desc or asc, not 'down'"),
        ("speed", "known: network, precision, batch, p50"),
        ("", "known: network"),
        (",desc", "known: network"),
    ],
)
def test_what_is_no_order_is_answered_with_what_is(
    text: str, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--sort", text])
    assert caught.value.code == 2
    assert answer in " ".join(capsys.readouterr().err.split())


def _row(label: str, milliseconds: int, batch: int, top1: int) -> Row:
    accuracy = Accuracy(top1, None, 2000, "2,000 made-up images", "ef" * 32)
    graph = replace(GRAPH, accuracy=accuracy, parameters=top1 * 1000)
    rounds = ((milliseconds * MS,) * 5,) * 12
    return replace(ROW, label=label, batch=batch, graph=graph, rounds_ns=rounds)


SEVERAL = replace(
    RESULTS, rows=(FAILED, _row("b", 9, 8, 1500), _row("C", 5, 1, 1400), _row("a", 20, 1, 1600))
)


@pytest.mark.parametrize(
    ("order", "labels"),
    [
        # rows without a figure are last both ways
        ("p50", ["C", "b", "a", "mine"]),
        ("p50,desc", ["a", "b", "C", "mine"]),
        ("top-1,desc", ["a", "b", "C", "mine"]),
        ("params", ["C", "b", "a", "mine"]),
        ("images/s,desc", ["b", "C", "a", "mine"]),
        # words without regard to case
        ("network", ["a", "b", "C", "mine"]),
        # equals stay as they were
        ("batch", ["C", "a", "b", "mine"]),
        ("batch,desc", ["b", "C", "a", "mine"]),
        ("top-5", ["mine", "b", "C", "a"]),
    ],
)
def test_rows_are_sorted(order: str, labels: list[str]) -> None:
    assert [row.label for row in in_order(SEVERAL, parse_order(order)).rows] == labels


def test_runs_of_other_tools_are_sorted_among_themselves() -> None:
    others = tuple(
        OtherRow(tool="trtexec", name=str(t), file="f", samples_ns=(t * MS,)) for t in (3, 1, 2)
    )
    found = in_order(replace(SEVERAL, others=others), Order("p50"))
    assert [row.name for row in found.others] == ["1", "2", "3"]
    assert [row.label for row in found.rows] == ["C", "b", "a", "mine"]


def test_table_page_csv_and_markdown_are_sorted_and_json_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.json"
    write_results(SEVERAL, old)
    files = {name: tmp_path / f"new/r.{name}" for name in ("json", "html", "csv", "markdown")}
    options = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert cli.main(["--from", str(old), "--sort", "p50", *options]) == 1  # since a row failed
    out, err = capsys.readouterr()
    assert f"table: {files['csv']}" in err
    assert [line.split()[0] for line in out.splitlines()[1:5]] == ["C", "b", "a", "mine"]
    assert [row.label for row in read_results(files["json"]).rows] == ["mine", "b", "C", "a"]
    lines = files["csv"].read_text("utf-8").splitlines()[1:]
    assert [line.split(",")[1] for line in lines] == ["C", "b", "a", "mine"]
    lines = files["markdown"].read_text("utf-8").splitlines()[2:6]
    assert [line.split()[1] for line in lines] == ["C", "b", "a", "mine"]
    page = files["html"].read_text("utf-8")
    heads = [page.index(f'<th scope="row">{name}') for name in ("C", "b", "a", "mine")]
    assert heads == sorted(heads)
