"""What the two commands of this package share: how they end, and the bar of their progress."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from repr_models.errors import ModelsError

if TYPE_CHECKING:
    from rich.console import Console


def finish(prog: str, run: Callable[[], object], interrupted: str) -> int:
    """Run a command; what it fails with is one line on standard error.

    ``interrupted`` says what calling it again does. Returns 0, 1 for a failure and 130 when
    interrupted.
    """
    try:
        run()
    except ModuleNotFoundError as error:
        extra = "bench" if error.name == "matplotlib" else "export"
        message = f"{prog} needs {error.name}: pip install 'repr-deploy[{extra}]'"
    except ModelsError as error:
        message = f"{prog}: {error}"
    except OSError as error:
        message = f"{prog}: {error.strerror}: {error.filename}"
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; the same command goes on {interrupted}", file=sys.stderr)
        return 130
    else:
        return 0
    print(message, file=sys.stderr)
    return 1


def version() -> str:
    """The installed version of repr-deploy, or "unknown"."""
    try:
        return importlib.metadata.version("repr-deploy")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@contextmanager
def progress_bar(
    console: Console, title: str, epochs: int, done: int = 0, *, transient: bool = False
) -> Iterator[Callable[[float], None]]:
    """A bar where ``console`` is a terminal; gives what is called with the epochs done."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        *([TextColumn(title)] if title else []),
        *(BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn()),
    )
    hidden = console.quiet or not console.is_terminal
    with Progress(*columns, console=console, disable=hidden, transient=transient) as progress:
        task = progress.add_task("", total=epochs, completed=done)
        yield lambda done: progress.update(task, completed=done)
