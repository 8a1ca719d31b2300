"""The page: well formed, self-contained, escaped, and with a plot for what was measured."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from page_results import FAILED, GRAPH, NETWORKS, RESULTS, ROW, SECTIONS, with_row

from repr_bench.report.html import render_page

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
    assert page.count('<svg role="img"') == 2 + timed + 2 + 6 + 2 + 11
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
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in parsed.all("svg"))
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
    wanted = dict.fromkeys(("accent", "second", "third", "fourth", "warn"), 4.5)
    wanted |= {"ink": 7, "faint": 3}
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
    page = Page(render_page(replace(RESULTS, rows=(FAILED,))))
    assert "Nothing was measured: 1 of 1 row failed" in page.text
    assert "model.onnx was altered" in page.text
    assert page.all("table") == []


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_few_and_equal_samples_can_be_drawn(samples: int) -> None:
    short = with_row(rounds_ns=((1000,) * samples,), status="interrupted", reason="stopped")
    assert render_page(short).count('<svg role="img"') == 1


def test_cautions_of_every_section_are_folded_into_one_badge_and_problems_stay_in_sight() -> None:
    few = with_row(steady=False)
    text = render_page(replace(few, rows=(*few.rows, FAILED)))
    badge = text[text.index('<details class="badge">') : text.index("<main>")]
    assert re.findall(r'<span class="(\w+)">(.*?)</span>', badge) == [("caution", "2 cautions")]
    assert badge.count("<li") == 2
    assert "not steady when the warm-up reached its limit: lenet5 fp32 batch 1" in badge
    assert text.count("not steady when") == 1
    assert text.index("<main>") < text.index("<li>mine fp32: model.onnx was altered")
    assert 'class="badge"' not in render_page(with_row(rounds_ns=((1000,) * 200,) * 2))


def test_a_page_of_one_row_has_a_bar_and_no_plot_of_a_single_point() -> None:
    text = render_page(RESULTS)
    assert "Measured 2 January 2026, 03:04 to 03:05 UTC, on A CPU." in text
    assert len(re.findall(r'class="bar"', text)) == 1
    assert 'id="pareto"' not in text


def test_nothing_is_wider_than_a_telephone(page: str, parsed: Page) -> None:
    for drawing in parsed.all("svg"):
        width = drawing.get("width") or ""
        assert width.endswith("pt") or float(width) <= 160  # figures' own are 100 % by the style
    assert "figure > svg { display: block; width: 100%; height: auto; }" in page
    assert not re.findall(r"(?<!max-)(?<!min-)width: *(?:\d{3,}px|[3-9]\d(?:rem|em))", page)
    # tables of many columns scroll in a box of their own, those of bars fit
    outside = re.sub(r'<div class="scroll".*?</table></div>', "", page, flags=re.DOTALL)
    assert {*re.findall(r"<table[^>]*>", outside)} == {'<table class="bars">'}
