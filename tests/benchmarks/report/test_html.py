"""The page: well formed, self-contained, escaped, and with a plot for what was measured."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from page_results import FAILED, GRAPH, NETWORKS, RESULTS, ROW, SECTIONS, with_graph, with_row

from repr_bench.report.html import render_page
from repr_bench.report.plots.figures import pareto_front

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Checks that every element is closed in order, and collects what is in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


@pytest.fixture(scope="module")
def parsed(page: str) -> Page:
    return Page(page)


def test_the_page_holds_every_section_figure_and_plot(page: str, parsed: Page) -> None:
    for expected in ("75.00 (73.1–76.8)", "A CPU", "nearest rank", "2,000 made-up images"):
        assert expected in parsed.text
    assert "mine fp32: artifacts/mine/model.onnx was altered" in parsed.text
    headings = re.findall(r"<h[23][^>]*>(.*?)</h[23]>", page)
    assert len(headings) == len(set(headings))
    assert re.findall(r'<h2 id="([\w-]+)-title">', page) == [*SECTIONS]
    for expected in (
        "<figcaption>Batch 1</figcaption>",
        "Roofline. lenet5 fp32: 2 operations a byte",
    ):
        assert expected in page
    timed = 4 * len(NETWORKS)
    # latency and accuracy by batch, samples of each row, rooflines by batch, peers, servers, bars
    assert page.count("<svg") == 2 + timed + 2 + 6 + 2 + 11
    rows = page[page.index("Table of figures") : page.index("Table of verdicts")]
    assert rows.count("<tr") == 1 + timed + 1


def test_the_page_needs_nothing_from_elsewhere(page: str, parsed: Page) -> None:
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", page)
    assert not {"link", "script", "img", "iframe", "object"} & {tag for tag, _ in parsed.seen}
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) <= set(ids)
    assert set(re.findall(r'aria-(?:labelledby|describedby)="([^"]*)"', page)) <= set(ids)
    for _, attributes in parsed.seen:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")


def test_the_page_can_be_read_in_the_dark_in_print_and_by_keyboard(page: str, parsed: Page) -> None:
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert {"class": "skip", "href": "#figures"} in parsed.all("a")
    scrolled = [a["tabindex"] for a in parsed.all("div") if a.get("class") == "scroll"]
    assert {*scrolled} == {"0"}
    assert all(a.get("aria-label") for a in parsed.all("svg"))
    # no colour of the drawings is their own: all follow the page
    assert re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", page) == []


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of ``#rrggbb``."""
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_all_palettes_have_the_contrast_that_wcag_asks_for(page: str) -> None:
    found = re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    assert len(found) == 3  # light, dark, print
    wanted = {"ink": 7, "accent": 4.5, "second": 4.5, "warn": 4.5, "faint": 3}
    for palette in (dict(re.findall(r"--(\w+): (#\w{6})", text)) for text in found):
        paper = luminance(palette["paper"])
        for name, least in wanted.items():
            lighter, darker = sorted((luminance(palette[name]), paper), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= least, (name, palette)


def test_a_page_finds_each_interval_and_draws_each_plot_once(rendered: Any) -> None:
    assert len(rendered.intervals) > 100
    assert {*rendered.intervals.values()} == {1}
    assert len(rendered.drawings) > 20
    assert {*rendered.drawings.values()} == {1}


def test_hostile_names_stay_text() -> None:
    hostile = '<script>alert("x")</script>&amp;$\\frac{1}{2}$\'"><img src=x onerror=y>'
    row = replace(
        ROW,
        label=hostile,
        reason=hostile,
        status="interrupted",
        inputs=hostile,
        graph=replace(GRAPH, choice=hostile, artifact=hostile),
    )
    environment = replace(RESULTS.environment, cpu=hostile, versions={hostile: hostile})
    whole = replace(RESULTS, rows=(row,), environment=environment, command=(hostile,))
    page = Page(render_page(whole))
    assert not {"script", "img"} & {tag for tag, _ in page.seen}
    assert not any("onerror" in attributes for _, attributes in page.seen)
    assert page.text.count(hostile) >= 5


def test_nothing_measured_still_makes_a_page() -> None:
    text = Page(render_page(replace(RESULTS, rows=(FAILED,)))).text
    assert "Nothing was timed" in text
    assert "model.onnx was altered" in text
    assert "No graph was compared" in text


def test_the_latency_plots_are_of_what_can_be_compared() -> None:
    assert "No row has both" in Page(render_page(with_row(precision="fp16"))).text  # emulated
    other = with_graph(accuracy=replace(GRAPH.accuracy, description="all 10,000 images"))  # type: ignore[type-var]
    both = replace(RESULTS, rows=(ROW, replace(other.rows[0], label="b")))
    captions = re.findall(r"<figcaption>(Batch.*?)</figcaption>", render_page(both))
    assert captions == ["Batch 1. 2,000 made-up images", "Batch 1. all 10,000 images"]


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_few_and_equal_samples_can_be_drawn(samples: int) -> None:
    short = with_row(rounds_ns=((1000,) * samples,), status="interrupted", reason="stopped")
    assert len(Page(render_page(short)).all("svg")) == 2


def test_pareto_front_by_hand() -> None:
    #          0         1          2 slower, worse  3 same speed, worse  4 slowest, best
    points = [(1.0, 70), (2.0, 90), (3.0, 80), (1.0, 60), (9.0, 95), (9.5, 95)]
    assert pareto_front(points) == [0, 1, 4]
    assert pareto_front([]) == []
