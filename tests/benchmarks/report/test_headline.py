"""The headline: what it answers, what it says that it cannot tell, and when it has no answer."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from page_results import AGREEMENT, FAILED, GRAPH, MS, RESULTS, ROW, everything

from repr_bench.report.headline import Headline, headline
from repr_bench.results.graph import Accuracy, Difference, Flips
from repr_bench.results.row import Row


def row(
    label: str, precision: str, ms: float, right: int | None, *, batch: int = 1, **graph: Any
) -> Row:
    """Of 2,000 images ``right`` are; ten rounds of three calls, each round of other speed."""
    accuracy = None if right is None else Accuracy(right, None, 2000, "2,000 images", "ab" * 32)
    rounds = tuple((int(ms * MS * (1 + 0.002 * (at % 3))),) * 3 for at in range(10))
    made = replace(GRAPH, **({"accuracy": accuracy, "flips": None} | graph))
    return replace(ROW, label=label, precision=precision, batch=batch, graph=made, rounds_ns=rounds)


def of(*rows: Row) -> Headline:
    return headline(replace(RESULTS, rows=rows))


def about(found: Headline, name: str) -> str:
    return dict(found.points).get(name, "")


BEST, SAME = row("big", "fp32", 2, 1800), row("big", "int8", 1, 1799, flips=Flips(6, 5))
SMALL = row("small", "fp32", 0.1, 1500)


def test_the_fastest_of_the_equally_accurate_is_named_and_not_the_fastest() -> None:
    found = of(BEST, SAME, SMALL)
    assert found.title == "Fastest at equal accuracy: big int8"
    assert (
        found.lead
        == "1.002 ms (1.000–1.004) at batch 1, 89.95 % (88.6–91.2) top-1 on 2,000 images."
    )
    assert about(found, "Equal accuracy") == (
        "2 of 3 rows are within the 95 % interval of the most accurate, big fp32 (2.004 ms and 90.00 %)."
    )
    assert about(found, "Faster, less accurate") == "small fp32, 0.1002 ms and 75.00 %."
    assert about(found, "int8") == (
        "2.00 × (2.00–2.00) as fast as fp32 at batch 1. Top-1 changes by −0.05 points on 2,000 images, "
        "no loss beyond chance."
    )


def test_a_loss_beyond_chance_is_no_equal_accuracy_though_the_interval_would_hold_it() -> None:
    lossy = row("big", "int8", 1, 1785, flips=Flips(20, 5))
    found = of(BEST, lossy)
    assert found.title == "Fastest at equal accuracy: big fp32"
    assert "no other of 2 rows" in about(found, "Equal accuracy")
    assert about(found, "Faster, less accurate").startswith("big int8")
    assert about(found, "int8").endswith("a loss beyond chance for big (p 0.004).")


def test_rows_whose_intervals_touch_are_all_named_and_nothing_is_said_of_their_order() -> None:
    found = of(BEST, row("big", "int8", 1.999, 1799))
    assert found.title == "Fastest at equal accuracy: big int8 or big fp32"
    assert found.lead.startswith(
        "This run cannot tell which of them is faster at batch 1: big int8"
    )
    assert "which may be chance" not in about(found, "int8")  # all ten rounds say 1.0005
    once = [replace(one, rounds_ns=one.rounds_ns[:1]) for one in (BEST, SAME)]
    assert " or " in of(*once).title  # one round has no interval
    assert about(of(*once), "int8").startswith("2.00 × as fast")


def test_a_speed_that_chance_explains_is_called_so() -> None:
    unsure = replace(SAME, rounds_ns=tuple((int((1 + 2 * (at % 2)) * MS),) for at in range(10)))
    assert "which may be chance" in about(of(BEST, unsure), "int8")


def test_one_row_is_its_own_figures() -> None:
    found = of(BEST)
    assert found.title == "big fp32: 2.004 ms, 90.00 % top-1"
    assert found.lead.startswith("2.004 ms (2.000–2.008) at batch 1, 90.00 % (88.6–91.2)")
    assert found.points == ()


def test_of_batches_that_which_most_have_answers_and_the_others_are_told() -> None:
    eight = [row("big", "fp32", 9, 1800, batch=8), row("big", "int8", 9.5, 1799, batch=8)]
    found = of(BEST, SAME, *eight, row("fixed", "fp32", 1, 1900, batch=4))
    assert found.title == "Fastest at equal accuracy: big int8"
    assert found.lead.endswith("At batch 8: big fp32.")
    assert about(found, "int8").startswith("2.00 × (2.00–2.00) as fast as fp32 at batch 1; 0.95 ×")
    same = [replace(BEST, batch=8), replace(SAME, batch=8)]
    assert of(BEST, SAME, *same).lead.endswith("The same at batch 8.")


def test_other_images_are_another_question() -> None:
    other = Accuracy(45, None, 50, "50 photographs", "cd" * 32)
    found = of(BEST, SAME, row("seen", "fp32", 5, None, accuracy=other))
    assert found.title == "Fastest at equal accuracy: big int8"
    assert about(found, "On 50 photographs").startswith("seen fp32, 5.010 ms (")


def test_a_winner_below_its_bar_is_said_to_be() -> None:
    found = of(BEST, row("big", "int8", 1, 1799, trained_top1=0.8997, bar=0.92))
    assert about(found, "Below its bar") == (
        "the weights of big get 89.97 % on all test images and should get 92 %."
    )


def test_without_accuracy_speed_is_told_alone() -> None:
    note = {"accuracy_note": "its output is no (N, classes)"}
    one = of(row("mine", "fp32", 1, None, **note))
    assert one.title == "mine fp32: 1.002 ms at batch 1"
    assert "images/s" in one.lead
    assert about(one, "Accuracy") == "not known: its output is no (N, classes)."
    two = of(row("mine", "fp32", 2, None), row("mine", "int8", 1, None, agreement=AGREEMENT))
    assert two.title == "Fastest: mine int8"
    assert "mine int8 answers as its fp32 graph on 99.50 % (99.1–99.7)" in about(two, "Accuracy")
    assert about(two, "int8").endswith(
        "It answers as its fp32 graph on 99.50 % (99.1–99.7) of the images or more."
    )
    mixed = of(BEST, SAME, row("mine", "fp32", 0.1, None))
    assert mixed.title == "Fastest at equal accuracy: big int8"
    assert about(mixed, "Left out") == "no accuracy is known of mine."


def test_what_is_emulated_or_wrong_wins_nothing() -> None:
    emulated = row("big", "fp16", 0.5, 1800)
    found = of(BEST, SAME, emulated)
    assert found.title == "Fastest at equal accuracy: big int8"
    assert about(found, "fp16").startswith("emulated here, which says nothing of its speed. Top-1")
    assert of(emulated).title == "Accuracy alone: on this device every row is emulated"
    off = Difference("logits", 1.0, 1e-3, 0.0, within=False, samples=4)
    assert of(BEST, row("big", "int8", 1, 1799, difference=off)).title.startswith("big fp32")
    assert of(row("big", "int8", 1, 1, difference=off)).title.startswith(
        "No answer: what was timed"
    )


@pytest.mark.parametrize(
    ("rows", "title"),
    [
        ([FAILED], "Nothing was measured: 1 of 1 row failed"),
        ([FAILED, replace(FAILED, status="absent")], "Nothing was measured: 1 of 2 rows failed"),
        ([replace(FAILED, status="interrupted")], "Nothing was measured"),
        ([], "0 networks measured"),
    ],
)
def test_a_run_without_figures_says_so(rows: Iterable[Row], title: str) -> None:
    assert of(*rows) == Headline(title)


def test_a_comparison_names_what_became_slower() -> None:
    found = about(headline(everything()), "Against old.json")
    assert found == (
        "1 slower (lenet5 fp32 batch 1), 22 same, 1 cannot tell (measured 1 January 2026, 03:04 UTC)."
    )
