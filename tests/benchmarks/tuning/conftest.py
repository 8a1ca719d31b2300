"""Candidates of a tuning that take as long as they are told, by a clock that they move."""

from collections.abc import Callable
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
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
    def jitter(milliseconds: float, phase: float = 0) -> Callable[[int], float]:
        """Slow drifts of 10 %, so that rounds differ."""
        return lambda number: milliseconds * (1 + 0.1 * np.sin(phase + number / 7))


@pytest.fixture
def world() -> Settings:
    return Settings()
