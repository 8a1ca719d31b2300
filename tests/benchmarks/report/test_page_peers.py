"""Peers and a server's curve on the page: what is drawn, written beside it, and left out."""

import re
from dataclasses import replace

import numpy as np
import pytest
from page_results import RESULTS, server
from peer_rows import ROWS
from scenario_rows import SERVER, STREAM

from repr_bench.report.html import render_page
from repr_bench.report.plots.peers import common_limits, ratio_plot
from repr_bench.report.plots.scenarios import server_keys, server_plot
from repr_bench.report.sections.peers import overalls
from repr_bench.results.peers import OURS


def description(svg: str) -> str:
    (found,) = re.findall(r"<desc[^>]*>(.*?)</desc>", svg)
    return str(found)


def test_the_curve_names_every_rate_its_bound_and_what_was_confirmed() -> None:
    svg = server_plot(SERVER, "s")
    assert "<title>Latency against offered rate, lenet5 fp32 server</title>" in svg
    assert 'aria-describedby="s-desc"' in svg
    # 4 16 ∞ 5 6 15: p50 is the third of six, and one without answer leaves p99 without bound
    assert description(svg) == (
        "100 queries/s confirmed within 15 ms; "
        "100/s: p50 6 ms, p99 without bound, held; 100/s: p50 6 ms, p99 without bound, held; "
        "150/s: p50 6 ms, p99 without bound, missed; 200/s: p50 6 ms, p99 without bound, missed"
    )
    keys = [key.text for key in server_keys(SERVER)]
    assert keys[:3] == ["p50", "p99", "hollow: the bound was missed"]
    assert keys[-2:] == ["bound 15 ms", "100/s confirmed"]
    assert not re.search(r"(?:fill|stroke): #[0-9a-f]{6}", svg)


def test_a_search_that_confirmed_nothing_has_no_line_for_it() -> None:
    row = replace(SERVER, trials=SERVER.trials[:2])
    svg = server_plot(row, "s")
    assert description(svg).startswith("no rate was confirmed; 150/s")
    assert not any("confirmed" in key.text for key in server_keys(row))


def test_trials_without_queries_can_be_drawn_and_none_is_an_error() -> None:
    empty = replace(SERVER.trials[0], windows_ns=(), window_seconds=())
    assert "p50 unknown" in description(server_plot(replace(SERVER, trials=(empty,)), "s"))
    with pytest.raises(ValueError, match="multi-stream tried no rates"):
        server_plot(STREAM, "s")


def test_a_plot_for_each_server_row_stands_before_its_table() -> None:
    row = server(np.random.default_rng(1))
    text = render_page(replace(RESULTS, rows=(), scenarios=(STREAM, row, SERVER)))
    assert text.count("<title>Latency against offered rate") == 2
    assert re.findall(r"<figcaption>(.*?)</figcaption>", text)[:2] == ["lenet5 fp32 server"] * 2
    table = text.index("lenet5 fp32 server: rates in the order they were tried</h3>")
    assert text.rindex("Latency against offered rate") < table


def test_every_ratio_and_the_mean_are_drawn_and_described() -> None:
    (what, found), *_ = overalls(ROWS)
    svg = ratio_plot(what, found, common_limits([found]), "p")
    assert "<title>Ours against p, fp32 latency at batch 1</title>" in svg
    assert description(svg) == (
        "a: 2.00 × (2.00–2.00); b: 0.50 × (0.50–0.50); geometric mean: 1.00 × (1.00–1.00)"
    )
    for text in (">a<", ">b<", ">geometric mean<", ">times as fast (log scale)<"):
        assert text in svg


def test_limits_hold_every_interval_and_one() -> None:
    low, high = common_limits([found for _, found in overalls(ROWS)])
    assert low < 0.5 < 5 < high
    faster = tuple(row for row in ROWS if row.label == "a")
    assert common_limits([found for _, found in overalls(faster)])[0] < 1


def test_without_a_ratio_there_is_no_plot_and_names_stay_text() -> None:
    ours = tuple(replace(row, label="<b>$x$") for row in ROWS if row.peer == OURS)
    text = render_page(replace(RESULTS, rows=(), peers=ours))
    assert "<svg" not in text
    assert "&lt;b&gt;$x$" in text
    assert "<b>" not in text
