"""One graph at one batch size: its raw samples, and the figures that they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from repr_bench.results.graph import Graph
from repr_bench.statistics import verdict
from repr_bench.statistics.intervals import (
    Figure,
    Interval,
    percentile,
    percentile_interval,
    ratio_interval,
)

PERCENTILES = (50, 90, 99)
UNIT_NS = 1e6
"""Nanoseconds in the unit of shown latencies, the millisecond."""

Status = Literal["measured", "interrupted", "absent", "failed"]
"""``absent``: the artifact has no such graph. ``interrupted``: fewer samples than asked for."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One graph at one batch size: raw samples in ns, a tuple for each round.

    ``reason`` says why a row that is not ``measured`` is not. Where an artifact fails as a
    whole, ``precision`` and ``batch`` are None. ``inputs`` says what was fed.
    """

    label: str
    precision: str | None
    batch: int | None
    status: Status
    reason: str = ""
    graph: Graph | None = None
    inputs: str = ""
    warmup_ns: tuple[int, ...] = ()
    steady: bool = False
    rounds_ns: tuple[tuple[int, ...], ...] = ()

    @property
    def samples(self) -> int:
        """How many calls were timed."""
        return sum(map(len, self.rounds_ns))

    @property
    def emulated(self) -> bool:
        """Whether the device lacks this precision, so that the latency says nothing."""
        on_cpu = self.graph is not None and self.graph.device == "cpu"
        return on_cpu and self.precision in ("fp16", "bf16")

    @cached_property
    def latency_ms(self) -> Mapping[int, Figure]:
        """Each of ``PERCENTILES`` of the latency in milliseconds; empty without samples."""
        if not self.samples:
            return {}
        pooled = [sample for samples in self.rounds_ns for sample in samples]
        found = {}
        for percent in PERCENTILES:
            interval = percentile_interval(self.rounds_ns, percent)
            found[percent] = Figure(
                percentile(pooled, percent) / UNIT_NS,
                interval and Interval(interval.low / UNIT_NS, interval.high / UNIT_NS),
            )
        return found

    @cached_property
    def images_per_second(self) -> Figure | None:
        """Images timed over the time they took; None without samples."""
        if not self.batch or not self.samples:
            return None
        images = [self.batch * len(samples) for samples in self.rounds_ns]
        seconds = [sum(samples) / 1e9 for samples in self.rounds_ns]
        interval = ratio_interval(images, seconds)
        return Figure(sum(images) / sum(seconds), interval)

    @cached_property
    def resolution_percent(self) -> float | None:
        """The least change that a comparison would show; see ``verdict.resolution_percent``."""
        return verdict.resolution_percent(self.rounds_ns)

    @property
    def noisy(self) -> bool:
        """Whether a change of ``verdict.NOISY_PERCENT`` might not show."""
        return (self.resolution_percent or 0.0) > verdict.NOISY_PERCENT / 2
