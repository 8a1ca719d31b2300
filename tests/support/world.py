"""A world in which nothing takes time but the calls that say so, for tests of what times them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

MS = 1_000_000


class World:
    """A clock in ns, and calls that move it by as many ms as they are told; ``called``, in order."""

    def __init__(self) -> None:
        self.now = 0
        self.called: list[str] = []
        self.times: Counter[str] = Counter()

    def clock(self) -> int:
        return self.now

    def call(self, name: str, milliseconds: float | Callable[[int], float]) -> Callable[[], None]:
        """``milliseconds`` may be a function of how often it was called before."""

        def run() -> None:
            number = self.times[name]
            self.called.append(name)
            self.times[name] += 1
            duration = milliseconds(number) if callable(milliseconds) else milliseconds
            self.now += round(duration * MS)

        return run
