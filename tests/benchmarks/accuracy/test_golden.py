"""The golden samples through a session: how far it is off, by whose bound, and which classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repr_bench.accuracy import golden as module
from repr_bench.accuracy.golden import compare_golden
from repr_bench.request import Tolerance
from repr_bench.results.graph import Difference
from repr_runtime.self_test import Golden

LOGITS = np.array([[1.0, 2.0, 100.0], [3.0, 0.0, -1.0]], np.float32)


class Linear:
    """A session that answers as it is told."""

    path = manifest = graph = inputs = outputs = None

    def __init__(self, answer: np.ndarray) -> None:
        self.answer = answer

    def run_all(self, _inputs: Any) -> dict[str, np.ndarray]:
        return {"logits": self.answer}


@pytest.fixture(autouse=True)
def samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden samples are two, and their tolerance is 0.01."""
    golden = Golden(Path("a"), 2, False, {}, {"logits": LOGITS}, {"logits": 0.01})
    monkeypatch.setattr(module, "read_golden", lambda *_: golden)
    monkeypatch.setattr(module, "_agreement", lambda *_: None)


def difference(answer: np.ndarray, tolerance: Tolerance | None = None) -> Difference:
    session: Any = Linear(answer)
    found, _ = compare_golden(session, tolerance)
    assert found is not None
    return found


def off(by: float, at: tuple[int, int] = (0, 2)) -> np.ndarray:
    changed = LOGITS.astype(np.float64)
    changed[at] += by
    return changed


def test_the_artifacts_own_tolerance_is_taken_unless_another_is_given() -> None:
    assert difference(off(0.009)) == Difference("logits", pytest.approx(0.009), 0.01, 0.0, True, 2)
    assert not difference(off(0.011)).within
    assert difference(off(0.011), Tolerance(atol=0.012)).within
    assert not difference(off(0.009), Tolerance(atol=0.008)).within


def test_the_bound_is_absolute_and_relative_together_for_each_value() -> None:
    # of 100: 0.01 + 0.01 * 100 = 1.01; of 0: 0.01
    both = Tolerance(0.01, 0.01)
    assert difference(off(1.0), both).within
    assert not difference(off(1.02), both).within
    assert difference(off(0.009, (1, 1)), both).within
    assert not difference(off(0.02, (1, 1)), both).within
    assert not difference(off(1e-9, (1, 1)), Tolerance(rtol=1.0)).within  # of 0 there is no share
    assert difference(LOGITS, Tolerance()).within  # equal is within 0
    assert str(difference(off(2), both)) == (
        "'logits' is off by up to 2 on 2 golden samples, allowed is 0.01 + 0.01·|original|"
    )


def test_what_is_no_number_is_off_by_more_than_anything() -> None:
    for wrong in (np.nan, np.inf):
        found = difference(off(wrong), Tolerance(1e9, 1e9))
        assert (found.within, found.largest) == (False, None)
