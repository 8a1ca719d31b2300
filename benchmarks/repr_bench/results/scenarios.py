"""What scenarios, LoadGen and the way from JPEG to label took: rows of raw samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np

from repr_bench.results.graph import Graph
from repr_bench.statistics import intervals as statistics
from repr_bench.statistics.intervals import Figure

Scenario = Literal["single-stream", "multi-stream", "server", "offline"]
Source = Literal["repr-bench", "LoadGen"]
Verdict = Literal["held", "missed", "failed"]
Status = Literal["measured", "interrupted", "absent", "failed"]

SCENARIOS: tuple[Scenario, ...] = ("single-stream", "multi-stream", "server", "offline")
PERCENT: Mapping[Scenario, int] = {
    "single-stream": 90,
    "multi-stream": 99,
    "server": 99,
    "offline": 99,
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
    interval = statistics.percentile_interval(windows, percent)
    return Figure(statistics.percentile(np.concatenate(windows), percent), interval)


def per_second(rate: float) -> str:
    """``rate`` in a sentence or a table: four digits, and all of those before the point."""
    return f"{rate:,.0f}" if rate >= 1000 else f"{rate:.4g}"


def _rate(counts: Sequence[int], seconds: Sequence[float]) -> Figure | None:
    """Things a second, with the interval over windows; None without time."""
    if not seconds or sum(seconds) <= 0:
        return None
    return Figure(sum(counts) / sum(seconds), statistics.ratio_interval(counts, seconds))


@dataclass(frozen=True)
class RateTrial:
    """One offered rate of the server scenario: queries of one sample, Poisson arrivals.

    ``offered`` is in queries/s, of which ``scheduled`` were to come; those of ``windows_ns``
    came: latencies in ns, from the *scheduled* arrival, in the order and the windows of
    arrival, ``UNANSWERED`` where there was no answer, of which ``refused`` were turned away.
    ``window_seconds`` is the time that each window stands for. ``lateness_ns`` is how late each was sent.
    ``seconds`` passed until the last answer. ``batches`` are pairs: samples run together, and
    how often. A trial is stopped as soon as so many queries have missed the bound that the
    percentile cannot hold any more, whatever came. ``urgent`` says whether the generator had
    real-time priority.
    """

    offered: float
    seed: int
    confirms: bool
    verdict: Verdict
    reason: str
    slo_ms: float
    scheduled: int
    refused: int
    seconds: float
    windows_ns: Windows
    window_seconds: tuple[float, ...]
    lateness_ns: tuple[int, ...]
    batches: tuple[tuple[int, int], ...]
    urgent: bool = False

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

    def latency_ms(self, percent: int) -> Figure | None:
        """A percentile of the latency, from the scheduled arrival."""
        if percent not in self._latencies:
            self._latencies[percent] = latency_ms(self.windows_ns, percent)
        return self._latencies[percent]

    @cached_property
    def _latencies(self) -> dict[int, Figure | None]:
        """What was asked for before: table, plot and notes ask for the same, and intervals take time."""
        return {}

    @cached_property
    def goodput(self) -> Figure | None:
        """Queries a second that were answered within the bound."""
        bound = self.slo_ms * 1e6
        good = [sum(0 <= sample <= bound for sample in window) for window in self.windows_ns]
        return _rate(good, self.window_seconds)

    @cached_property
    def late_ms(self) -> float:
        """The 99th percentile of how late the generator sent queries, in ms."""
        return statistics.percentile(self.lateness_ns, 99) / 1e6 if self.lateness_ns else 0.0

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
        return self.verdict == "missed" and not self.trusted

    @property
    def mean_batch(self) -> float | None:
        """Samples run together, on average over batches."""
        runs = sum(count for _, count in self.batches)
        return sum(size * count for size, count in self.batches) / runs if runs else None

    def derived(self) -> dict[str, Any]:
        """What a program may want without computing it; nothing in it is infinite."""
        return {
            "p50_ms": _plain(self.latency_ms(50)),
            "p90_ms": _plain(self.latency_ms(90)),
            "p99_ms": _plain(self.latency_ms(99)),
            "achieved": self.achieved,
            "goodput": _plain(self.goodput),
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
        images = [self.batch * len(window) for window in self.windows_ns]
        return _rate(images, self.window_seconds)


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class ScenarioRow:
    """One graph in one scenario, driven by ``source``.

    ``windows_ns`` are latencies of queries in ns, of calls where the scenario is offline;
    ``window_seconds`` is how long each window was. ``batch`` is how many samples a query has;
    in the server scenario, how many are run together at most. ``trials`` are the rates that
    the server scenario tried, in turn, ``batches`` the batch sizes that the offline one tried.
    ``graph`` is the one that ran, with what it gets right.
    """

    label: str
    precision: str | None
    scenario: Scenario
    source: Source
    status: Status
    reason: str = ""
    choice: str = ""
    inputs: str = ""
    instances: int = 1
    batch: int | None = None
    seconds: float = 0.0
    slo_ms: float | None = None
    windows_ns: Windows = ()
    window_seconds: tuple[float, ...] = ()
    steady: bool = True
    trials: tuple[RateTrial, ...] = ()
    batches: tuple[BatchTrial, ...] = ()
    loadgen: LoadGenSummary | None = None
    graph: Graph | None = None

    @property
    def confirmed(self) -> RateTrial | None:
        """The longer run that held the bound; None if there is none."""
        held = [trial for trial in self.trials if trial.confirms and trial.verdict == "held"]
        return held[-1] if held else None

    @property
    def rate(self) -> float | None:
        """The highest offered rate that held the bound, in queries/s, confirmed."""
        return self.confirmed.offered if self.confirmed else None

    @cached_property
    def _next(self) -> RateTrial | None:
        """The lowest rate above the confirmed one that did not hold; of its runs, one on time."""
        missed = [t for t in self.trials if t.verdict == "missed" and t.offered > (self.rate or 0)]
        return min(missed, key=lambda t: (t.offered, not t.trusted), default=None)

    @property
    def next_rate(self) -> float | None:
        """The lowest offered rate above it that did not hold, by the service's own fault."""
        found = self.rate and self._next
        return found.offered if found and not found.generator_limited else None

    @property
    def generator_limit(self) -> str:
        """The sentence that the generator, not the service, bounds the rate; empty if not so."""
        if self.rate is None or self._next is None or not self._next.generator_limited:
            return ""
        return f"at least {per_second(self.rate)} queries/s: the load generator, not the network, is the limit"

    @property
    def queries(self) -> int:
        """How many queries, or calls, the row's figures stand on."""
        if self.confirmed is not None:
            return self.confirmed.queries
        return sum(map(len, self.windows_ns))

    @property
    def measured_seconds(self) -> float:
        """How long they took together."""
        return self.confirmed.seconds if self.confirmed else sum(self.window_seconds)

    @cached_property
    def latency_ms(self) -> Mapping[int, Figure]:
        """p50, p90 and p99 of a query in ms; empty without samples."""
        confirmed = self.confirmed
        found = {
            percent: confirmed.latency_ms(percent)
            if confirmed
            else latency_ms(self.windows_ns, percent)
            for percent in (50, 90, 99)
        }
        return {percent: figure for percent, figure in found.items() if figure is not None}

    @cached_property
    def images_per_second(self) -> Figure | None:
        """Images answered a second; in the server scenario, of those within the bound."""
        if self.confirmed is not None:
            return self.confirmed.goodput
        if self.loadgen is not None and self.scenario in ("server", "offline"):
            seen = _rate([*map(len, self.windows_ns)], self.window_seconds)
            return Figure(self.loadgen.result, seen.interval if seen else None)
        per_query = self.batch or 1
        return _rate([per_query * len(window) for window in self.windows_ns], self.window_seconds)

    def derived(self) -> dict[str, Any]:
        """What a program may want without computing it; nothing in it is infinite."""
        found: dict[str, Any] = {
            f"p{percent}_ms": _plain(figure) for percent, figure in self.latency_ms.items()
        }
        found["images_per_second"] = _plain(self.images_per_second)
        found |= _answers(self.graph)
        if self.scenario == "server" and self.source == "repr-bench":
            found |= {"rate": self.rate, "next_rate": self.next_rate}
            found["generator_limit"] = self.generator_limit or None
        return found


