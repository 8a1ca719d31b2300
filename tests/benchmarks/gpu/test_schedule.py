"""Steps until a deadline, by a clock that only they move."""

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from repr_bench.gpu.process import run_process
from repr_bench.gpu.schedule import HOURS_LEFT, Ended, Outcome, Step, run_steps


class Machine:
    """Steps take the seconds that they are said to, or what they are given."""

    def __init__(self, seconds: Mapping[str, float], status: Mapping[str, int]) -> None:
        self.now, self.seconds, self.status = 100.0, seconds, status
        self.given: dict[str, float] = {}

    def run(self, step: Step, seconds: float, _: Path) -> Ended:
        self.given[step.name] = seconds
        self.now += min(seconds, self.seconds[step.name])
        if self.seconds[step.name] > seconds:
            return Ended(None, "half done")
        return Ended(self.status.get(step.name, 0), "the end")


def outcomes(
    seconds: float, takes: Mapping[str, float], status: Mapping[str, int] | None = None
) -> tuple[list[Outcome], Machine]:
    machine = Machine(takes, status or {})
    steps = [Step(name, "tests", ("true",), 100) for name in takes]
    found = list(run_steps(steps, seconds, Path(), machine.run, lambda: machine.now))
    return found, machine


def test_what_is_left_at_the_deadline_is_dropped_from_the_end() -> None:
    found, machine = outcomes(60, {"a": 20, "b": 10, "c": 50, "d": 1, "e": 1})
    assert [each.status for each in found] == ["ok", "ok", "stopped", "dropped", "dropped"]
    assert machine.given == {"a": 60, "b": 40, "c": 30}
    assert found[2].reason == "the minutes in all were over; the last it said: half done"
    assert found[3].reason == "the 1 minutes were over"
    assert [each.seconds for each in found] == [20, 10, 30, 0, 0]


def test_no_step_is_begun_that_could_only_be_stopped() -> None:
    found, machine = outcomes(60, {"a": 57, "b": 1})
    assert [each.status for each in found] == ["ok", "dropped"]
    assert "b" not in machine.given


def test_a_failed_or_endless_step_does_not_stop_those_after_it() -> None:
    found, _ = outcomes(600, {"a": 1, "b": 1000, "c": 1, "d": 1}, {"a": 3, "c": -11})
    assert [each.status for each in found] == ["failed", "stopped", "failed", "ok"]
    assert [each.reason.partition(";")[0] for each in found] == [
        "exit status 3",
        "its own 100 s were over",
        "signal 11",
        "",
    ]


def test_what_cannot_be_done_is_skipped_with_its_reason() -> None:
    steps = [Step("a b/c", "tests", (), 1, skip="no data"), Step("d", "tests", ("x",), 9)]
    seen = []

    def run(step: Step, _: float, log: Path) -> Ended:
        seen.append((step.name, log.name))
        return Ended(0)

    first, second = run_steps(steps, 60, Path("logs"), run, lambda: 0.0)
    assert (first.status, first.reason, second.status) == ("skipped", "no data", "ok")
    assert seen == [("d", "d.log")]


def test_a_command_is_told_the_hours_that_it_has() -> None:
    now, told = [0.0], []

    def run(step: Step, _: float, __: Path) -> Ended:
        told.append(step.command)
        now[0] += 390
        return Ended(0)

    command = ("train", "--hours", HOURS_LEFT)
    steps = [Step("a", "tests", ("x",), 400), Step("b", "train", command, 9999)]
    outcomes = [*run_steps(steps, 600, Path(), run, lambda: now[0])]
    assert told == [("x",), ("train", "--hours", "0.0500")]
    assert outcomes[1].step.command == told[1]


# Processes


def stopped(log: Path, on_interrupt: str) -> Ended:
    script = f"trap '{on_interrupt}' INT; sleep 60 & echo $!; wait; wait"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        step = Step("x", "tests", ("sh", "-c", script), 9)
        return run_process(step, 0.7, log, os.environ, grace=0.5)
    finally:
        signal.signal(signal.SIGINT, before)


def is_gone(process: int) -> bool:
    """Ended by now, or within moments: a signal takes as long."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("ignores", [False, True])
def test_a_process_out_of_time_may_write_what_it_has_and_then_is_gone(
    tmp_path: Path, ignores: bool
) -> None:
    log = tmp_path / "x.log"
    began = time.monotonic()
    ended = stopped(log, "" if ignores else "echo kept; exit 1")
    assert time.monotonic() - began < 20
    assert ended.status is None
    pid, *rest = log.read_text().splitlines()[1:]
    assert rest == ([] if ignores else ["kept"])
    assert ended.last == (pid if ignores else "kept")
    assert is_gone(int(pid))


def test_a_crash_is_its_signal(tmp_path: Path) -> None:
    command = (sys.executable, "-S", "-c", "import os; print('so far', flush=True); os.abort()")
    ended = run_process(Step("x", "tests", command, 9), 30, tmp_path / "x.log", os.environ)
    assert ended == Ended(-signal.SIGABRT, "so far")
