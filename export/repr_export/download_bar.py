"""What a person sees of a download: a bar on a terminal, one line elsewhere."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.status import Status


class DownloadBar:
    """Called with (name, bytes so far, all bytes or None); a quiet console shows nothing.

    A terminal shows one live display at a time, so ``status`` rests until :meth:`close`.
    """

    def __init__(self, console: Console, status: Status) -> None:
        self._console = console
        self._status = status
        self._bar: Progress | None = None
        self._told = False

    def __call__(self, name: str, done: int, total: int | None) -> None:
        if self._console.is_terminal and not self._console.quiet:
            bar = self._bar or self._open(name)
            bar.update(bar.task_ids[0], completed=done, total=total)
        elif not self._told:
            self._told = True
            size = "" if total is None else f" ({total / 1e6:.1f} MB)"
            self._console.print(f"downloading {name}{size}", highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away, and give the line back to the status; may be called at any time."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._status.start()

    def _open(self, name: str) -> Progress:
        self._status.stop()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._bar.add_task(name, total=None)
        self._bar.start()
        return self._bar