@dataclass(frozen=True)
class StageRow:
    """One graph at one batch size, from JPEG bytes to labels.

    ``stages_ns`` holds, for each of ``stages``, a tuple of samples in ns for each round; the
    samples of one call stand at the same place in all. ``bare_ns`` are calls of the network
    alone, on ready inputs, alternating with them.
    """

    label: str
    precision: str | None
    batch: int | None
    status: Status
    reason: str = ""
    choice: str = ""
    images: str = ""
    stages: tuple[str, ...] = ()
    stages_ns: tuple[Windows, ...] = ()
    bare_ns: Windows = ()
    graph: Graph | None = None

    @cached_property
    def total_ns(self) -> Windows:
        """What each call took from end to end."""
        return tuple(
            tuple(map(sum, zip(*(stage[index] for stage in self.stages_ns), strict=True)))
            for index in range(len(self.bare_ns))
        )

    @property
    def calls(self) -> int:
        """How many calls were timed."""
        return sum(map(len, self.total_ns))

    @cached_property
    def medians_ms(self) -> Mapping[str, Figure]:
        """The median of each stage, of the ``total`` and of the network alone (``bare``)."""
        found = dict(zip(self.stages, self.stages_ns, strict=True))
        found |= {"total": self.total_ns, "bare": self.bare_ns}
        figures = {name: latency_ms(rounds, 50) for name, rounds in found.items()}
        return {name: figure for name, figure in figures.items() if figure is not None}

    @cached_property
    def shares(self) -> Mapping[str, Figure]:
        """Which part of the time each stage takes, 0 to 1."""
        totals = [sum(samples) for samples in self.total_ns]
        if not sum(totals):
            return {}
        found = {}
        for name, rounds in zip(self.stages, self.stages_ns, strict=True):
            times = [sum(samples) for samples in rounds]
            interval = statistics.ratio_interval(times, totals)
            found[name] = Figure(sum(times) / sum(totals), interval)
        return found

    def derived(self) -> dict[str, Any]:
        """What a program may want without computing it."""
        found = {f"{name}_p50_ms": _plain(figure) for name, figure in self.medians_ms.items()}
        found |= {f"{name}_share": _plain(figure) for name, figure in self.shares.items()}
        return found | _answers(self.graph)


class _Row(Protocol):
    def derived(self) -> dict[str, Any]: ...


def with_derived(rows: Sequence[_Row], encoded: Sequence[dict[str, Any]]) -> None:
    """Put the derived figures of ``rows``, and of their trials, into their JSON form."""
    for row, body in zip(rows, encoded, strict=True):
        body["derived"] = row.derived()
        if isinstance(row, ScenarioRow):
            with_derived(row.trials, body["trials"])


def _answers(graph: Graph | None) -> dict[str, Any]:
    return {name: _plain(figure) for name, figure in graph.answers().items()} if graph else {}


def _plain(figure: Figure | None) -> dict[str, Any] | None:
    """``figure`` in JSON; None for what is not known or has no bound."""
    if figure is None or not math.isfinite(figure.value):
        return None
    interval = figure.interval
    if interval is not None and not all(map(math.isfinite, interval)):
        interval = None
    return {"value": figure.value, "interval": interval}
