"""How long requests take, for each that was before them, and so how long a new one would."""

_WEIGHT = 0.1
"""Of the last one that was answered, in the mean of all: some tens of them tell of a change."""

_MARGIN = 1.5
"""What comes in batches is not answered evenly: better to refuse one more than to answer it late."""


class Pace:
    """Every answer tells it anew; where nothing waits nobody is told to."""

    def __init__(self, delay: float) -> None:
        """``delay``: for how many seconds a request may wait for company, whoever is before it."""
        self._delay = delay
        self._each = 0.0  # seconds; 0 as long as it is not known

    def answered(self, ahead: int, seconds: float) -> None:
        """One was, in so many seconds; when it came, ``ahead`` others were waiting or being run."""
        each = max(0.0, seconds - self._delay) / (ahead + 1)
        self._each += (each - self._each) * (_WEIGHT if self._each else 1.0)

    def wait(self, ahead: int) -> float:
        """About how many seconds it takes to answer one that comes behind ``ahead`` others."""
        if ahead < 2 or not self._each:
            return 0.0
        return self._delay + _MARGIN * (ahead + 1) * self._each
