"""The highest rate that holds the bound, found in a queue where it can be computed."""

import re
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest
import scenario_rows as made
from fake_queue import MS, QueueService, VirtualTime, md1_highest_rate, md1_latency_percentile

from repr_bench.results.scenarios import ScenarioRow
from repr_bench.results.trials import Outcome, RateTrial
from repr_bench.scenarios.search import MOST_RATES, Attempt, SearchSettings, conclusion, search
from repr_bench.scenarios.server import try_rate


def _trial(rate: float, outcome: Outcome, confirms: bool = False, late_ns: int = 0) -> RateTrial:
    return replace(
        made.HELD, offered=rate, confirms=confirms, outcome=outcome, lateness_ns=(late_ns,)
    )


def _try(
    rate: float, service: QueueService, settings: SearchSettings, *, confirm: bool = False
) -> RateTrial:
    """A trial of ``rate`` in virtual time."""
    time = service.time
    how: Any = {"confirm": confirm, "clock": time.clock, "sleep": time.sleep}
    return try_rate(rate, lambda: service, ["x"], settings, **how)


def _searched(
    attempt: Attempt, first: float, settings: SearchSettings
) -> tuple[ScenarioRow, tuple[str, str]]:
    """The row of a search, and its conclusion."""
    trials: list[RateTrial] = []
    search(attempt, first, settings, trials)
    return replace(made.SERVER, trials=tuple(trials)), conclusion(trials, settings)


def _holds(row: ScenarioRow) -> tuple[float, float]:
    """The rate that holds, and the next one, which does not."""
    assert row.rate is not None
    assert row.next_rate is not None
    return row.rate, row.next_rate


def _search(
    limit: float, first: float, *, confirmed_limit: float | None = None, slo_ms: float = 15_000.0
) -> ScenarioRow:
    """Of a service that holds exactly the rates up to ``limit``."""

    def attempt(rate: float, confirm: bool) -> RateTrial:
        highest = limit if not confirm or confirmed_limit is None else confirmed_limit
        return _trial(rate, "held" if rate <= highest else "missed", confirm)

    return _searched(attempt, first, SearchSettings(slo_ms))[0]


@pytest.mark.parametrize("limit", [0.7, 12.0, 512.0, 100_000.0])
@pytest.mark.parametrize("first", [1.0, 500.0, 90_000.0])
def test_search_brackets_and_bisects_to_within_5_percent(limit: float, first: float) -> None:
    row = _search(limit, first)
    rate, above = _holds(row)
    assert rate <= limit < above <= 1.05 * rate * (1 + 1e-9)
    assert sum(trial.confirms for trial in row.trials) == 1
    assert len(row.trials) <= MOST_RATES + 1


@pytest.mark.parametrize(("limit", "slo_ms"), [(700.0, 15_000.0), (10.0, 15.0)])
def test_what_is_not_confirmed_gives_way_to_lower_rates(limit: float, slo_ms: float) -> None:
    row = _search(1000.0, 800.0, confirmed_limit=limit, slo_ms=slo_ms)
    assert conclusion(row.trials, SearchSettings(slo_ms)) == ("measured", "")
    assert 0.5 * limit < _holds(row)[0] <= limit
    confirms = [trial.offered for trial in row.trials if trial.confirms]
    assert confirms == sorted(confirms, reverse=True)
    assert row.next_rate == confirms[-2]


def test_where_no_rate_holds_nothing_is_confirmed() -> None:
    row = _search(0.0, 100.0)
    assert (row.rate, row.next_rate) == (None, None)
    # down to one query in ten bounds of 15 s
    assert len(row.trials) == 15
    assert row.trials[-1].offered * 15 <= 0.1 < row.trials[-2].offered * 15
    assert _search(100.0, 100.0, confirmed_limit=0.0).rate is None


def test_a_failure_ends_the_search() -> None:
    failed = replace(_trial(10.0, "failed"), reason="ValueError: no")
    row, found = _searched(lambda _rate, _confirm: failed, 10.0, SearchSettings(15.0))
    assert (row.trials, found) == ((failed,), ("failed", "ValueError: no"))


