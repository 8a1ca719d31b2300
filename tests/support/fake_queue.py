"""Times that tests move: a clock that only calls move, and a queue whose latencies can be computed."""

import math
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from repr_runtime.errors import QueueFullError

MS = 1_000_000
START = 5_000_000_000
STEP_NS = 20_000


class World:
    """A clock in ns, and calls that move it by as many ms as they are told; ``called``, in order.

    Once ``stop_at`` of them were made, the next one is interrupted.
    """

    def __init__(self) -> None:
        self.now = 0
        self.stop_at: int | None = None
        self.called: list[str] = []
        self.times: Counter[str] = Counter()

    def clock(self) -> int:
        return self.now

    def call(self, name: str, milliseconds: float | Callable[[int], float]) -> Callable[[], None]:
        """``milliseconds`` may be a function of how often it was called before."""

        def run() -> None:
            if len(self.called) == self.stop_at:
                raise KeyboardInterrupt
            number = self.times[name]
            self.called.append(name)
            self.times[name] += 1
            duration = milliseconds(number) if callable(milliseconds) else milliseconds
            self.now += round(duration * MS)

        return run


class VirtualTime:
    """A clock in ns that only ``sleep`` moves, and what is to happen at its moments, in order."""

    def __init__(self, oversleep: Callable[[float], float] = lambda _seconds: 0.0) -> None:
        self.now = START
        self.slept = 0.0
        self._oversleep = oversleep
        self._events: list[tuple[int, Callable[[], None]]] = []

    def clock(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        until = self.now + max(STEP_NS, round((seconds + self._oversleep(seconds)) * 1e9))
        while self._events and self._events[0][0] <= until:
            self.now, happens = self._events.pop(0)
            happens()
        self.now = until

    def at(self, moment: int, happens: Callable[[], None]) -> None:
        """Events are announced in the order of their moments."""
        assert not self._events or moment >= self._events[-1][0]
        self._events.append((moment, happens))


@dataclass
class QueueService:
    """One server, first come first served, ``service_ns`` a query; at most ``room`` unanswered.

    ``fail_at`` is the query whose answer is an error, ``stall_at`` the one that takes
    ``stall_ns`` longer, ``silent_from`` the first one that is never answered.
    """

    service_ns: int
    time: VirtualTime = field(default_factory=VirtualTime)
    room: float = math.inf
    fail_at: int | None = None
    stall_at: int | None = None
    stall_ns: int = 0
    silent_from: float = math.inf
    free_at: int = 0
    unanswered: int = 0
    given: list[Any] = field(default_factory=list)
    closed: list[bool] = field(default_factory=list)
    sizes: Counter[int] = field(default_factory=Counter)

    def submit(self, sample: Any, *, deadline: float | None = None) -> Future[Any]:
        assert deadline is None
        index = len(self.given)
        self.given.append(sample)
        if self.unanswered >= self.room:
            raise QueueFullError("as many wait as may")
        self.unanswered += 1
        future: Future[Any] = Future()
        begin = max(self.time.now, self.free_at)
        self.free_at = begin + self.service_ns + (self.stall_ns if index == self.stall_at else 0)

        def answer() -> None:
            self.unanswered -= 1
            self.sizes[1] += 1
            if index == self.fail_at:
                future.set_exception(ArithmeticError("the network fell over"))
            else:
                future.set_result({})

        if index < self.silent_from:
            self.time.at(self.free_at, answer)
        return future

    def stats(self) -> Any:
        return SimpleNamespace(batches=dict(self.sizes))

    def close(self, *, drain: bool = True) -> None:
        self.closed.append(drain)


def md1_latency_percentile(rate: float, service: float, share: float) -> float:
    """The quantile ``share`` of waiting plus service in M/D/1, in the unit of ``service``.

    By Erlang's distribution of the waiting time W at load ρ = rate · service < 1:
    P(W ≤ t) = (1 - ρ) Σ_{k=0}^{⌊t/service⌋} (rate·(k·service - t))^k / k! · e^(-rate·(k·service - t))
    """

    def waits_at_most(t: float) -> float:
        total = 0.0
        for k in range(int(t / service) + 1):
            x = rate * (k * service - t)
            total += x**k / math.factorial(k) * math.exp(-x)
        return (1 - rate * service) * total

    low, high = 0.0, 60 * service
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if waits_at_most(middle) < share else (low, middle)
    return service + high


def md1_highest_rate(service: float, bound: float, share: float) -> float:
    """The highest rate at which the quantile ``share`` of the latency in M/D/1 is within ``bound``."""
    low, high = 0.0, 1 / service
    for _ in range(50):
        middle = (low + high) / 2
        held = md1_latency_percentile(middle, service, share) <= bound
        low, high = (middle, high) if held else (low, middle)
    return low
