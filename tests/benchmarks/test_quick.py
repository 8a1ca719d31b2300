"""`--quick`: less of what was not asked for, and said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from repr_bench import cli
from repr_bench.measure import Plan
from repr_bench.quick import QUICK, QUICK_IMAGES, plan_and_limit
from repr_bench.report.notes import cautions
from repr_bench.results import Results, Settings, from_json, to_json


def chosen(*arguments: str) -> tuple[Plan, int | None]:
    return plan_and_limit(cli.parser().parse_args(arguments))


def test_without_it_the_defaults_are_those_of_the_help() -> None:
    assert chosen() == (Plan(seconds=3.0, samples=30), None)
    assert chosen("--seconds", "7", "--limit", "9") == (Plan(seconds=7.0), 9)
    assert "(default: 3)" in cli.parser().format_help()
    assert "(default: 30)" in cli.parser().format_help()


def test_what_is_given_counts_more() -> None:
    assert chosen("--quick") == (QUICK, QUICK_IMAGES)
    plan, limit = chosen("--quick", "--seconds", "1", "--samples", "40", "--limit", "50")
    assert (plan.seconds, plan.samples, limit) == (1.0, 40, 50)
    assert plan.warmup_seconds == QUICK.warmup_seconds


@pytest.mark.parametrize("rows", [8, 16])
def test_it_is_under_a_minute_for_the_rows_of_eight_networks(rows: int) -> None:
    # A round times no less than a slice and a call of each row, besides one that is not counted.
    call = 0.02
    slices = QUICK.seconds + 2 * call * QUICK.rounds
    assert rows * (QUICK.warmup_seconds + slices) < 60


def test_it_is_said_and_kept(results: Results) -> None:
    assert not any("--quick" in text for text in cautions(results))
    settings = Settings(0.5, 12, 12, 0.5, "auto", None, quick=True)
    quick = replace(results, settings=settings)
    assert cautions(quick)[0].startswith("a quick look (--quick): 0.5 s and 12 samples a row")
    assert from_json(to_json(quick)) == quick