def test_a_rate_of_which_a_late_generator_told_nothing_is_tried_once_more() -> None:
    trials: list[RateTrial] = []

    def attempt(rate: float, confirm: bool) -> RateTrial:
        again = bool(trials) and trials[-1].offered == rate and trials[-1].generator_limited
        outcome: Outcome = "held" if again and rate <= 1000 else "missed"
        trials.append(_trial(rate, outcome, confirm, 0 if again else 17 * MS))
        return trials[-1]

    row, _ = _searched(attempt, 4000.0, SearchSettings(15.0))
    rate, above = _holds(row)
    assert rate <= 1000 < above <= 1.05 * rate * (1 + 1e-9)
    assert row.generator_limit == ""
    assert [trial.generator_limited for trial in trials] == [True, False] * (len(trials) // 2)


@pytest.mark.parametrize(
    ("late_ns", "short", "status", "words"),
    [
        # a generator on time, and the service misses however little it has to do: a finding
        (0, "missed", "measured", r"^no rate holds 15 ms: not even "),
        # a late generator tells nothing
        (17 * MS, "missed", "failed", r"itself 17 ms late at p99, .* 1\.5 ms is allowed"),
        # what holds for a moment, and never for longer, is not settled
        (0, "held", "failed", r"some held 15 ms in a short run, and none in a longer one"),
    ],
)
def test_what_a_search_without_a_confirmed_rate_comes_to(
    late_ns: int, short: Outcome, status: str, words: str
) -> None:
    def attempt(rate: float, confirm: bool) -> RateTrial:
        return _trial(rate, "missed" if confirm else short, confirm, late_ns)

    row, found = _searched(attempt, 36_590.0, SearchSettings(15.0))
    assert row.trials[-1].offered * 15e-3 <= 0.1  # it went all the way down
    assert found[0] == status
    assert re.search(words, found[1])


def test_a_generator_that_cannot_send_faster_bounds_the_rate_from_below() -> None:
    settings = SearchSettings(15.0, seconds=0.5, confirm_seconds=2)

    class SlowToTake(QueueService):
        """Each query costs the one who sends it 0.2 ms, and the service next to nothing."""

        def submit(self, sample: Any, *, deadline: float | None = None) -> Future[Any]:
            self.time.sleep(2e-4)
            return super().submit(sample, deadline=deadline)

    row, found = _searched(
        lambda rate, confirm: _try(rate, SlowToTake(1000), settings, confirm=confirm),
        *(36_590.0, settings),
    )
    assert found == ("measured", "")
    assert row.trials[0].generator_limited
    assert not row.trials[0].derived()["trusted"]
    assert row.rate is not None
    assert 3000 < row.rate < 5000  # what can be sent
    assert row.next_rate is None  # of the service no limit was seen
    assert row.generator_limit == row.derived()["generator_limit"]
    assert row.generator_limit == (
        f"at least {row.rate:,.4g} queries/s: the load generator, not the network, is the limit"
    )
    # the same rates missed by the service, with a generator on time
    row = replace(row, trials=tuple(replace(trial, lateness_ns=(0,)) for trial in row.trials))
    rate, above = _holds(row)
    assert rate < above < 1.06 * rate
    assert (row.generator_limit, row.derived()["generator_limit"]) == ("", None)


def test_the_known_highest_rate_of_a_simulated_queue_is_found() -> None:
    service_ms, bound_ms = 3.0, 15.0
    known = md1_highest_rate(service_ms / 1e3, bound_ms / 1e3, 0.99)
    assert known == pytest.approx(187, abs=1)
    settings = SearchSettings(bound_ms, seconds=40, confirm_seconds=120, within=0.03)
    services: list[QueueService] = []

    def attempt(rate: float, confirm: bool) -> RateTrial:
        services.append(QueueService(round(service_ms * MS)))
        return _try(rate, services[-1], settings, confirm=confirm)

    row, _ = _searched(attempt, 1e3 / service_ms, settings)
    assert row.rate == pytest.approx(known, rel=0.06)
    assert row.confirmed is not None
    assert row.confirmed.achieved == pytest.approx(row.rate, rel=0.03)
    p99 = row.confirmed.latency_ms.get(99)
    assert p99 is not None
    assert p99.interval is not None
    assert p99.value <= bound_ms
    expected = md1_latency_percentile(row.rate, service_ms / 1e3, 0.99) * 1e3
    assert p99.interval.low * 0.97 <= expected <= p99.interval.high * 1.03
    # the first rate is at the queue's capacity: lost, and given up long before its 40 s
    first = row.trials[0]
    assert (first.outcome, first.stopped, first.seconds < 20) == ("missed", True, True)
    assert all(service.closed == [False] for service in services)
    assert row.confirmed.batches == ((1, row.confirmed.queries),)
    # another schedule confirms
    assert {trial.seed for trial in row.trials} == {0, 1}


def test_refusals_count_as_misses() -> None:
    settings = SearchSettings(1000.0, seconds=10)
    found = _try(95.0, QueueService(10 * MS, room=1), settings)
    # offered nearly what one server does, without room to wait: Erlang's loss, 0.95 / 1.95
    assert found.outcome == "missed"
    assert found.refused_share > 0.2
    p99 = found.latency_ms.get(99)
    assert p99 is not None
    assert p99.value == float("inf")
    assert found.derived()["p99_ms"] is None


def test_a_failing_network_is_said() -> None:
    found = _try(100.0, QueueService(MS, fail_at=3), SearchSettings(15.0))
    assert (found.outcome, found.reason) == ("failed", "ArithmeticError: the network fell over")


@pytest.mark.parametrize(("oversleep", "trusted"), [(0.0, True), (5e-3, False)])
def test_a_late_generator_makes_a_trial_untrustworthy(oversleep: float, trusted: bool) -> None:
    time = VirtualTime(oversleep=lambda seconds: oversleep if seconds > 1e-3 else 0.0)
    found = _try(50.0, QueueService(MS, time), SearchSettings(15.0))
    assert found.trusted is found.derived()["trusted"] is trusted


@pytest.mark.parametrize(
    ("slo_ms", "rate", "confirm", "lasts"),
    [
        (15.0, 1000.0, False, (1.0, 300)),
        (15.0, 10.0, False, (1.0, 50)),
        (15.0, 1000.0, True, (6.0, 1000)),
        (500.0, 1000.0, False, (10.0, 300)),
    ],
)
def test_slow_networks_and_long_bounds_get_longer_trials_within_reason(
    slo_ms: float, rate: float, confirm: bool, lasts: tuple[float, int]
) -> None:
    settings = SearchSettings(slo_ms, seconds=1.0, queries=300)
    assert settings.lasting(rate, confirm=confirm) == lasts


def test_trials_are_long_enough_for_a_queue_to_grow_past_the_bound() -> None:
    settings = SearchSettings(1000.0, seconds=0.1)
    assert _try(150.0, QueueService(10 * MS), settings).outcome == "missed"
    # the last ones' misses count too, which are known when all were sent
    found = _try(20.0, QueueService(MS, stall_at=148, stall_ns=400 * MS), SearchSettings(15.0))
    assert (found.outcome, found.stopped) == ("missed", False)
