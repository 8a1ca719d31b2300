"""What others took for the same work in the same run, and how many times as fast ours is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from repr_bench.results.graph import Graph
from repr_bench.results.row import Status
from repr_bench.results.trials import latencies_ms, per_second_figure
from repr_bench.statistics.intervals import Figure, Interval, middle, percentile, ratio_interval
from repr_runtime.decoding import JSON_KEY

OURS = "ours"
Measure = Literal["latency", "throughput", "on-gpu"]
MEASURES: tuple[Measure, ...] = ("latency", "throughput")
"""Of every peer. On a GPU there is also the latency from inputs to outputs that both lie there."""
ALL_MEASURES: tuple[Measure, ...] = (*MEASURES, "on-gpu")
RESAMPLES = 2000

RATIO_FORMULA = (
    "times as fast: the peer's time for an image over ours, above 1 where ours is faster. In each "
    "round the median of the peer's samples over the median of ours; of the rounds the geometric "
    "mean, with a bootstrap interval over rounds, both drawn together (2,000 resamples). Over "
    "networks the geometric mean, each network's rounds drawn on their own."
)


@dataclass(frozen=True)
class SameAnswers:
    """On how many of ``images`` a peer has our top-1 (ties that rounding decides count as same)."""

    same: int
    images: int


@dataclass(frozen=True, kw_only=True)
class PeerRow:
    """One peer (or ``ours``) on one graph at one batch size.

    ``rounds_ns`` are raw samples, a tuple for each round; in each sample ``images`` went
    through: the batch for a latency (``on-gpu``: without the copies there and back), a burst of
    batches, as many at once as the peer takes, for a throughput. ``settings`` says how the peer
    runs. Peers of one (label, precision, measure) were timed in the same rounds, ours among them.
    A ``server`` was asked over a network; ``graph`` is the artifact's, with what this one got
    right of it, where that was seen.
    """

    label: str
    precision: str
    measure: Measure
    batch: int | None = None
    peer: str
    status: Status
    reason: str = ""
    settings: str = ""
    same_answers: SameAnswers | None = field(default=None, metadata={JSON_KEY: "agreement"})
    images: int = 0
    steady: bool = False
    rounds_ns: tuple[tuple[int, ...], ...] = ()
    server: bool = False
    graph: Graph | None = field(default=None, metadata={JSON_KEY: "answered"})

    @property
    def ran(self) -> tuple[str, str]:
        """What it ran: label and precision."""
        return self.label, self.precision

    @cached_property
    def log_ns(self) -> NDArray[np.float64]:
        """The logarithm of the median time for an image, a value a round."""
        medians = [percentile(samples, 50) for samples in self.rounds_ns]
        return np.log(np.array(medians) / self.images)

    @cached_property
    def latency_ms(self) -> Mapping[int, Figure]:
        """Each of ``PERCENTILES`` of the samples in ms; empty without samples."""
        return latencies_ms(self.rounds_ns)

    @cached_property
    def images_per_second(self) -> Figure | None:
        """Images over the time they took; None without samples."""
        return per_second_figure(self.images, self.rounds_ns)


@dataclass(frozen=True)
class Ratio:
    """How many times as fast ours is, on one network; ``logs`` are the rounds' logarithms."""

    ours: PeerRow
    peer: PeerRow
    logs: tuple[float, ...]

    @cached_property
    def figure(self) -> Figure:
        """The geometric mean over the rounds."""
        return geometric_mean((self.logs,))


def ratio(ours: PeerRow, peer: PeerRow) -> Ratio | None:
    """Of two rows that were measured in the same rounds; None if one of them was not."""
    rounds = min(len(ours.rounds_ns), len(peer.rounds_ns))
    if not rounds or {ours.status, peer.status} != {"measured"}:
        return None
    logs = peer.log_ns[:rounds] - ours.log_ns[:rounds]
    return Ratio(ours, peer, tuple(map(float, logs)))


def among(rows: Sequence[PeerRow], *, servers: bool) -> tuple[PeerRow, ...]:
    """Ours and the servers, or ours and the libraries; none of it where there are only the others."""
    found = tuple(row for row in rows if row.server == servers or row.peer == OURS)
    alone = all(row.peer == OURS for row in found)
    return () if alone and (servers or len(found) < len(rows)) else found


