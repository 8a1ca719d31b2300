"""How far a run is, on standard error: a bar on a terminal, a line for each step elsewhere."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_REFRESH_SECONDS = 0.1


class RunProgress:
    """Shows what ``repr_bench.run.run`` reports, with the time left; a context manager."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False, markup=False)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
            TimeRemainingColumn(),
            console=self._console,
            # A refreshing thread would take its share of the CPUs while they are measured.
            auto_refresh=False,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._task: tuple[str, TaskID] | None = None
        self._shown_at = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def tell(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, soft_wrap=True)

    def advance(self, what: str, done: float, total: float) -> None:
        """Move the bar of ``what``; the bar of another thing leaves."""
        if self._task is None or self._task[0] != what:
            if self._task is not None:
                self._bar.remove_task(self._task[1])
            self._task = (what, self._bar.add_task(what))
        self._bar.update(self._task[1], completed=done, total=total)
        if done >= total or time.monotonic() - self._shown_at >= _REFRESH_SECONDS:
            self._shown_at = time.monotonic()
            self._bar.refresh()
