"""Who would be answered too late is told at once; where nothing waits nobody is."""

import time

import pytest
from refusals import refuses
from serving import held

from repr_runtime import errors
from repr_serve import Service, pace
from repr_serve.pace import Pace


def test_the_wait_is_that_of_the_last_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    made = Pace()

    def answer(count: int, seconds: float, left: int) -> None:
        for _ in range(count):
            now[0] += seconds
            made.answered(left)

    assert made.wait(1000) == 0  # nothing is known yet
    answer(100, 0.01, left=0)  # one after the other: how fast they come, not how fast they could
    assert made.wait(1000) == 0
    answer(200, 0.01, left=5)
    assert made.wait(99) == pytest.approx(1.5, rel=0.15)  # a hundred a second, with a margin
    assert made.wait(1) == made.wait(0) == 0  # an idle service takes whoever comes
    answer(2000, 0.001, left=5)  # it became faster
    assert made.wait(99) == pytest.approx(0.15, rel=0.15)


def test_a_request_that_would_be_late_is_refused(service: Service) -> None:
    model = service.model("tiny")
    model.require_room(time.monotonic())
    with held(model):
        model._asked, model._pace._rate = 10, 100.0
        model.require_room(time.monotonic() + 1)
        with refuses(errors.QueueFullError, "10 requests are before this one", "about 0.17 s"):
            model.require_room(time.monotonic() + 0.1)
        model._asked = 0
        model.require_room(time.monotonic() + 0.1)
