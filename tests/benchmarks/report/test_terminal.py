"""The table: every figure where there is room, readable where there is not, plain in a pipe."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from page_results import (
    AGREEMENT,
    FAILED,
    GRAPH,
    RESULTS,
    ROW,
    everything,
    said,
    shown,
    with_graph,
    with_row,
)

from repr_bench.report.html import render_page
from repr_bench.report.sections.agreement import agreement_section
from repr_bench.report.sections.columns import COLUMNS, shown_columns
from repr_bench.report.sections.figures import cautions
from repr_bench.report.terminal import MOST_NOTES
from repr_bench.results.graph import Accuracy, Difference, Flips
from repr_bench.results.results import Results

printed = partial(shown, terminal=True)


def plain(results: Results) -> str:
    """The table in a pipe, and all that there is to say below it."""
    return f"{shown(results)}\n{said(results)}"


def bare(text: str) -> str:
    """``text`` without colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def test_wide_terminal_shows_every_column() -> None:
    text = printed(RESULTS, 200)
    for column in COLUMNS:
        assert (column.title in text) is not column.optional
    for expected in ("75.00 (73.1–76.8)", "0.25", "0.06", "0.65"):
        assert expected in text
    assert "No room" not in text


@pytest.mark.parametrize("width", [140, 120, 100, 90, 80])
def test_narrow_terminal_drops_columns_and_says_which(width: int) -> None:
    lines = bare(printed(RESULTS, width)).splitlines()
    assert max(map(len, lines)) <= width
    header = next(line for line in lines if "p50 ms" in line)
    for title in ("network", "p50 ms", "images/s", "top-1 % (95 %)"):
        assert title in header
    gone = [c.title for c in shown_columns(RESULTS.rows) if c.title not in header]
    assert not gone or f"No room for {', '.join(gone)}" in "\n".join(lines)


def test_very_narrow_terminal_gets_a_block_for_each_row() -> None:
    lines = bare(printed(RESULTS, 40)).splitlines()
    assert {"  precision: fp32", "  p50 ms: 11", "  mult-adds M: 0.65"} <= {*lines}
    assert max(map(len, lines)) <= 40


