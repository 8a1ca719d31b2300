"""The graph that was timed: where it comes from, how large it is, and what it gets right."""

from __future__ import annotations

from dataclasses import dataclass

from repr_bench.results.agreement import Agreement, Flips
from repr_bench.statistics import intervals
from repr_bench.statistics.intervals import Figure, Interval


@dataclass(frozen=True)
class Accuracy:
    """How many of ``images`` a graph got right; ``top5`` is None for ten classes or fewer."""

    top1: int
    top5: int | None
    images: int
    description: str
    sha256: str

    @property
    def top1_percent(self) -> Figure:
        """Top-1 in percent, with Wilson's interval."""
        low, high = intervals.wilson_interval(self.top1, self.images)
        return Figure(100 * self.top1 / self.images, Interval(100 * low, 100 * high))

    @property
    def top5_percent(self) -> Figure | None:
        """Likewise of top-5, where there is one."""
        if self.top5 is None:
            return None
        low, high = intervals.wilson_interval(self.top5, self.images)
        return Figure(100 * self.top5 / self.images, Interval(100 * low, 100 * high))


@dataclass(frozen=True)
class Graph:
    """The graph that was timed, and what it got right; ``accuracy_note`` says why not known.

    ``trained_top1`` (0 to 1) is what training recorded of bundled weights on all test images,
    ``bar`` what they should reach; None where there is none. ``flips`` are those from the
    artifact's fp32 graph, None for itself. Of the images, ``skipped`` could not be used, the
    first for ``skip_reason``.
    """

    artifact: str
    network: str
    dataset: str | None
    weights: str
    weights_sha256: str | None
    parameters: int
    multiply_adds: int | None
    bytes: int
    sha256: str
    device: str
    choice: str
    accuracy: Accuracy | None
    accuracy_note: str
    trained_top1: float | None = None
    bar: float | None = None
    agreement: Agreement | None = None
    flips: Flips | None = None
    skipped: int = 0
    skip_reason: str = ""

    @property
    def below_bar(self) -> bool:
        """Whether its weights miss their bar."""
        if self.trained_top1 is None or self.bar is None:
            return False
        return self.trained_top1 < self.bar

    def answers(self) -> dict[str, Figure]:
        """The figures on what it answers, by the names they have in JSON."""
        found = {}
        if self.accuracy:
            found["top1_percent"] = self.accuracy.top1_percent
            if self.accuracy.top5_percent:
                found["top5_percent"] = self.accuracy.top5_percent
        if agreement := self.agreement:
            found["agreement_percent"] = Figure(agreement.percent, agreement.interval)
            found["margin_weighted_agreement_percent"] = Figure(agreement.weighted_percent, None)
        if self.flips:
            found["flips_p_value"] = Figure(self.flips.p_value, None)
        return found
