"""How long runs take, as the last ones did, and so when an answer can be there at the earliest."""

import threading

_WEIGHT = 0.2
"""Of the last run in the mean of all: some tens of them tell of a change."""

_MARGIN = 1.5
"""By which a run may take longer than those before it, and still be in time."""

_CROWD = 2.5
"""The same of a wait, which is less certain; and a queue shorter than it could be costs nothing."""


class Pace:
    """Not thread-safe: the batcher's lock is held around each call. All times are in seconds.

    Sizes of runs that have as many bits are told from one another by the rule of three.
    """

    def __init__(self, instances: int) -> None:
        self._instances = instances
        self._runs: dict[int, tuple[float, float, int]] = {}  # mean samples, mean seconds, runs
        self._each = 0.0  # a sample's share, whatever the runs' sizes were
        self._ends: dict[int, float] = {}  # by thread, when its run should come to its end

    def begun(self, samples: int, now: float) -> None:
        """This thread runs so many samples now."""
        self._ends[threading.get_ident()] = now + self._mean(samples)

    def ran(self, samples: int, seconds: float) -> None:
        """So many samples were run together, which took so long."""
        bits = samples.bit_length()
        mean_samples, mean, count = self._runs.get(bits, (0.0, 0.0, 0))
        weight = max(_WEIGHT, 1 / (count + 1))
        self._runs[bits] = (
            mean_samples + weight * (samples - mean_samples),
            mean + weight * (seconds - mean),
            count + 1,
        )
        self._each += (seconds / samples - self._each) * (_WEIGHT if self._each else 1.0)

    def ended(self) -> None:
        """What this thread ran has come to its end, one way or the other."""
        self._ends.pop(threading.get_ident(), None)

    def expected(self, samples: int) -> float:
        """How long a run of so many samples takes, at most; 0 as long as nothing was run."""
        return _MARGIN * self._mean(samples)

    def takes(self, samples: int, waiting: int, now: float) -> float:
        """How long the answer to so many takes, behind ``waiting`` others; 0 if nothing is run.

        Whoever has nobody before it is not sent away, or one slow run would be believed for ever.
        """
        if not self._ends:
            return 0.0
        wait = 0.0
        if waiting or len(self._ends) >= self._instances:
            busy = sum(max(0.0, end - now) for end in self._ends.values())
            wait = (busy + waiting * self._each) / self._instances
        return _CROWD * wait + self.expected(samples)

    def _mean(self, samples: int) -> float:
        if not self._runs:
            return 0.0
        bits = samples.bit_length()
        known = self._runs.get(bits) or self._runs[min(self._runs, key=lambda b: abs(b - bits))]
        return known[1] * samples / known[0]
