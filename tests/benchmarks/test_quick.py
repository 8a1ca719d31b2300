"""`--quick`: less of what was not asked for, and said."""

from __future__ import annotations

from dataclasses import replace

from repr_bench.measuring.measure import Plan, measure
from repr_bench.options import QUICK, QUICK_IMAGES, parser, plan_and_limit
from repr_bench.report.sections.figures import cautions
from repr_bench.results.file import from_json, to_json
from repr_bench.results.results import Results, Settings


def chosen(*arguments: str) -> tuple[Plan, int | None]:
    return plan_and_limit(parser().parse_args(arguments))


def test_without_it_the_defaults_are_those_of_the_help() -> None:
    assert chosen() == (Plan(), None)
    assert (Plan().seconds, Plan().samples) == (4.0, 32)
    assert chosen("--seconds", "7", "--limit", "9") == (Plan(seconds=7.0), 9)
    assert "(default: 4)" in parser().format_help()
    assert "(default: 32)" in parser().format_help()


def test_what_is_given_counts_more() -> None:
    assert chosen("--quick") == (QUICK, QUICK_IMAGES)
    plan, limit = chosen("--quick", "--seconds", "1", "--samples", "40", "--limit", "50")
    assert (plan.seconds, plan.samples, limit) == (1.0, 40, 50)
    assert plan.warmup_seconds == QUICK.warmup_seconds


def test_sixteen_rows_of_20_ms_a_call_are_timed_within_half_a_minute() -> None:
    now = 0

    def call() -> None:
        nonlocal now
        now += 20_000_000

    measured = measure([call] * 16, QUICK, clock=lambda: now)
    assert all(timing.is_whole(QUICK) for timing in measured.timings)
    assert now < 30e9


def test_it_is_said_and_kept(results: Results) -> None:
    assert not any("--quick" in text for text in cautions(results))
    settings = Settings(0.5, 12, 12, 0.5, "auto", None, quick=True)
    quick = replace(results, settings=settings)
    assert cautions(quick)[0].startswith("a quick look (--quick): 0.5 s and 12 samples a row")
    assert from_json(to_json(quick)) == quick
