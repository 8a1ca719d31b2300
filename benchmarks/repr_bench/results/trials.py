"""What a scenario tried: offered rates, batch sizes, and LoadGen's own account of its run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from repr_bench.statistics.intervals import Figure, percentile, percentile_interval, ratio_interval
from repr_runtime.decoding import JSON_KEY

Scenario = Literal["single-stream", "multi-stream", "server", "offline", "overload"]
Source = Literal["repr-bench", "LoadGen"]
Outcome = Literal["held", "missed", "failed"]

SCENARIOS: tuple[Scenario, ...] = ("single-stream", "multi-stream", "server", "offline")
"""Those that MLPerf has; overload is our own."""
PERCENT: Mapping[Scenario, int] = {
    "single-stream": 90,
    "multi-stream": 99,
    "server": 99,
    "offline": 99,
    "overload": 99,
}
"""Which percentile of the latency of a query MLPerf looks at; offline it looks at none."""

MULTI_STREAM_SAMPLES = 8
"""Samples in a query of the multi-stream scenario (MLPerf inference rules, since v2.0)."""

MLPERF_SECONDS = 600
"""How long MLPerf has a scenario run at least."""

UNANSWERED = -1
"""Stands for the latency of a query that was refused, failed or not answered in time to see."""

TRUSTED_LATENESS = 0.1
"""The share of the bound by which a generator of arrivals may be late, at its 99th percentile."""

PERCENTILES = (50, 90, 99)
Windows = tuple[tuple[int, ...], ...]


def latency_ms(windows_ns: Windows, percent: int) -> Figure | None:
    """A percentile of latencies in ms, with its interval over windows; None without samples.

    A query that was not answered counts as infinitely slow, so that the percentile, or an end
    of its interval, may be infinite.
    """
    windows = [
        np.where(samples == UNANSWERED, math.inf, samples / 1e6)
        for samples in (np.array(window, np.int64) for window in windows_ns if window)
    ]
    if not windows:
        return None
    interval = percentile_interval(windows, percent)
    return Figure(percentile(np.concatenate(windows), percent), interval)


def per_second(rate: float) -> str:
    """``rate`` in a sentence or a table: four digits, and all of those before the point."""
    return f"{rate:,.0f}" if rate >= 1000 else f"{rate:,.4g}"  # 999.96 is 1,000


def latencies_ms(windows_ns: Windows) -> dict[int, Figure]:
    """Each of ``PERCENTILES`` in ms; empty without samples."""
    found = {percent: latency_ms(windows_ns, percent) for percent in PERCENTILES}
    return {percent: figure for percent, figure in found.items() if figure is not None}


def per_second_figure(
    each: int, windows_ns: Windows, seconds: Sequence[float] | None = None
) -> Figure | None:
    """Things a second, ``each`` in every sample, with the interval over windows.

    ``seconds`` is how long each window was, by default the sum of its samples. None without time.
    """
    if seconds is None:
        seconds = [sum(window) / 1e9 for window in windows_ns]
    if not sum(seconds):
        return None
    counts = [each * len(window) for window in windows_ns]
    return Figure(sum(counts) / sum(seconds), ratio_interval(counts, seconds))


@dataclass(frozen=True, kw_only=True)
class RateTrial:
    """One offered rate of the server scenario: queries of one sample, Poisson arrivals.

    ``offered`` is in queries/s, of which ``scheduled`` were to come; those of ``windows_ns``
    came: latencies in ns, from the *scheduled* arrival, in the order and the windows of
    arrival, ``UNANSWERED`` where there was no answer, of which ``refused`` were turned away.
    ``window_seconds`` is the time that each window stands for. ``lateness_ns`` is how late each was sent.
    ``seconds`` passed until the last answer. ``batches`` are pairs: samples run together, and
    how often. A trial is stopped as soon as so many queries have missed the bound that the
    percentile cannot hold any more, whatever came. ``realtime`` says whether the generator had
    real-time priority. ``refusals_ns`` is how long after it was due each refused one was told.
    After an overload ``recovered_seconds`` passed until at most 1 % of those that came from then on
    missed the bound; None if that never came, or there was no overload.
    """

    offered: float
    seed: int
    confirms: bool
    outcome: Outcome = field(metadata={JSON_KEY: "verdict"})
    reason: str
    slo_ms: float
    scheduled: int
    refused: int
    seconds: float
    windows_ns: Windows
    window_seconds: tuple[float, ...]
    lateness_ns: tuple[int, ...]
    batches: tuple[tuple[int, int], ...]
    realtime: bool = field(default=False, metadata={JSON_KEY: "urgent"})
    refusals_ns: tuple[int, ...] = ()
    recovered_seconds: float | None = None

    @property
    def queries(self) -> int:
        """How many queries came."""
        return sum(map(len, self.windows_ns))

    @property
    def stopped(self) -> bool:
        """Whether it was lost before all queries had come, and stopped."""
        return self.queries < self.scheduled

    @property
    def answered(self) -> int:
        """How many of them were answered, in time or not."""
        return sum(sample != UNANSWERED for window in self.windows_ns for sample in window)

    @property
    def achieved(self) -> float:
        """Queries answered a second, until the last answer."""
        return self.answered / self.seconds if self.seconds else 0.0

    @property
    def refused_share(self) -> float:
        """Which part of the queries was turned away, 0 to 1."""
        return self.refused / self.queries if self.queries else 0.0

    @cached_property
    def latency_ms(self) -> Mapping[int, Figure]:
        """Each of ``PERCENTILES`` of the latency in ms, from the scheduled arrival."""
        return latencies_ms(self.windows_ns)

    @cached_property
    def goodput(self) -> Figure | None:
        """Queries a second that were answered within the bound."""
        bound = self.slo_ms * 1e6
        good = (tuple(s for s in window if 0 <= s <= bound) for window in self.windows_ns)
        return per_second_figure(1, tuple(good), self.window_seconds)

    @cached_property
    def late_ms(self) -> float:
        """The 99th percentile of how late the generator sent queries, in ms."""
        return percentile(self.lateness_ns, 99) / 1e6 if self.lateness_ns else 0.0

    @property
    def trusted(self) -> bool:
        """Whether the generator kept its own schedule well enough."""
        return self.late_ms <= self.allowed_late_ms

    @property
    def allowed_late_ms(self) -> float:
        """How late the generator may be, at its 99th percentile."""
        return TRUSTED_LATENESS * self.slo_ms

    @property
    def generator_limited(self) -> bool:
        """Whether the bound was missed, and the generator was late, so that it says nothing of the service.

        A bound that holds in spite of it does: the generator's lateness is in the latencies.
        """
        return self.outcome == "missed" and not self.trusted

    @property
    def mean_batch(self) -> float | None:
        """Samples run together, on average over batches."""
        runs = sum(count for _, count in self.batches)
        return sum(size * count for size, count in self.batches) / runs if runs else None

    def derived(self) -> dict[str, Any]:
        """What a program may want without computing it; nothing in it is infinite."""
        return {
            **{f"p{percent}_ms": plain(self.latency_ms.get(percent)) for percent in PERCENTILES},
            "achieved": self.achieved,
            "goodput": plain(self.goodput),
            "refused_share": self.refused_share,
            "late_p99_ms": self.late_ms,
            "trusted": self.trusted,
            "generator_limited": self.generator_limited,
        }


@dataclass(frozen=True)
class BatchTrial:
    """One batch size of the offline scenario: latencies of calls in ns, by windows."""

    batch: int
    windows_ns: Windows
    window_seconds: tuple[float, ...]

    @property
    def images_per_second(self) -> Figure | None:
        """Images that all instances together finished a second."""
        return per_second_figure(self.batch, self.windows_ns, self.window_seconds)


@dataclass(frozen=True, kw_only=True)
class LoadGenSummary:
    """What LoadGen says of a run of its own, in its own words and by its own formulae.

    ``result`` is ``result_name``'s value: a percentile in ns, or samples a second.
    ``percentiles_ns`` are by LoadGen's formula, ``sorted[int(n·p)]``. ``reasons`` say what
    speaks against a run that is not ``valid``.
    """

    scenario: Scenario
    mode: str
    valid: bool
    result_name: str
    result: float
    percentiles_ns: Mapping[str, float]
    parameters: Mapping[str, str]
    reasons: tuple[str, ...] = ()
    version: str = ""


def plain(figure: Figure | None) -> dict[str, Any] | None:
    """``figure`` in JSON; None for what is not known or has no bound."""
    if figure is None or not math.isfinite(figure.value):
        return None
    interval = figure.interval
    if interval is not None and not all(map(math.isfinite, interval)):
        interval = None
    return {"value": figure.value, "interval": interval}
