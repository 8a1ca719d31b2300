"""How fast requests are answered while some wait, and so how long a new one would."""

import time

_WINDOW = 0.1  # seconds
_MARGIN = 1.5
"""What comes in batches is not answered evenly: better to refuse one more than to answer it late."""


class Pace:
    """Measured only while there is a backlog: where nothing waits, nobody is told to."""

    def __init__(self) -> None:
        self._rate = 0.0  # requests a second; 0 as long as it is not known
        self._began, self._count, self._backlog = time.monotonic(), 0, False

    def answered(self, left: int) -> None:
        """One was, and ``left`` are waiting or being run."""
        self._count += 1
        now = time.monotonic()
        span = now - self._began
        if span >= _WINDOW:
            if self._backlog:
                rate = self._count / span
                self._rate = (self._rate + rate) / 2 if self._rate else rate
            self._began, self._count, self._backlog = now, 0, True
        if not left:
            self._backlog = False

    def wait(self, ahead: int) -> float:
        """About how many seconds it takes to answer one that comes behind ``ahead`` others."""
        return _MARGIN * (ahead + 1) / self._rate if self._rate and ahead > 1 else 0.0
