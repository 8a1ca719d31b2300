"""Two runs compared: a verdict on each row, and what the machine itself did between them."""

from dataclasses import dataclass
from typing import Literal

from repr_bench.statistics.intervals import Interval

Verdict = Literal["faster", "slower", "same", "cannot tell", "only old", "only new"]


@dataclass(frozen=True)
class MachineShift:
    """How a reading of the machine changed: the new run's time over the old one's.

    ``interval`` is None for what was counted and not timed.
    """

    what: str
    ratio: float
    interval: Interval | None


@dataclass(frozen=True)
class RowVerdict:
    """The verdict on one row, matched by label, precision and batch.

    ``ratio`` is the new latency over the old one, ``interval`` holds it at ``confidence``,
    machine included; None where a run has no or too few rounds of the row. ``reason`` says why
    nothing can be told, ``warnings`` what else differs between the runs.
    """

    label: str
    precision: str | None
    batch: int | None
    verdict: Verdict
    ratio: float | None = None
    interval: Interval | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """All verdicts on a run, as against the run in the file ``old``, which began ``started``."""

    old: str
    started: str
    least_percent: float
    confidence: float
    machine: tuple[MachineShift, ...]
    warnings: tuple[str, ...]
    rows: tuple[RowVerdict, ...]
