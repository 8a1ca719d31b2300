"""The page: well formed, self-contained, escaped, and with a plot for what was measured."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from matplotlib.figure import Figure
from page_results import everything

from repr_bench.report.html import render_page
from repr_bench.report.plots.figures import pareto_front
from repr_bench.results import peers, row, trials
from repr_bench.results.graph import Graph
from repr_bench.results.results import Results
from repr_bench.results.row import Row
from repr_bench.statistics.intervals import percentile_interval

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Checks that every element is closed in order, and collects what is in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.seen)


@pytest.fixture
def many(results: Results, row: Row, failed_row: Row) -> Results:
    half = replace(row, precision="fp16")
    return replace(results, rows=(row, replace(row, batch=8), half, failed_row))


def test_page_is_well_formed_and_holds_the_figures(many: Results) -> None:
    page = Page(render_page(many))
    text = "".join(page.text)
    for expected in (
        "lenet5",
        "75.00 (73.1–76.8)",
        "A CPU",
        "nearest rank",
        "2,000 made-up images",
    ):
        assert expected in text
    assert "mine fp32: model.onnx was altered" in text
    # a Pareto plot for batch 1 and for batch 8, a distribution for each row with samples
    assert page.count("svg") == 2 + 3
    assert page.count("tr") == 1 + 4


def test_page_needs_nothing_from_elsewhere(many: Results) -> None:
    text = render_page(many)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", text)
    page = Page(text)
    assert not {"link", "script", "img", "iframe", "object"} & {tag for tag, _ in page.seen}
    for _, attributes in page.seen:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")


def test_ids_are_unique_and_references_lead_somewhere(many: Results) -> None:
    text = render_page(many)
    ids = [a["id"] for _, a in Page(text).seen if a.get("id")]
    assert len(ids) == len(set(ids))
    for reference in re.findall(r'(?:href="#|url\(#)([^")]+)', text):
        assert reference in ids


def test_hostile_names_stay_text(results: Results, graph: Graph) -> None:
    hostile = '<script>alert("x")</script>&amp;$\\frac{1}{2}$\'"><img src=x onerror=y>'
    row = replace(
        results.rows[0],
        label=hostile,
        reason=hostile,
        status="interrupted",
        inputs=hostile,
        graph=replace(graph, choice=hostile, artifact=hostile),
    )
    environment = replace(results.environment, cpu=hostile, versions={hostile: hostile})
    text = render_page(replace(results, rows=(row,), environment=environment, command=(hostile,)))
    page = Page(text)
    assert not {"script", "img"} & {tag for tag, _ in page.seen}
    assert not any("onerror" in attributes for _, attributes in page.seen)
    assert "".join(page.text).count(hostile) >= 5


def test_nothing_measured_still_makes_a_page(results: Results, failed_row: Row) -> None:
    text = "".join(Page(render_page(replace(results, rows=(failed_row,)))).text)
    assert "Nothing was timed" in text
    assert "model.onnx was altered" in text


def test_page_can_be_read_in_the_dark_in_print_and_by_keyboard(many: Results) -> None:
    text = render_page(many)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    page = Page(text)
    assert ("a", {"class": "skip", "href": "#figures"}) in page.seen
    scrolled = next(a for tag, a in page.seen if tag == "div" and a.get("class") == "scroll")
    assert scrolled["tabindex"] == "0"
    assert all(a.get("aria-label") for tag, a in page.seen if tag == "svg")
    # no colour of the drawing is its own: all follow the page
    colours = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", text))
    assert colours == set()


def test_emulated_precisions_are_not_in_the_latency_plot(results: Results, row: Row) -> None:
    half = replace(row, precision="fp16")
    text = "".join(Page(render_page(replace(results, rows=(half,)))).text)
    assert "No row has both" in text


def test_accuracies_on_different_images_are_not_in_one_plot(
    results: Results, row: Row, graph: Graph
) -> None:
    assert graph.accuracy is not None
    other = replace(graph, accuracy=replace(graph.accuracy, description="all 10,000 images"))
    both = replace(results, rows=(row, replace(row, label="b", graph=other)))
    text = "".join(Page(render_page(both)).text)
    assert "Batch 1. 2,000 made-up images" in text
    assert "Batch 1. all 10,000 images" in text


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_few_and_equal_samples_can_be_drawn(results: Results, row: Row, samples: int) -> None:
    short = replace(row, rounds_ns=((1000,) * samples,), status="interrupted", reason="stopped")
    assert Page(render_page(replace(results, rows=(short,)))).count("svg") == 2


def test_pareto_front_by_hand() -> None:
    #          0         1          2 slower, worse  3 same speed, worse  4 slowest, best
    points = [(1.0, 70), (2.0, 90), (3.0, 80), (1.0, 60), (9.0, 95), (9.5, 95)]
    assert pareto_front(points) == [0, 1, 4]
    assert pareto_front([]) == []


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of ``#rrggbb``."""
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_all_palettes_have_the_contrast_that_wcag_asks_for(results: Results) -> None:
    found = re.findall(r":root \{(.*?)\}", render_page(replace(results, rows=())), re.DOTALL)
    assert len(found) == 3  # light, dark, print
    for palette in (dict(re.findall(r"--(\w+): (#\w{6})", text)) for text in found):
        paper = luminance(palette["paper"])
        for name, least in {
            "ink": 7,
            "accent": 4.5,
            "second": 4.5,
            "warn": 4.5,
            "faint": 3,
        }.items():
            lighter, darker = sorted((luminance(palette[name]), paper), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= least, (name, palette)


def test_a_page_finds_each_interval_and_draws_each_plot_once(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: Counter[str] = Counter()

    def counted(rounds: Any, percent: int) -> Any:
        found[f"{percent} of {rounds!r}"] += 1
        return percentile_interval(rounds, percent)

    for module in (row, trials, peers):
        monkeypatch.setattr(module, "percentile_interval", counted)
    drawn: list[Figure] = []
    draw = Figure.draw
    monkeypatch.setattr(
        Figure, "draw", lambda figure, renderer: (drawn.append(figure), draw(figure, renderer))
    )
    render_page(everything(results))
    assert len(found) > 100
    assert [asked for asked, times in found.items() if times > 1] == []
    assert len(drawn) > 20
    assert len({*map(id, drawn)}) == len(drawn)


def test_a_heading_does_not_repeat_the_sections(results: Results) -> None:
    text = render_page(everything(results))
    headings = re.findall(r"<h[23][^>]*>(.*?)</h[23]>", text)
    assert headings.count("Scenarios") == 1
    assert len(headings) == len(set(headings))
