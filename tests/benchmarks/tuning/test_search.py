"""The search for the fastest setting: who is dropped at a look, who is chosen."""

from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from repr_bench.peers.base import Prepared
from repr_bench.tuning.search import Candidate, choose, drop_far_behind, gain, lengthen
from repr_runtime.backends.tuning import Setting


class TestFarBehind:
    def test_what_takes_much_longer_gets_no_more_than_a_look(self, world: Any) -> None:
        every = world.candidates(1.2, 1.0, 5.0)
        drop_far_behind(every, world.clock)
        assert [each.call is not None for each in every] == [True, True, False]
        assert len(every[2].row.rounds_ns) == 1
        assert every[2].row.status == "measured"
        assert world.search(every) is every[1]

    def test_the_fastest_of_the_others_go_on_and_the_default_with_them(self, world: Any) -> None:
        every = world.candidates(1.3, 1.2, 1.0, 1.1, 1.25)
        drop_far_behind(every, world.clock)
        assert [each.call is not None for each in every] == [True, True, True, True, False]

    def test_long_calls_are_looked_at_less_often(self, world: Any) -> None:
        every = world.candidates(100, 40, 2)
        drop_far_behind(every, world.clock)
        # One uncounted, then 250 ms and three looks at least; eight of a short one, 5 ms each.
        assert [*map(world.called.count, "012")] == [1 + 3, 1 + 7, 8 * (1 + 3)]

    def test_it_is_by_the_image(self, world: Any) -> None:
        every = world.candidates(8, 1)
        every[0].row = replace(every[0].row, images=8)
        drop_far_behind(every, world.clock)
        assert all(each.call for each in every)

    def test_what_breaks_fails_alone(self, world: Any) -> None:
        every = world.candidates(Mock(side_effect=RuntimeError("no memory")), 3)
        drop_far_behind(every, world.clock)
        assert (every[0].outcome, every[0].row.reason) == ("failed", "RuntimeError: no memory")
        assert every[1].call


def test_bursts_are_of_several_turns_and_long_enough(world: Any) -> None:
    called: list[int] = []
    every = world.candidates(1, 40)
    for each, turn in zip(every, (1, 40), strict=True):
        each.prepared = Prepared(lambda a: a[0], lambda: None, "", called.append, lanes=2)
        each.row = replace(each.row, measure="throughput", batch=8)
        each.one_turn()
        each.row = replace(each.row, rounds_ns=((turn * 10**6,),))
    lengthen(every, world.plan)
    for each in every:
        each.call()
    # Slices of 10 ms, of which a burst takes half.
    assert called == [2 * 5, 2 * 2]
    assert [each.row.images for each in every] == [5 * 16, 2 * 16]
    for each in every:  # and back
        each.one_turn()
        each.call()
    assert called[2:] == [2, 2]
    assert [each.row.images for each in every] == [16, 16]


class TestSearch:
    def test_the_fastest_is_chosen_and_all_are_timed_to_the_end(self, world: Any) -> None:
        every = world.candidates(5, 9, 1)
        assert world.search(every) is every[2]
        assert [each.outcome for each in every] == ["finalist", "finalist", "chosen"]
        assert {len(each.row.rounds_ns) for each in every} == {world.plan.rounds}
        assert {each.row.status for each in every} == {"measured"}

    def test_what_disturbs_most_rounds_decides_nothing(self, world: Any) -> None:
        every = world.candidates(1.0, world.disturbed(0.9, 3.0))
        chosen = world.search(every)
        assert chosen is every[1]
        assert np.median(chosen.row.log_ns) > np.median(every[0].row.log_ns)

    def test_what_breaks_fails_alone(self, world: Any) -> None:
        breaks = Mock(side_effect=RuntimeError("no memory"))
        every = world.candidates(5, breaks, 3)
        every.append(Candidate(Setting(threads=9), every[0].row, None, "failed"))
        assert world.search(every) is every[2]
        assert every[1].outcome == "failed"
        assert "no memory" in every[1].row.reason

    def test_where_nothing_can_be_timed_it_says_why(self, world: Any) -> None:
        (alone,) = world.candidates(1)
        alone.fail("no kernel")
        with pytest.raises(ValueError, match="no setting could be timed: no kernel"):
            world.search([alone])

    def test_of_those_that_are_alike_the_simplest_is_taken(self, world: Any) -> None:
        alike = world.candidates(2.0, 1.99)
        assert world.search(alike) is alike[0]
        better = world.candidates(2.0, 1.97)
        assert world.search(better) is better[1]
        assert choose(better[1:]) is better[1]

    def test_ctrl_c_is_passed_on(self, world: Any) -> None:
        world.stop_at = 20
        with pytest.raises(KeyboardInterrupt):
            world.search(world.candidates(1, 2))


def test_how_many_times_as_fast_as_the_default(world: Any) -> None:
    every = world.candidates(3.0, 1.5, 9.0)
    world.search(every[:2])
    assert [gain(every[0], each) for each in every] == ["-", "2.00 ×", "-"]
    slow = world.candidates(6.0, 1.5)
    drop_far_behind(slow, world.clock)
    world.search(slow)
    assert gain(slow[0], slow[1]) == "4.00 ×"  # by the look at the one that is far behind
