"""The load generator's priority: given, not inherited, taken back; and done without."""

import os
import threading

import pytest

from repr_bench.scenarios.realtime import realtime_priority


def policy() -> int:
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK


@pytest.mark.skipif(not hasattr(os, "sched_setscheduler"), reason="this system has no such call")
def test_it_is_given_to_this_thread_alone_and_taken_back() -> None:
    before, inside = policy(), list[int]()
    with realtime_priority() as given:
        if given:
            assert policy() == os.SCHED_RR
            started = threading.Thread(target=lambda: inside.append(policy()))
            started.start()
            started.join()
            assert inside == [os.SCHED_OTHER]
    assert policy() == before
    with pytest.raises(KeyboardInterrupt), realtime_priority():
        raise KeyboardInterrupt
    assert policy() == before


@pytest.mark.parametrize("error", [PermissionError, AttributeError])
def test_where_it_is_not_allowed_all_goes_on_without(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "sched_setscheduler", refuse, raising=False)
    with realtime_priority() as given:
        assert not given
