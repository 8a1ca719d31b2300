"""A step as a process: its output into a file, stopped for good when its time is over."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from repr_bench.gpu.schedule import Ended, Step

GRACE = 10.0
"""Seconds that a process has after SIGINT to write what it has; then it is killed."""
_LAST = 2000
"""Bytes of the log that are looked at for the last line."""


def run_process(
    step: Step, seconds: float, log: Path, environment: Mapping[str, str], grace: float = GRACE
) -> Ended:
    """Run ``step`` for ``seconds`` at most, then SIGINT, and ``grace`` seconds later SIGKILL.

    Both go to all that it has started. An exception here, such as Ctrl-C, stops it as well.
    """
    with open(log, "wb") as stream:
        stream.write(f"$ {' '.join(step.command)}\n".encode())
        stream.flush()
        process = subprocess.Popen(
            step.command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        status: int | None = None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(max(seconds - grace, min(seconds, 1.0)))
            if status is None:
                _signal(process.pid, signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(grace)
        finally:
            _signal(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold it for ever
                process.wait(grace)
    return Ended(status, last_line(log))


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def last_line(log: Path) -> str:
    """The last line of ``log`` that says something; ``nothing`` if there is none."""
    with open(log, "rb") as stream:
        stream.seek(max(0, log.stat().st_size - _LAST))
        lines = [
            line for line in stream.read().decode(errors="replace").splitlines() if line.strip()
        ]
    return lines[-1].strip() if lines and not lines[-1].startswith("$ ") else "nothing"
