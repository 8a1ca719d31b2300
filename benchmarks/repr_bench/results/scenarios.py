"""What scenarios, LoadGen and the way from JPEG to label took: rows of raw samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from repr_bench.results.graph import Graph
from repr_bench.results.row import Status
from repr_bench.results.trials import (
    UNANSWERED,
    BatchTrial,
    LoadGenSummary,
    RateTrial,
    Scenario,
    Source,
    Windows,
    latencies_ms,
    latency_ms,
    per_second,
    per_second_figure,
    plain,
)
from repr_bench.statistics.intervals import Figure, ratio_interval


@dataclass(frozen=True, kw_only=True)
class ScenarioRow:
    """One graph in one scenario, driven by ``source``.

    ``windows_ns`` are latencies of queries in ns, of calls where the scenario is offline;
    ``window_seconds`` is how long each window was. ``batch`` is how many samples a query has;
    in the server scenario, how many are run together at most. ``trials`` are the rates that
    the server scenario tried, in turn, ``batches`` the batch sizes that the offline one tried.
    ``graph`` is the one that ran, with what it gets right. ``server`` is what was asked, "" where
    it ran in process. An overload has a trial a round, in process at the rate that holds there.
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
    server: str = ""
    graph: Graph | None = None

    @property
    def confirmed(self) -> RateTrial | None:
        """The longer run that held the bound; None if there is none."""
        held = [trial for trial in self.trials if trial.confirms and trial.outcome == "held"]
        return held[-1] if held else None

    @property
    def rate(self) -> float | None:
        """The highest offered rate that held the bound, in queries/s, confirmed."""
        return self.confirmed.offered if self.confirmed else None

    @cached_property
    def _next(self) -> RateTrial | None:
        """The lowest rate above the confirmed one that did not hold; of its runs, one on time."""
        missed = [t for t in self.trials if t.outcome == "missed" and t.offered > (self.rate or 0)]
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
        return sum(map(len, self._offered))

    @property
    def measured_seconds(self) -> float:
        """How long they took together."""
        if self.scenario == "overload":
            return sum(sum(trial.window_seconds) for trial in self.trials)
        return self.confirmed.seconds if self.confirmed else sum(self.window_seconds)

    @cached_property
    def _offered(self) -> Windows:
        """Of an overload the windows of all rounds, else the row's own."""
        if self.scenario != "overload":
            return self.windows_ns
        return tuple(window for trial in self.trials for window in trial.windows_ns)

    @cached_property
    def refusal_ms(self) -> Figure | None:
        """The 99th percentile of how long refused queries of an overload waited to be told."""
        if self.scenario != "overload":
            return None
        return latency_ms(tuple(t.refusals_ns for t in self.trials), 99)

    @property
    def recovered_seconds(self) -> float | None:
        """The longest of all rounds until nearly all were answered in time again; None: never."""
        found = [trial.recovered_seconds for trial in self.trials]
        known = [seconds for seconds in found if seconds is not None]
        return max(known) if known and len(known) == len(found) else None

    @cached_property
    def latency_ms(self) -> Mapping[int, Figure]:
        """p50, p90 and p99 of a query in ms; empty without samples. Under overload, if answered."""
        if self.scenario == "overload":
            answered = (tuple(s for s in window if s != UNANSWERED) for window in self._offered)
            return latencies_ms(tuple(answered))
        return self.confirmed.latency_ms if self.confirmed else latencies_ms(self.windows_ns)

    @cached_property
    def images_per_second(self) -> Figure | None:
        """Images answered a second; of a server or under overload, of those within the bound."""
        if self.scenario == "overload":
            bound, seconds = (
                1e6 * (self.slo_ms or 0),
                [s for t in self.trials for s in t.window_seconds],
            )
            good = (tuple(s for s in window if 0 <= s <= bound) for window in self._offered)
            return per_second_figure(1, tuple(good), seconds)
        if self.confirmed is not None:
            return self.confirmed.goodput
        if self.loadgen is not None and self.scenario in ("server", "offline"):
            seen = per_second_figure(1, self.windows_ns, self.window_seconds)
            return Figure(self.loadgen.result, seen.interval if seen else None)
        return per_second_figure(self.batch or 1, self.windows_ns, self.window_seconds)

    def derived(self) -> dict[str, Any]:
        """What a program may want without computing it; nothing in it is infinite."""
        found: dict[str, Any] = {
            f"p{percent}_ms": plain(figure) for percent, figure in self.latency_ms.items()
        }
        found["images_per_second"] = plain(self.images_per_second)
        found |= self.graph.answers() if self.graph else {}
        if self.scenario == "server" and self.source == "repr-bench":
            found |= {"rate": self.rate, "next_rate": self.next_rate}
            found["generator_limit"] = self.generator_limit or None
        if self.scenario == "overload" and self.server:
            found["refusal_p99_ms"] = plain(self.refusal_ms)
        return found


def overload_ratio(ours: ScenarioRow, server: ScenarioRow) -> Figure | None:
    """Goodput of the overloaded server over that in process, round by round; None if one lacks it."""
    pairs = zip(*([t.goodput for t in row.trials] for row in (ours, server)), strict=False)
    found = [(good.value, own.value) for own, good in pairs if own and good and own.value]
    if not found or not sum(good for good, _ in found):
        return None
    goods, owns = zip(*found, strict=True)
    return Figure(sum(goods) / sum(owns), ratio_interval(goods, owns))


@dataclass(frozen=True, kw_only=True)
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
            interval = ratio_interval(times, totals)
            found[name] = Figure(sum(times) / sum(totals), interval)
        return found

    def derived(self) -> dict[str, Any]:
        """What a program may want without computing it."""
        found = {f"{name}_p50_ms": plain(figure) for name, figure in self.medians_ms.items()}
        found |= {f"{name}_share": plain(figure) for name, figure in self.shares.items()}
        return found | (self.graph.answers() if self.graph else {})