def added_us(ours: PeerRow, peer: PeerRow) -> Figure | None:
    """By how many microseconds the peer's median is above ours, on the mean of the rounds."""
    rounds = min(len(ours.rounds_ns), len(peer.rounds_ns))
    if not rounds or {ours.status, peer.status} != {"measured"}:
        return None
    medians = [[percentile(s, 50) for s in row.rounds_ns[:rounds]] for row in (ours, peer)]
    more = [(theirs - own) / 1e3 for own, theirs in zip(*medians, strict=True)]
    return Figure(sum(more) / rounds, ratio_interval(more, [1.0] * rounds))


@dataclass(frozen=True)
class Overall:
    """A peer over all networks, a ratio each: their geometric mean, and the least of them."""

    ratios: tuple[Ratio, ...]

    @cached_property
    def mean(self) -> Figure:
        """The geometric mean of the networks' ratios."""
        return geometric_mean(tuple(found.logs for found in self.ratios))

    @cached_property
    def least(self) -> Ratio:
        """Where ours does worst."""
        return min(self.ratios, key=lambda found: found.figure.value)


def ratios_at(rows: Sequence[PeerRow], measure: Measure, peer: str, batch: int) -> list[Ratio]:
    """Ours against ``peer`` at that batch size, a ratio for each graph where both were measured."""
    chosen = [row for row in rows if (row.measure, row.batch) == (measure, batch)]
    return _paired({(row.ran, row.peer): row for row in chosen}, peer)


def ratios_to_best(
    rows: Sequence[PeerRow], measure: Measure, precision: str, batch: int
) -> list[Ratio]:
    """Ours against the fastest peer of each network, at that batch size: a ratio for each.

    No servers, and not ours on other devices.
    """
    best: dict[str, PeerRow] = {}
    ours: dict[str, PeerRow] = {}
    for row in rows:
        if (row.measure, row.precision, row.batch) != (measure, precision, batch) or row.server:
            continue
        if row.peer == OURS:
            ours[row.label] = row
        elif row.status == "measured" and not row.peer.startswith(f"{OURS}-"):
            before = best.setdefault(row.label, row)
            if row.log_ns.mean() < before.log_ns.mean():
                best[row.label] = row
    found = (ratio(ours[label], peer) for label, peer in best.items() if label in ours)
    return [one for one in found if one is not None]


def best_ratios(rows: Sequence[PeerRow], peer: str) -> list[Ratio]:
    """Likewise in throughput, each at its batch size with the most images a second."""
    best: dict[tuple[tuple[str, str], str], PeerRow] = {}
    for row in rows:
        if row.measure == "throughput" and row.status == "measured":
            before = best.setdefault((row.ran, row.peer), row)
            if row.log_ns.mean() < before.log_ns.mean():
                best[row.ran, row.peer] = row
    return _paired(best, peer)


def _paired(rows: Mapping[tuple[tuple[str, str], str], PeerRow], peer: str) -> list[Ratio]:
    found = []
    for (graph, name), row in rows.items():
        ours = rows.get((graph, OURS))
        if name == peer and ours is not None and (one := ratio(ours, row)) is not None:
            found.append(one)
    return found


@lru_cache(maxsize=256)  # the same ratio stands in the plot, the table and the sentences
def geometric_mean(networks: tuple[tuple[float, ...], ...]) -> Figure:
    """Over networks, of which each has the logarithms of its rounds, drawn on their own."""
    generator, drawn = np.random.default_rng(0), []
    value = math.exp(sum(sum(logs) / len(logs) for logs in networks) / len(networks))
    for logs in networks:
        if (rounds := len(logs)) < 2:
            return Figure(value, None)
        chosen = generator.multinomial(rounds, [1 / rounds] * rounds, size=RESAMPLES)
        drawn.append(chosen @ np.array(logs) / rounds)
    low, high = middle(np.mean(drawn, axis=0))
    return Figure(value, Interval(math.exp(low), math.exp(high)))
