"""What Prometheus sees of the service: requests as they end; the rest is read from the batchers when asked.

Several processes that share a port are one service: each writes its counts to a file once a second,
and whichever is asked answers for all, those that have ended included.
"""

import json
import os
import time
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from threading import Event, Thread

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from repr_runtime.decoding import DecodingError, decode
from repr_serve.model import Model
from repr_serve.service import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = tuple(base * scale for scale in (1e-4, 1e-3, 1e-2, 1e-1, 1.0) for base in (1, 2, 5))
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
_EVERY = 1.0  # seconds, in which a process writes its counts
_ALIVE = 5 * _EVERY


@dataclass(frozen=True)
class Requests:
    """How many requests came to an end so; ``counts`` are of ``_SECONDS``, of those that went well."""

    model: str
    protocol: str
    outcome: str
    count: int
    counts: tuple[int, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class ModelCounts:
    """A model's batcher, in one process; ``batches`` are pairs of size and number."""

    name: str
    version: str
    device: str
    precision: str
    started: int
    refused: int
    waiting: int
    running: int
    wait_total: float
    run_total: float
    batches: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Snapshot:
    """All that one process has counted; ``refused_exports`` by model."""

    ready: bool
    requests: tuple[Requests, ...]
    models: tuple[ModelCounts, ...]
    refused_exports: tuple[tuple[str, int], ...]


@dataclass
class _Times:
    """A histogram without a lock: what a request pays is a search and two sums."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_SECONDS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_SECONDS, seconds)] += 1
        self.total += seconds


class Metrics:
    """The counts of one service; ``count`` is called by the thread of its event loop."""

    def __init__(self, service: Service, shared: Path | None = None) -> None:
        """``shared`` is the folder of the processes that are one service; None: there is one."""
        self._service, self._shared = service, shared
        self._requests = Tally[tuple[str, str, str]]()
        self._times: dict[tuple[str, str], _Times] = {}
        self._registry = CollectorRegistry()
        self._registry.register(_Collected(self))
        self._ended = Event()
        if shared is not None:
            Thread(target=self._write_on, name="repr-metrics", daemon=True).start()

    def count(self, model: str, protocol: str, outcome: str, seconds: float) -> None:
        """A request came to its end; ``model`` is "" where there is none of that name."""
        self._requests[model, protocol, outcome] += 1
        if outcome == "ok":
            times = self._times.get((model, protocol))
            if times is None:
                times = self._times.setdefault((model, protocol), _Times())
            times.add(seconds)

    def page(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)

    def snapshot(self) -> Snapshot:
        """What this process has counted up to now."""
        requests = []
        for (model, protocol, outcome), count in dict(self._requests).items():
            times = self._times.get((model, protocol)) if outcome == "ok" else None
            more = () if times is None else (tuple(times.counts), times.total)
            requests.append(Requests(model, protocol, outcome, count, *more))
        return Snapshot(
            self._service.ready,
            tuple(requests),
            tuple(map(_counts_of, self._service.models)),
            tuple(self._service.refused_exports.items()),
        )

    def snapshots(self) -> tuple[list[Snapshot], list[Snapshot]]:
        """Of the processes that are there, and of those that have ended."""
        there, ended = [self.snapshot()], list[Snapshot]()
        others = () if self._shared is None else self._shared.glob("*.json")
        for path in others:
            if path.stem == str(os.getpid()):
                continue
            with suppress(OSError, ValueError, DecodingError):  # it was written by one of us
                late = time.time() - path.stat().st_mtime > _ALIVE
                found: Snapshot = decode(Snapshot, json.loads(path.read_bytes()), path.name)
                (ended if late else there).append(found)
        return there, ended

    def _write_on(self) -> None:
        while not self._ended.wait(_EVERY):
            self.write()

    def write(self) -> None:
        """Write the counts for the other processes."""
        if self._shared is not None:
            path = self._shared / f"{os.getpid()}.json"
            beside = path.with_suffix(".part")
            with suppress(OSError):  # the folder goes when the service ends
                beside.write_text(json.dumps(asdict(self.snapshot())))
                beside.replace(path)

    def close(self) -> None:
        """Write them for the last time."""
        self._ended.set()
        self.write()


def _counts_of(model: Model) -> ModelCounts:
    stats = model.stats()
    return ModelCounts(
        *(model.name, model.version, model.session.device, model.session.precision),
        *(stats.started, stats.refused, stats.waiting, stats.running),
        *(stats.wait_total, stats.run_total, tuple(stats.batches.items())),
    )


class _Collected(Collector):
    """Read when asked for: a request pays nothing for most of it."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        there, ended = self._metrics.snapshots()
        everyone = [*there, *ended]
        ready = float(all(one.ready for one in there))
        yield GaugeMetricFamily("repr_ready", "Whether the service is ready", ready)
        yield from _of_requests([r for one in everyone for r in one.requests])
        refused = Tally[str]()
        for one in everyone:
            refused.update(dict(one.refused_exports))
        exports = CounterMetricFamily(
            "repr_exports_refused", "New exports that were bad and not taken up", labels=("model",)
        )
        for name, count in refused.items():
            exports.add_metric((name,), count)
        yield exports
        yield from _of_now([m for one in there for m in one.models])
        yield from _of_models([m for one in everyone for m in one.models])


def _of_requests(requests: Sequence[Requests]) -> Iterator[Metric]:
    counts = Tally[tuple[str, str, str]]()
    times: dict[tuple[str, str], _Times] = {}
    for r in requests:
        counts[r.model, r.protocol, r.outcome] += r.count
        if r.counts:
            whole = times.setdefault((r.model, r.protocol), _Times())
            whole.counts = [a + b for a, b in zip(whole.counts, r.counts, strict=True)]
            whole.total += r.seconds
    ended = CounterMetricFamily(
        "repr_requests",
        "Requests; outcome is ok, or the kind of the error",
        labels=("model", "protocol", "outcome"),
    )
    for labels, count in counts.items():
        ended.add_metric(labels, count)
    seconds = HistogramMetricFamily(
        "repr_request_seconds",
        "From the request's head to its answer, of those that went well",
        labels=("model", "protocol"),
    )
    bounds = [*map(str, _SECONDS), "+Inf"]
    for names, each in times.items():
        buckets = list(zip(bounds, map(float, accumulate(each.counts)), strict=True))
        seconds.add_metric(names, buckets, each.total)
    yield from (ended, seconds)


def _of_now(models: Iterable[ModelCounts]) -> Iterator[Metric]:
    """What only the processes that are there can say."""
    info = GaugeMetricFamily(
        "repr_model_info", "1 for each model", labels=("model", "version", "device", "precision")
    )
    waiting, running, seen = Tally[str](), Tally[str](), set[tuple[str, ...]]()
    for m in models:
        waiting[m.name] += m.waiting
        running[m.name] += m.running
        labels = (m.name, m.version, m.device, m.precision)
        if labels not in seen:
            info.add_metric(labels, 1)
            seen.add(labels)
    yield info
    for name, words, tally in (
        ("repr_waiting", "Requests that wait for a run", waiting),
        ("repr_running", "Requests that are being run", running),
    ):
        gauge = GaugeMetricFamily(name, words, labels=("model",))
        for model, count in tally.items():
            gauge.add_metric((model,), count)
        yield gauge


def _of_models(models: Sequence[ModelCounts]) -> Iterator[Metric]:
    for name, words, attribute in (
        ("repr_queue_seconds", "Time that requests waited for their run to start", "wait_total"),
        ("repr_compute_seconds", "Time that batches ran", "run_total"),
        ("repr_started", "Requests whose run started", "started"),
        ("repr_refused", "Requests refused by the queue", "refused"),
    ):
        sums: dict[str, float] = {}
        for m in models:
            sums[m.name] = sums.get(m.name, 0) + getattr(m, attribute)
        counter = CounterMetricFamily(name, words, labels=("model",))
        for model, total in sums.items():
            counter.add_metric((model,), total)
        yield counter
    sizes = HistogramMetricFamily("repr_batch_size", "Samples of each run", labels=("model",))
    batches: dict[str, Tally[int]] = {}
    for m in models:
        batches.setdefault(m.name, Tally()).update(dict(m.batches))
    for model, tally in batches.items():
        buckets = [
            (str(float(most)), float(sum(n for size, n in tally.items() if size <= most)))
            for most in _BATCHES
        ]
        buckets.append(("+Inf", float(tally.total())))
        sizes.add_metric((model,), buckets, sum(size * n for size, n in tally.items()))
    yield sizes
