"""The table: every figure where there is room, readable where there is not, plain in a pipe."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from page_results import everything, said, shown
from rich.console import Console

from repr_bench.report.html import render_page
from repr_bench.report.sections.agreement import agreement_section
from repr_bench.report.sections.columns import COLUMNS, shown_columns
from repr_bench.report.terminal import MOST_NOTES, print_report
from repr_bench.results.agreement import Agreement, Band, Flips
from repr_bench.results.file import from_json, to_json
from repr_bench.results.graph import Accuracy, Graph
from repr_bench.results.results import Results
from repr_bench.results.row import Row

printed = partial(shown, terminal=True)


def plain(results: Results) -> str:
    """The table in a pipe, and all that there is to say below it."""
    return f"{shown(results)}\n{said(results)}"


def test_wide_terminal_shows_every_column(results: Results) -> None:
    text = printed(results, 200)
    for column in COLUMNS:
        assert (column.title in text) is not column.optional
    assert "No room" not in text
    assert "75.00 (73.1–76.8)" in text
    assert "0.25" in text
    assert "0.06" in text
    assert "0.65" in text


@pytest.mark.parametrize("width", [120, 100, 90, 80])
def test_narrow_terminal_drops_columns_and_says_which(results: Results, width: int) -> None:
    lines = printed(results, width).splitlines()
    header = next(line for line in lines if "p50 ms" in line)
    for title in ("network", "p50 ms", "images/s", "top-1 % (95 %)"):
        assert title in header
    there = shown_columns(results.rows)
    gone = [column.title for column in there if column.title not in header]
    if gone:
        assert f"No room for {', '.join(gone)}" in "\n".join(lines)


def test_no_line_is_wider_than_the_terminal(results: Results) -> None:
    for width in (140, 80, 40):
        bare = re.sub(r"\x1b\[[\d;]*m", "", printed(results, width))
        assert max(map(len, bare.splitlines())) <= width


def test_very_narrow_terminal_gets_a_block_for_each_row(results: Results) -> None:
    text = printed(results, 40)
    assert "precision: fp32" in text
    assert "p50 ms: 11" in text
    assert "mult-adds M: 0.65" in text


def test_pipe_is_plain_and_cuts_nothing(results: Results) -> None:
    long = replace(results.rows[0], label="a_network_with_a_long_name_" * 10)
    failed = replace(long, status="failed", reason="because " * 60, rounds_ns=())
    text = plain(replace(results, rows=(long, failed)))
    assert "\x1b" not in text
    assert "…" not in text
    assert "─" not in text
    header, first = text.splitlines()[:2]
    assert header.split()[0] == "network"
    assert first.startswith(long.label)
    assert ("because " * 60).strip() in text  # on one line


def test_failed_and_absent_rows_say_why(results: Results, failed_row: Row) -> None:
    absent = Row(
        label="lenet5",
        precision="fp16",
        batch=None,
        status="absent",
        reason="no fp16 graph in this artifact",
    )
    text = plain(replace(results, rows=(failed_row, absent)))
    assert "mine fp32: model.onnx was altered" in text
    assert "lenet5 fp16: no fp16 graph in this artifact" in text


def test_fp16_on_a_cpu_is_called_emulation(results: Results, graph: Graph) -> None:
    half = replace(results.rows[0], precision="fp16")
    assert "fp16 on a CPU is emulation" in plain(replace(results, rows=(half,)))
    on_gpu = replace(half, graph=replace(graph, device="cuda"))
    assert "emulation" not in plain(replace(results, rows=(on_gpu,)))
    assert "emulation" not in plain(results)


def test_random_weights_show_no_accuracy(results: Results, graph: Graph) -> None:
    random = replace(graph, weights="random", accuracy=None, accuracy_note="random weights")
    text = plain(replace(results, rows=(replace(results.rows[0], graph=random),)))
    assert "75.00" not in text
    assert text.splitlines()[1].count("random weights") == 1


def test_missing_accuracy_says_why(results: Results, graph: Graph) -> None:
    unknown = replace(
        graph, accuracy=None, accuracy_note="no evaluation images for dataset imagenet"
    )
    text = plain(replace(results, rows=(replace(results.rows[0], graph=unknown),)))
    assert "no top-1 for lenet5: no evaluation images for dataset imagenet" in text


def test_says_on_which_images_and_by_which_formula(results: Results) -> None:
    text = plain(results)
    assert "top-1 on 2,000 made-up images" in text
    assert "nearest rank" in text
    assert "at least 3 s and 30 samples" in text


def test_cautions(results: Results) -> None:
    calm = tuple(tuple(range(10_000_000 + k, 10_000_010 + k)) for k in (0, 2, 1) * 4)
    assert "Careful" not in plain(
        replace(results, rows=(replace(results.rows[0], rounds_ns=calm),))
    )
    assert (
        "too noisy to tell a change of 5 %, with the spread of the rounds: lenet5 fp32 batch 1 ("
        in plain(results)
    )
    busy = replace(results.environment, load_before=(2.0, 0.0, 0.0))
    assert "load 2" in plain(replace(results, environment=busy))
    rows = (replace(results.rows[0], steady=False),)
    assert "not steady" in plain(replace(results, rows=rows))
    few = replace(results.rows[0], rounds_ns=results.rows[0].rounds_ns[:9])
    assert "p99 of fewer than 100" in plain(replace(results, rows=(few,)))
    assert "interrupted" in plain(replace(results, interrupted=True))


@pytest.mark.parametrize("width", [200, 80, 40])
def test_a_network_below_its_bar_is_marked(results: Results, graph: Graph, width: int) -> None:
    low = replace(graph, trained_top1=0.8997, bar=0.92)
    text = printed(replace(results, rows=(replace(results.rows[0], graph=low),)), width)
    flat = " ".join(re.sub(r"\x1b\[[\d;]*m", "", text).split())
    whole = "* below its bar: lenet5 (89.97 % top-1 on all test images, its bar is 92 %)"
    assert whole[: min(len(whole), width - 12)] in flat  # cut where the line ends
    assert "lenet5 *" in flat
    assert " * " not in printed(results, width)


def test_names_are_no_markup(results: Results) -> None:
    row = replace(results.rows[0], label="[red]x[/red]", status="failed", reason="[b]no[/b]")
    text = plain(replace(results, rows=(row,)))
    assert text.splitlines()[1].startswith("[red]x[/red] ")
    assert "[b]no[/b]" in text


AGREEMENT = Agreement(
    reference="its fp32 graph",
    images=2000,
    same=1990,
    bands=(Band(0.1, 1800, 1798), Band(0.5, 1500, 1499)),
    margins=1600.0,
    flipped_margins=1.6,
    largest_flipped_margin=0.62,
    mean_kl=0.00123,
    largest_shift=0.4,
    description="2,000 made-up images",
    sha256="ef" * 32,
)


def with_graph(results: Results, graph: Graph, **changes: object) -> Results:
    return replace(
        results,
        rows=(replace(results.rows[0], graph=replace(graph, **changes)),),  # type: ignore[arg-type]
    )


def test_agreement_and_flips_are_columns_where_there_are_any(
    results: Results, graph: Graph
) -> None:
    text = plain(with_graph(results, graph, agreement=AGREEMENT, flips=Flips(9, 12)))
    header, first = text.splitlines()[:2]
    assert "agree % (95 %)" in header
    assert "flips (McNemar)" in header
    assert "top-5" not in header
    assert "99.50 (99.1–99.7)" in first
    assert "−9 +12 (p 0.66)" in first
    assert "agree: the same largest class as its fp32 graph." in text
    assert "McNemar's exact test" in text
    assert "lenet5 fp32 changes 1 answer of which its fp32 graph was sure" in text
    assert "chance explains" not in text


def test_top5_is_a_column_where_there_are_classes_enough(results: Results, graph: Graph) -> None:
    accuracy = Accuracy(1500, 1800, 2000, "2,000 made-up images", "ef" * 32)
    text = plain(with_graph(results, graph, accuracy=accuracy))
    assert "90.00 (88.6–91.2)" in text.splitlines()[1]


def test_a_loss_beyond_chance_is_a_caution(results: Results, graph: Graph) -> None:
    text = plain(with_graph(results, graph, flips=Flips(30, 5)))
    assert "30 lost, 5 gained (p <0.001)" in text
    assert "chance explains" in text
    assert "chance explains" not in plain(with_graph(results, graph, flips=Flips(5, 30)))


def test_unlabelled_images_show_agreement_and_no_accuracy(results: Results, graph: Graph) -> None:
    text = plain(
        with_graph(
            results,
            graph,
            accuracy=None,
            accuracy_note="the images are unlabelled",
            agreement=AGREEMENT,
        )
    )
    assert "no top-1 for lenet5: the images are unlabelled" in text
    assert "as its fp32 graph on 2,000 made-up images" in text
    assert "1,990 of 2,000 images, 1,798 of 1,800 where its margin is 0.1 or more" in text
    assert "99.900 % weighed by margin" in text
    assert "0.0012 nats" in text
    assert "the surest changed answer had margin 0.62" in text


def test_skipped_images_are_said(results: Results, graph: Graph) -> None:
    text = plain(with_graph(results, graph, skipped=3, skip_reason="a.png: not an image"))
    assert "lenet5 fp32: 3 images left out; the first: a.png: not an image" in text


def test_the_page_tells_of_agreement(results: Results, graph: Graph) -> None:
    page = render_page(with_graph(results, graph, agreement=AGREEMENT, flips=Flips(9, 12)))
    assert "−9 +12 <small>(p 0.66)</small>" in page
    assert (
        '<th scope="row">lenet5 fp32</th>'
        '<td class="number">1,990 of 2,000</td><td class="number">99.50 (99.1–99.7)</td>'
        '<td class="number">1,798 of 1,800</td><td class="number">1,499 of 1,500</td>'
        '<td class="number">99.900</td><td class="number">0.0012</td>'
        '<td class="number">0.4</td><td class="number">0.62</td>'
    ) in page
    assert page.index("1,990 of 2,000") < page.index("same class: the largest is that of its fp32")
    assert "compared with" not in page
    assert "No graph was compared" in render_page(results)


def test_agreement_names_the_reference_in_each_line_where_there_are_several(
    results: Results, graph: Graph
) -> None:
    whole = with_graph(results, graph, agreement=AGREEMENT)
    (first,) = whole.rows
    torch = replace(AGREEMENT, reference="the torch network", same=2000, bands=())
    second = replace(first, label="b", graph=replace(graph, agreement=torch))
    section = agreement_section(replace(whole, rows=(first, replace(first, batch=8), second)))
    (found,) = section.tables
    lines = [line.cells for line in found.rows]
    assert found.titles[-1] == "compared with"
    assert [line[0] for line in lines] == ["lenet5 fp32", "b fp32"]
    assert [line[-1] for line in lines] == ["its fp32 graph", "the torch network"]
    assert lines[1][3:5] == ("-", "-")
    assert lines[1][-2] == "-"
    assert "of its fp32 graph or the torch network;" in section.notes[0].text
    assert {len(line) for line in lines} == {len(found.titles)}


def test_the_page_says_once_how_graphs_without_labels_agree(results: Results, graph: Graph) -> None:
    whole = with_graph(results, graph, accuracy=None, agreement=AGREEMENT)
    assert "answers as its fp32 graph" in plain(whole)
    page = render_page(whole)
    assert "answers as its fp32 graph" not in page
    assert page.count("1,990 of 2,000") == 1


def test_answers_are_in_the_json(results: Results, graph: Graph) -> None:
    whole = with_graph(results, graph, agreement=AGREEMENT, flips=Flips(9, 12), skipped=1)
    text = to_json(whole)
    assert from_json(text) == whole
    derived = json.loads(text)["rows"][0]["derived"]
    assert derived["agreement_percent"]["value"] == 99.5
    assert derived["flips_p_value"]["value"] == pytest.approx(0.6636, abs=1e-4)
    old = json.loads(text) | {"schema": 1}
    for name in ("agreement", "flips", "skipped", "skip_reason"):
        del old["rows"][0]["graph"][name]
    read = from_json(json.dumps(old)).rows[0].graph
    assert read == graph


def test_below_a_table_stand_the_gravest_notes_and_where_the_rest_is(
    results: Results, failed_row: Row
) -> None:
    absent = replace(failed_row, status="absent", reason="no such graph")
    few = replace(results.rows[0], rounds_ns=results.rows[0].rounds_ns[:9], steady=False)
    busy = replace(results.environment, load_before=(2.0, 0.0, 0.0))
    whole = replace(results, rows=(few, absent, failed_row), environment=busy)
    lines = shown(whole).splitlines()
    below = lines[1 + len(whole.rows) :]
    assert len(below) == MOST_NOTES + 1 == 4
    assert below[0] == "mine fp32: model.onnx was altered"
    assert below[1] == "mine fp32: no such graph"
    assert below[2].startswith("Careful: the machine was busy as the run began (load 2)")
    assert re.fullmatch(r"\d+ more notes: repr-bench --from FILE.* --html PAGE.*", below[-1])


def test_the_last_line_names_the_files_that_there_are(results: Results) -> None:
    for files, where in (
        ({"saved": Path("r.json")}, "repr-bench --from r.json --html PAGE"),
        ({"saved": Path("r.json"), "page": Path("p.html")}, "more notes: p.html."),
    ):
        console = Console(file=io.StringIO(), width=1000)
        print_report(results, console, **files)
        assert where in console.file.getvalue()  # type: ignore[attr-defined]


def test_no_table_on_a_terminal_has_more_notes_than_one_reads(results: Results) -> None:
    whole = everything(results)
    notes = said(whole).splitlines()
    for width in (80, 140):
        text = re.sub(r"\x1b\[[\d;]*m", "", shown(whole, width, terminal=True))
        assert max(map(len, text.splitlines())) <= width
        kept = [note for note in notes if note and note[:60] in text]
        assert len(kept) <= 6 * (MOST_NOTES + 1)
        assert "nearest rank" not in text
