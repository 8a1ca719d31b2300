"""The highest rate that holds the bound, found in a queue where it can be computed."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest
from fake_queue import QueueService, VirtualTime, md1_highest_rate, md1_latency_percentile

from repr_bench.results.scenarios import ScenarioRow
from repr_bench.results.trials import Outcome, RateTrial
from repr_bench.scenarios.search import MOST_RATES, SearchSettings, conclusion, search
from repr_bench.scenarios.server import try_rate

MS = 1_000_000


def _trial(rate: float, outcome: Outcome, confirms: bool = False) -> RateTrial:
    return RateTrial(
        offered=rate,
        seed=0,
        confirms=confirms,
        outcome=outcome,
        reason="",
        slo_ms=15.0,
        scheduled=1,
        refused=0,
        seconds=1.0,
        windows_ns=((MS,),),
        window_seconds=(1.0,),
        lateness_ns=(0,),
        batches=((1, 1),),
    )


def _row(trials: list[RateTrial]) -> ScenarioRow:
    return ScenarioRow(
        label="x",
        precision="fp32",
        scenario="server",
        source="repr-bench",
        status="measured",
        trials=tuple(trials),
    )


def _search(limit: float, first: float, *, confirmed_limit: float | None = None) -> ScenarioRow:
    """Of a service that holds exactly the rates up to ``limit``."""
    trials: list[RateTrial] = []

    def attempt(rate: float, confirm: bool) -> RateTrial:
        highest = limit if not confirm or confirmed_limit is None else confirmed_limit
        return _trial(rate, "held" if rate <= highest else "missed", confirm)

    search(attempt, first, SearchSettings(15_000.0), trials)
    return _row(trials)


@pytest.mark.parametrize("limit", [0.7, 12.0, 512.0, 100_000.0])
@pytest.mark.parametrize("first", [1.0, 500.0, 90_000.0])
def test_search_brackets_and_bisects_to_within_5_percent(limit: float, first: float) -> None:
    row = _search(limit, first)
    assert row.rate is not None
    assert row.next_rate is not None
    assert row.rate <= limit < row.next_rate <= 1.05 * row.rate * (1 + 1e-9)
    assert sum(trial.confirms for trial in row.trials) == 1
    assert len(row.trials) <= MOST_RATES + 1


def test_what_is_not_confirmed_gives_way_to_lower_rates() -> None:
    row = _search(1000.0, 800.0, confirmed_limit=700.0)
    assert row.rate is not None
    assert 0.5 * 700 < row.rate <= 700.0
    confirms = [trial.offered for trial in row.trials if trial.confirms]
    assert confirms == sorted(confirms, reverse=True)
    assert row.next_rate == confirms[-2]


def test_where_no_rate_holds_nothing_is_confirmed() -> None:
    row = _search(0.0, 100.0)
    assert row.rate is None
    assert row.next_rate is None
    # down to one query in ten bounds of 15 s
    assert len(row.trials) == 15
    assert row.trials[-1].offered * 15 <= 0.1 < row.trials[-2].offered * 15
    assert _search(100.0, 100.0, confirmed_limit=0.0).rate is None


def test_a_failure_ends_the_search() -> None:
    trials: list[RateTrial] = []
    search(
        lambda rate, _confirm: replace(_trial(rate, "failed"), reason="ValueError: no"),
        *(10.0, SearchSettings(15.0), trials),
    )
    assert len(trials) == 1
    assert conclusion(trials, SearchSettings(15.0)) == ("failed", "ValueError: no")


def _late(rate: float, outcome: Outcome, confirms: bool = False) -> RateTrial:
    return replace(_trial(rate, outcome, confirms), lateness_ns=(17 * MS,))


def test_a_search_is_confirmed_however_far_down() -> None:
    trials: list[RateTrial] = []

    def attempt(rate: float, confirm: bool) -> RateTrial:
        return _trial(rate, "held" if rate <= (10.0 if confirm else 1000.0) else "missed", confirm)

    search(attempt, 500.0, SearchSettings(15.0), trials)
    assert conclusion(trials, SearchSettings(15.0)) == ("measured", "")
    assert trials[-1].confirms
    assert 5.0 < trials[-1].offered <= 10.0


def test_a_rate_of_which_a_late_generator_told_nothing_is_tried_once_more() -> None:
    trials: list[RateTrial] = []

    def attempt(rate: float, confirm: bool) -> RateTrial:
        again = bool(trials) and trials[-1].offered == rate and trials[-1].generator_limited
        outcome: Outcome = "held" if rate <= 1000 else "missed"
        return _trial(rate, outcome, confirm) if again else _late(rate, "missed", confirm)

    search(attempt, 4000.0, SearchSettings(15.0), trials)
    row = _row(trials)
    assert row.rate is not None
    assert row.next_rate is not None
    assert row.rate <= 1000 < row.next_rate <= 1.05 * row.rate * (1 + 1e-9)
    assert row.generator_limit == ""
    assert [trial.generator_limited for trial in trials] == [True, False] * (len(trials) // 2)


def test_what_a_search_without_a_confirmed_rate_comes_to() -> None:
    plan = SearchSettings(15.0)

    def found(attempt: Any) -> tuple[str, str]:
        trials: list[RateTrial] = []
        search(attempt, 36_590.0, plan, trials)
        assert trials[-1].offered * 15e-3 <= 0.1  # it went all the way down
        return conclusion(trials, plan)

    # a generator on time, and the service misses however little it has to do: that is a finding
    status, reason = found(lambda rate, confirm: _trial(rate, "missed", confirm))
    assert status == "measured"
    assert reason.startswith("no rate holds 15 ms: not even ")
    # a late generator tells nothing
    status, reason = found(lambda rate, confirm: _late(rate, "missed", confirm))
    assert status == "failed"
    assert "the load generator was itself 17 ms late at p99" in reason
    assert "1.5 ms is allowed" in reason
    # what holds for a moment, and never for longer, is not settled
    status, reason = found(lambda rate, c: _trial(rate, "missed" if c else "held", c))
    assert status == "failed"
    assert "held 15 ms in a short run, and none in a longer one" in reason


def test_a_generator_that_cannot_send_faster_bounds_the_rate_from_below() -> None:
    plan = SearchSettings(15.0, seconds=0.5, confirm_seconds=2)
    trials: list[RateTrial] = []

    class SlowToTake(QueueService):
        """Each query costs the one who sends it 0.2 ms, and the service next to nothing."""

        def submit(self, sample: Any, *, deadline: float | None = None) -> Future[Any]:
            self.time.sleep(2e-4)
            return super().submit(sample, deadline=deadline)

    def attempt(rate: float, confirm: bool) -> RateTrial:
        time = VirtualTime()
        return try_rate(
            *(rate, lambda: SlowToTake(time, 1000), ["x"], plan),
            confirm=confirm,
            clock=time.clock,
            sleep=time.sleep,
        )

    search(attempt, 36_590.0, plan, trials)
    assert conclusion(trials, plan) == ("measured", "")
    row = _row(trials)
    assert trials[0].generator_limited
    assert not trials[0].derived()["trusted"]
    assert row.rate is not None
    assert 3000 < row.rate < 5000  # what can be sent
    assert row.next_rate is None  # of the service no limit was seen
    assert row.generator_limit == (
        f"at least {row.rate:,.4g} queries/s: the load generator, not the network, is the limit"
    )
    assert row.derived()["generator_limit"] == row.generator_limit
    # the same rates missed by the service, with a generator on time
    mine = [replace(trial, lateness_ns=(0,)) for trial in trials]
    row = replace(row, trials=tuple(mine))
    assert row.rate is not None
    assert row.next_rate is not None
    assert row.rate < row.next_rate < 1.06 * row.rate
    assert (row.generator_limit, row.derived()["generator_limit"]) == ("", None)


def test_the_formula_of_the_queue_against_one_known_by_hand() -> None:
    # P(W = 0) = 1 - ρ: at a load of 0.3, 70 % are answered in the service time itself
    assert md1_latency_percentile(0.3, 1.0, 0.69) == pytest.approx(1.0, abs=1e-9)
    # and P(W ≤ t) = (1 - ρ) e^(rate t) below one service time
    t = 0.2
    share = 0.7 * 2.718281828459045 ** (0.3 * t)
    assert md1_latency_percentile(0.3, 1.0, share) == pytest.approx(1.0 + t)


def test_the_known_highest_rate_of_a_simulated_queue_is_found() -> None:
    service_ms, bound_ms = 3.0, 15.0
    known = md1_highest_rate(service_ms / 1e3, bound_ms / 1e3, 0.99)
    assert known == pytest.approx(187, abs=1)
    plan = SearchSettings(bound_ms, seconds=40, confirm_seconds=120, within=0.03)
    trials: list[RateTrial] = []
    services: list[QueueService] = []

    def attempt(rate: float, confirm: bool) -> RateTrial:
        time = VirtualTime()

        def open_service() -> QueueService:
            services.append(QueueService(time, round(service_ms * MS)))
            return services[-1]

        return try_rate(
            *(rate, open_service, ["x"], plan),
            confirm=confirm,
            clock=time.clock,
            sleep=time.sleep,
        )

    search(attempt, 1e3 / service_ms, plan, trials)
    row = _row(trials)
    assert row.rate == pytest.approx(known, rel=0.06)
    assert row.confirmed is not None
    assert row.confirmed.achieved == pytest.approx(row.rate, rel=0.03)
    p99 = row.confirmed.latency_ms(99)
    assert p99 is not None
    assert p99.interval is not None
    assert p99.value <= bound_ms
    expected = md1_latency_percentile(row.rate, service_ms / 1e3, 0.99) * 1e3
    assert p99.interval.low * 0.97 <= expected <= p99.interval.high * 1.03
    # the first rate is at the queue's capacity: lost, and given up long before its 40 s
    assert trials[0].outcome == "missed"
    assert trials[0].stopped
    assert trials[0].seconds < 20
    assert all(service.closed == [False] for service in services)
    assert row.confirmed.batches == ((1, row.confirmed.queries),)
    # another schedule confirms
    assert {trial.seed for trial in trials} == {0, 1}


def test_refusals_count_as_misses() -> None:
    time = VirtualTime()
    service = QueueService(time, 10 * MS, room=1)
    found = try_rate(
        *(95.0, lambda: service, ["x"], SearchSettings(1000.0, seconds=10)),
        confirm=False,
        clock=time.clock,
        sleep=time.sleep,
    )
    # offered nearly what one server does, without room to wait: Erlang's loss, 0.95 / 1.95
    assert found.outcome == "missed"
    assert found.refused_share > 0.2
    p99 = found.latency_ms(99)
    assert p99 is not None
    assert p99.value == float("inf")
    assert found.derived()["p99_ms"] is None


def test_a_failing_network_is_said() -> None:
    time = VirtualTime()
    found = try_rate(
        *(100.0, lambda: QueueService(time, MS, fail_at=3), ["x"], SearchSettings(15.0)),
        confirm=False,
        clock=time.clock,
        sleep=time.sleep,
    )
    assert found.outcome == "failed"
    assert found.reason == "ArithmeticError: the network fell over"


def test_a_late_generator_makes_a_trial_untrustworthy() -> None:
    for oversleep, trusted in ((0.0, True), (5e-3, False)):
        time = VirtualTime(lambda seconds, late=oversleep: late if seconds > 1e-3 else 0.0)  # type: ignore[misc]
        found = try_rate(
            *(50.0, lambda time=time: QueueService(time, MS), ["x"], SearchSettings(15.0)),  # type: ignore[misc]
            confirm=False,
            clock=time.clock,
            sleep=time.sleep,
        )
        assert found.trusted is trusted
        assert found.derived()["trusted"] is trusted


def test_slow_networks_get_longer_trials_within_reason() -> None:
    plan = SearchSettings(15.0, seconds=1.0, queries=300)
    assert plan.lasting(1000.0, confirm=False) == (1.0, 300)
    assert plan.lasting(10.0, confirm=False) == (1.0, 50)
    assert plan.lasting(1000.0, confirm=True) == (6.0, 1000)


def test_trials_are_long_enough_for_a_queue_to_grow_past_the_bound() -> None:
    assert SearchSettings(500.0, seconds=1.0).lasting(1000.0, confirm=False)[0] == 10.0
    time = VirtualTime()
    found = try_rate(
        *(150.0, lambda: QueueService(time, 10 * MS), ["x"], SearchSettings(1000.0, seconds=0.1)),
        confirm=False,
        clock=time.clock,
        sleep=time.sleep,
    )
    assert found.outcome == "missed"
