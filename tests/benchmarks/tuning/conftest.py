"""Candidates of a tuning that take as long as they are told, by a clock that they move."""

from collections.abc import Callable
from dataclasses import replace
from unittest.mock import Mock

import peer_rows
import pytest
from fake_queue import World

from repr_bench.measuring.measure import Plan
from repr_bench.tuning.search import Candidate, search
from repr_runtime.backends.tuning import Setting


class Settings(World):
    """Candidates that take as long as they are told, in ms."""

    plan = Plan(seconds=0.12, samples=12, rounds=12, warmup_seconds=0.01)

    def candidates(self, *durations: float | Callable[[int], float]) -> list[Candidate]:
        return [
            Candidate(
                Setting(threads=number + 1),
                replace(peer_rows.lost("net", f"s{number}", "failed", "", 1), images=1),
                self.call(str(number), duration),
            )
            for number, duration in enumerate(durations)
        ]

    def search(self, every: list[Candidate]) -> Candidate:
        return search(every, self.plan, Mock(), "tuning", self.clock)

    @staticmethod
    def disturbed(quiet: float, loud: float) -> Callable[[int], float]:
        """So long in some rounds, longer in most."""
        return lambda number: quiet if number % 45 < 30 else loud


@pytest.fixture
def world() -> Settings:
    return Settings()