@pytest.mark.parametrize("results", [RESULTS, everything()])
def test_no_line_of_a_very_narrow_terminal_is_longer_and_no_color_is_obeyed(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert re.search(r"\x1b\[[\d;]*3\dm", printed(everything(), 40))
    monkeypatch.setenv("NO_COLOR", "1")
    text = printed(results, 40)
    assert not re.search(r"\x1b\[[\d;]*[349]\dm", text)
    assert max(map(len, bare(text).splitlines())) <= 40


def test_pipe_is_plain_and_cuts_nothing() -> None:
    long = replace(ROW, label="a_network_with_a_long_name_" * 10)
    failed = replace(long, status="failed", reason="because " * 60, rounds_ns=())
    text = plain(replace(RESULTS, rows=(long, failed)))
    assert not re.search("[\x1b…─]", text)
    header, first = text.splitlines()[:2]
    assert header.split()[0] == "network"
    assert first.startswith(long.label)
    assert ("because " * 60).strip() in text  # on one line


CALM = tuple(tuple(range(10_000_000 + k, 10_000_010 + k)) for k in (0, 2, 1) * 4)
BUSY = replace(RESULTS.environment, load_before=(2.0, 0.0, 0.0))
QUICK = replace(RESULTS.settings, quick=True)


@pytest.mark.parametrize(
    ("results", "told"),
    [
        (replace(RESULTS, rows=(FAILED,)), "mine fp32: model.onnx was altered"),
        (with_row(precision="fp16"), "fp16 on a CPU is emulation"),
        (RESULTS, "top-1 on 2,000 made-up images"),
        (RESULTS, "at least 3 s and 30 samples"),
        (RESULTS, "a change of 5 %, with the spread of the rounds: lenet5 fp32 batch 1 ("),
        (replace(RESULTS, environment=BUSY), "load 2"),
        (replace(RESULTS, settings=QUICK), "a quick look (--quick): 3 s and 30 samples a row"),
        (with_row(steady=False), "warm-up reached its limit: lenet5 fp32 batch 1"),
        (with_row(rounds_ns=ROW.rounds_ns[:9]), "p99 of fewer than 100"),
        (replace(RESULTS, interrupted=True), "interrupted"),
        (with_graph(flips=Flips(30, 5)), "chance explains: 30 lost, 5 gained (p <0.001)"),
        (
            with_graph(skipped=3, skip_reason="a.png: not an image"),
            "lenet5 fp32: 3 images left out; the first: a.png: not an image",
        ),
        (with_graph(agreement=AGREEMENT), "lenet5 fp32 changes 1 answer of which its fp32 graph"),
        (with_graph(flips=Flips(9, 12)), "McNemar's exact test"),
    ],
)
def test_it_is_said(results: Results, told: str) -> None:
    assert told in plain(results)


@pytest.mark.parametrize(
    ("results", "untold"),
    [
        (RESULTS, "emulation"),
        (RESULTS, "--quick"),
        (with_row(precision="fp16", graph=replace(GRAPH, device="cuda")), "emulation"),
        (with_row(rounds_ns=CALM), "Careful"),
        (with_graph(flips=Flips(5, 30)), "chance explains"),
        (with_graph(flips=Flips(12, 9)), "chance explains"),
    ],
)
def test_it_is_not_said_without_cause(results: Results, untold: str) -> None:
    assert untold not in plain(results)


@pytest.mark.parametrize(
    ("graph", "cell", "column"),
    [
        ({"weights": "random", "accuracy": None}, "random weights", "top-1 % (95 %)"),
        ({"agreement": AGREEMENT}, "99.50 (99.1–99.7)", "agree % (95 %)"),
        ({"flips": Flips(9, 12)}, "−9 +12 (p 0.66)", "flips (McNemar)"),
        (
            {"accuracy": Accuracy(1500, 1800, 2000, "2,000 images", "ef" * 32)},
            *("90.00 (88.6–91.2)", "top-5 % (95 %)"),
        ),
    ],
)
def test_answers_are_columns_where_there_are_any(
    graph: dict[str, Any], cell: str, column: str
) -> None:
    header, first = plain(with_graph(**graph)).splitlines()[:2]
    assert (column in header, first.count(cell)) == (True, 1)
    assert ("top-5" in header) is (column[:5] == "top-5")


@pytest.mark.parametrize("width", [200, 80, 40])
def test_a_network_below_its_bar_is_marked(width: int) -> None:
    flat = " ".join(bare(printed(with_graph(trained_top1=0.8997, bar=0.92), width)).split())
    whole = "* below its bar: lenet5 (89.97 % top-1 on all test images, its bar is 92 %)"
    assert whole[: min(len(whole), width - 12)] in flat  # cut where the line ends
    assert "lenet5 *" in flat
    assert " * " not in printed(RESULTS, width)


@pytest.mark.parametrize(
    ("recorded", "images", "description", "off"),
    [
        (0.9173, 10_000, "CIFAR-10 test set: all 10,000 images", True),
        (0.0, 10_000, "CIFAR-10 test set: all 10,000 images", True),
        (0.104, 10_000, "CIFAR-10 test set: all 10,000 images", False),  # within 9.3 to 10.5
        (0.104, 2_000_000, "CIFAR-10 test set: all 10,000 images", True),
        (0.7613, 50_000, "50,000 images under val", True),
        (0.7613, 9_469, "9,469 images under imagenette, 10 of 1,000 classes", False),
        (None, 10_000, "CIFAR-10 test set: all 10,000 images", False),
    ],
)
def test_an_accuracy_off_the_record_is_the_first_caution_and_in_json(
    recorded: float | None, images: int, description: str, off: bool
) -> None:
    right = Accuracy(images * 99 // 1000, None, images, description, "ef" * 32)
    results = with_graph(trained_top1=recorded, accuracy=right, bar=0.92)
    said = cautions(results)
    assert any("is on record" in caution for caution in said) is off
    if off:
        assert said[0].startswith("lenet5 fp32 gets 9.90 (")
        assert f"of its weights {100 * (recorded or 0):.2f} % is on record" in said[0]
    derived = results.rows[0].derived()
    assert derived.get("off_record") == (None if recorded is None else off)


def test_names_are_no_markup() -> None:
    text = plain(with_row(label="[red]x[/red]", status="failed", reason="[b]no[/b]"))
    assert text.splitlines()[1].startswith("[red]x[/red] ")
    assert "[b]no[/b]" in text


def test_unlabelled_images_show_agreement_on_the_page_in_its_table_alone() -> None:
    note = "the images are unlabelled"
    whole = with_graph(accuracy=None, accuracy_note=note, agreement=AGREEMENT)
    text = plain(whole)
    for expected in (
        "no top-1 for lenet5: the images are unlabelled",
        "agree: the same largest class as its fp32 graph on 2,000 made-up images.",
        "1,990 of 2,000 images, 1,798 of 1,800 where its margin is 0.1 or more",
        "99.900 % weighed by margin",
        "0.0012 nats",
        "the surest changed answer had margin 0.62",
        "answers as its fp32 graph",
    ):
        assert expected in text
    page = render_page(whole)
    assert "where its margin is" not in page
    assert page.count("1,990 of 2,000") == 1


def test_the_page_tells_of_agreement() -> None:
    page = render_page(with_graph(agreement=AGREEMENT, flips=Flips(9, 12)))
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


def test_agreement_names_the_reference_in_each_line_where_there_are_several() -> None:
    (first,) = with_graph(agreement=AGREEMENT).rows
    torch = replace(AGREEMENT, reference="the torch network", same=2000, bands=())
    second = replace(ROW, label="b", graph=replace(GRAPH, agreement=torch))
    section = agreement_section(replace(RESULTS, rows=(first, replace(first, batch=8), second)))
    (found,) = section.tables
    one, other = (dict(zip(found.titles, line.cells, strict=True)) for line in found.rows)
    assert (one["graph"], one["compared with"]) == ("lenet5 fp32", "its fp32 graph")
    assert (other["graph"], other["compared with"]) == ("b fp32", "the torch network")
    assert other["margin ≥ 0.1"] == other["margin ≥ 0.5"] == other["surest change"] == "-"
    assert "of its fp32 graph or the torch network;" in section.notes[0].text


def test_below_a_table_stand_the_gravest_notes_and_where_the_rest_is() -> None:
    absent = replace(FAILED, status="absent", reason="no such graph")
    few = replace(ROW, rounds_ns=ROW.rounds_ns[:9], steady=False)
    whole = replace(RESULTS, rows=(few, absent, FAILED), environment=BUSY)
    below = shown(whole).splitlines()[1 + len(whole.rows) :]
    assert len(below) == MOST_NOTES + 1 == 4
    assert below[:2] == ["mine fp32: model.onnx was altered", "mine fp32: no such graph"]
    assert below[2].startswith("Careful: the machine was busy as the run began (load 2)")
    assert re.fullmatch(r"\d+ more notes: repr-bench --from FILE.* --html PAGE.*", below[-1])
    assert "nearest rank" not in shown(with_row(rounds_ns=CALM))  # no meanings, however few


def test_every_failure_is_said_each_reason_once() -> None:
    failed = [replace(FAILED, label=name, reason=f"{name} broke") for name in "abcd"]
    again = replace(failed[3], precision="int8")
    below = shown(replace(RESULTS, rows=(ROW, *failed, again))).splitlines()[7:]
    assert below[:4] == [
        *(f"{name} fp32: {name} broke" for name in "abc"),
        "d fp32, d int8: d broke",
    ]
    assert re.fullmatch(r"\d+ more notes: .*", below[4])


def test_a_run_that_measured_nothing_says_why_and_nothing_else() -> None:
    failed = replace(RESULTS, rows=(FAILED, replace(FAILED, precision="int8")))
    for terminal in (False, True):
        text = bare(shown(failed, 80, terminal=terminal))
        assert text == "mine fp32, mine int8: model.onnx was altered\n"


def test_outputs_that_are_off_are_a_problem_of_the_graph_once() -> None:
    off = Difference("logits", 0.31, 1e-3, 0.01, within=False, samples=4)
    (row,) = with_graph(difference=off).rows
    whole = replace(RESULTS, rows=(row, replace(row, batch=8), replace(row, precision="int8")))
    told = "'logits' is off by up to 0.31 on 4 golden samples, allowed is 0.001 + 0.01·|original|"
    assert shown(whole).splitlines()[4:6] == [f"lenet5 fp32: {told}", f"lenet5 int8: {told}"]
    assert "off by" not in plain(with_graph(difference=replace(off, within=True)))


@pytest.mark.parametrize(("taken", "cell"), [(1_230_000, "1.2"), (368_900_000, "369")])
def test_the_peak_of_memory_is_a_column_where_it_is_known(taken: int, cell: str) -> None:
    header, line = shown(with_row(peak_memory_bytes=taken)).splitlines()[:2]
    place = header.index("peak MB") + len("peak MB")
    assert line[:place].endswith(f" {cell}")
    assert "peak MB" not in shown(RESULTS)
    assert f"{cell} " not in bare(printed(with_row(peak_memory_bytes=taken), 80)).splitlines()[3]


def test_the_last_line_names_the_files_that_there_are() -> None:
    saved = {"saved": Path("r.json")}
    assert "repr-bench --from r.json --html PAGE" in shown(RESULTS, **saved)
    assert "more notes: p.html." in shown(RESULTS, page=Path("p.html"), **saved)


def test_no_table_on_a_terminal_has_more_notes_than_one_reads() -> None:
    whole = everything()
    notes = said(whole).splitlines()
    for width in (80, 140):
        text = bare(printed(whole, width))
        assert max(map(len, text.splitlines())) <= width
        assert sum(note[:60] in text for note in notes if note) <= 6 * (MOST_NOTES + 1)
        assert "nearest rank" not in text
