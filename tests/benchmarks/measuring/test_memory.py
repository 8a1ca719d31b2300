"""The peak of memory: of what was taken and given back since, and of nothing before."""

import sys

import numpy as np
import pytest

from repr_bench.measuring import memory
from repr_bench.measuring.memory import PeakMemory

MB = 10**6


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone says it")
def test_the_peak_is_that_of_what_was_given_back_too() -> None:
    before = np.ones(40 * MB, np.uint8)
    peak = PeakMemory()
    np.ones(30 * MB, np.uint8)  # gone at once
    first = peak.read()
    assert first is not None
    assert 29 * MB < first < 36 * MB
    second = peak.read()  # from there on nothing was taken
    assert second is not None
    assert second < 6 * MB
    del before


def test_it_is_not_known_where_the_system_does_not_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "_RESTART", memory._RESTART / "none")
    assert PeakMemory().read() is None
