"""Who would be answered too late is told at once; where nothing waits nobody is."""

import time

import pytest
from refusals import refuses
from serving import held

from repr_runtime import errors
from repr_serve import Service
from repr_serve.pace import Pace


def test_the_wait_is_that_of_the_last_ones() -> None:
    made = Pace(delay=0.0)
    assert made.wait(1000) == 0  # nothing is known yet
    made.answered(ahead=9, seconds=0.1)
    assert made.wait(99) == pytest.approx(1.5)  # 10 ms each, with a margin
    assert made.wait(1) == made.wait(0) == 0  # a service that is nearly idle takes whoever comes
    for _ in range(60):  # an overload is over
        made.answered(ahead=0, seconds=0.001)
    assert made.wait(99) == pytest.approx(0.15, rel=0.1)


def test_what_waits_for_company_is_not_taken_for_slow() -> None:
    made = Pace(delay=0.2)
    for _ in range(5):
        made.answered(ahead=0, seconds=0.201)
    assert made.wait(3) == pytest.approx(0.2 + 1.5 * 4 * 0.001)


def test_a_request_that_would_be_late_is_refused(service: Service) -> None:
    model = service.model("tiny")
    model.require_room(time.monotonic() - 1)  # that its time is over is the batcher's to say
    with held(model):
        model._pace.answered(0, 0.01)
        model._asked = 10
        model.require_room(time.monotonic() + 1)
        with refuses(errors.QueueFullError, "10 requests are before this one", "about 0.17 s"):
            model.require_room(time.monotonic() + 0.1)
        model._asked = 0
        model.require_room(time.monotonic() + 0.1)
