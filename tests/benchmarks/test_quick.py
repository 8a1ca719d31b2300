"""`--quick`: less of what was not asked for."""

from dataclasses import replace

from repr_bench.cli import plan_and_limit
from repr_bench.measuring.measure import Plan, measure
from repr_bench.options import QUICK, QUICK_IMAGES, parser


def chosen(*arguments: str) -> tuple[Plan, int | None]:
    return plan_and_limit(parser().parse_args(arguments))


def test_what_is_given_counts_more_than_the_defaults() -> None:
    assert chosen() == (Plan(seconds=4.0, samples=32), None)
    assert chosen("--seconds", "7", "--limit", "9") == (Plan(seconds=7.0), 9)
    assert chosen("--quick") == (QUICK, QUICK_IMAGES)
    given = ("--seconds", "1", "--samples", "40", "--limit", "50")
    assert chosen("--quick", *given) == (replace(QUICK, seconds=1.0, samples=40), 50)
    for default in ("(default: 4)", "(default: 32)"):
        assert default in parser().format_help()


def test_sixteen_rows_of_20_ms_a_call_are_timed_within_half_a_minute() -> None:
    now = 0

    def call() -> None:
        nonlocal now
        now += 20_000_000

    measured = measure([call] * 16, QUICK, clock=lambda: now)
    assert {timing.outcome(QUICK) for timing in measured.timings} == {("measured", "")}
    assert now < 30e9
