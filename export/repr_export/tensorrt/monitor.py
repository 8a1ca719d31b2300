"""How far a build is, and stopping it: what the builder calls from C++."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from repr_runtime.backends.tensorrt.library import Library
from repr_runtime.backends.tensorrt.messages import implement

Progress = Callable[[str, int, int], None]
"""Gets a phase's name, the steps of it that are done, and how many there are."""


class BuildMonitor:
    """Hands a builder's progress on, and tells the builder to stop when asked to.

    The builder calls from C++, where an exception would end the process: whatever
    ``progress`` raises is kept in ``stopped_by``, and the build is cancelled.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._steps: dict[str, int] = {}
        self._lock = threading.Lock()  # builders may call from several threads
        self.stopped_by: BaseException | None = None

    def stop(self, reason: BaseException) -> None:
        """Cancel the build at its next step; ``reason`` is raised when it has ended."""
        self.stopped_by = self.stopped_by or reason

    def phase_start(self, name: str, parent: str | None, steps: int) -> None:  # noqa: ARG002
        """A phase of ``steps`` steps begins."""
        with self._lock:
            self._steps[name] = steps
            self._tell(name, 0)

    def step_complete(self, name: str, step: int) -> bool:
        """Step ``step``, from 0, is done; False cancels the build."""
        with self._lock:
            self._tell(name, step + 1)
        return self.stopped_by is None

    def phase_finish(self, name: str) -> None:
        """The phase is over, with all steps done or without."""
        with self._lock:
            self._steps.pop(name, None)

    def _tell(self, name: str, done: int) -> None:
        if self._progress is None or self.stopped_by is not None:
            return
        total = self._steps.get(name, done)
        try:
            self._progress(name, min(done, total), total)
        except BaseException as error:
            self.stop(error)

    def implement(self, library: Library) -> Any:
        """This monitor as the library's ``IProgressMonitor``."""
        return implement(
            library.trt.IProgressMonitor,
            phase_start=lambda _, *args: self.phase_start(*args),
            step_complete=lambda _, *args: self.step_complete(*args),
            phase_finish=lambda _, *args: self.phase_finish(*args),
        )

    @contextlib.contextmanager
    def stopping(self) -> Iterator[None]:
        """Raises the reason to stop at its end, if there is one.

        While it lasts, Ctrl-C is such a reason and does not raise in the middle of a callback.
        """
        usual = signal.getsignal(signal.SIGINT)
        # Ctrl-C goes to the main thread, and may be ignored, or handled by other than Python.
        mine = threading.current_thread() is threading.main_thread() and callable(usual)
        if mine:
            signal.signal(signal.SIGINT, lambda *_: self.stop(KeyboardInterrupt()))
        try:
            yield
        finally:
            if mine:
                signal.signal(signal.SIGINT, usual)
            if self.stopped_by is not None:
                raise self.stopped_by
