"""Steps in their order until the deadline: what is left then is dropped, from the end."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

OK, FAILED, SKIPPED, STOPPED, DROPPED = "ok", "failed", "skipped", "stopped", "dropped"
HOURS_LEFT = "HOURS_LEFT"
"""In a command: the hours that it has when it begins, less what writing its results takes."""
_WRITING = 30.0
LEAST = 15.0
"""Seconds under which no step is begun: it would import its libraries, and be stopped."""


@dataclass(frozen=True)
class Step:
    """A command, run as a process of its own for ``limit`` seconds at most.

    ``kind`` is the step's of ``make gpu`` that it belongs to. ``result`` is the JSON file that it
    writes, if any. With ``skip``, a reason, it is not run at all.
    """

    name: str
    kind: str
    command: tuple[str, ...]
    limit: float
    result: Path | None = None
    skip: str = ""


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status, minus the signal, or None if it had to be stopped."""

    status: int | None
    last: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a step: one of the words above, ``reason`` unless it is ok, and seconds."""

    step: Step
    status: str
    reason: str
    seconds: float
    log: str


Run = Callable[[Step, float, Path], Ended]
"""Run a step's command for so many seconds at most, its output going to a file."""


def run_steps(
    steps: Sequence[Step],
    seconds: float,
    logs: Path,
    run: Run,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome]:
    """What became of each of ``steps``, as soon as it is known.

    A step that fails, or outruns its own limit, does not keep the later ones from running; one
    that runs when ``seconds`` are over is stopped, and those after it are dropped.
    """
    deadline = clock() + seconds
    for step in steps:
        log = logs / f"{re.sub(r'[ /]+', '-', step.name)}.log"
        left = deadline - clock()
        if step.skip:
            yield Outcome(step, SKIPPED, step.skip, 0.0, "")
        elif left < LEAST:
            yield Outcome(step, DROPPED, f"the {seconds / 60:g} minutes were over", 0.0, "")
        else:
            began, given = clock(), min(step.limit, left)
            hours = f"{max(given - _WRITING, 1) / 3600:.4f}"
            command = (hours if part == HOURS_LEFT else part for part in step.command)
            step = replace(step, command=tuple(command))
            ended = run(step, given, log)
            yield _judge(step, ended, left, clock() - began, log.name)


def _judge(step: Step, ended: Ended, left: float, seconds: float, log: str) -> Outcome:
    if ended.status == 0:
        return Outcome(step, OK, "", seconds, log)
    if ended.status is None:
        whose = f"its own {step.limit:g} s" if step.limit <= left else "the minutes in all"
        return Outcome(
            step, STOPPED, f"{whose} were over; the last it said: {ended.last}", seconds, log
        )
    how = f"exit status {ended.status}" if ended.status > 0 else f"signal {-ended.status}"
    return Outcome(step, FAILED, f"{how}; the last it said: {ended.last}", seconds, log)
