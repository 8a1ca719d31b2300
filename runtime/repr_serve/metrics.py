"""What Prometheus sees of the service: requests as they end; the rest is read from the batchers when asked."""

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from repr_runtime import BatcherStats
from repr_serve.model import Model
from repr_serve.service import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = tuple(base * scale for scale in (1e-4, 1e-3, 1e-2, 1e-1, 1.0) for base in (1, 2, 5))
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class _Times:
    """A histogram for one thread, without a lock: what a request pays is a search and two sums."""

    def __init__(self) -> None:
        self.counts, self.total = [0] * (len(_SECONDS) + 1), 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_SECONDS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        bounds = [*map(str, _SECONDS), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))


class Metrics:
    """One registry for one service; ``count`` is called by the thread of its event loop."""

    def __init__(self, service: Service) -> None:
        self._requests = Tally[tuple[str, str, str]]()
        self._times: dict[tuple[str, str], _Times] = {}
        self._registry = CollectorRegistry()
        self._registry.register(_Requests(self._requests, self._times))
        self._registry.register(_Models(service))

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


class _Requests(Collector):
    def __init__(
        self, requests: Tally[tuple[str, str, str]], times: dict[tuple[str, str], _Times]
    ) -> None:
        self._requests, self._times = requests, times

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "repr_requests",
            "Requests; outcome is ok, or the kind of the error",
            labels=("model", "protocol", "outcome"),
        )
        for labels, count in dict(self._requests).items():
            requests.add_metric(labels, count)
        seconds = HistogramMetricFamily(
            "repr_request_seconds",
            "From the request's head to its answer, of those that went well",
            labels=("model", "protocol"),
        )
        for names, times in dict(self._times).items():
            seconds.add_metric(names, times.buckets(), times.total)
        yield from (requests, seconds)


class _Models(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Read from the models' own counts: a request pays nothing for them."""
        service = self._service
        yield GaugeMetricFamily("repr_ready", "Whether the service is ready", float(service.ready))
        refused = CounterMetricFamily(
            "repr_exports_refused", "New exports that were bad and not taken up", labels=("model",)
        )
        for name, count in service.refused_exports.items():
            refused.add_metric((name,), count)
        yield refused
        models = service.models
        info = GaugeMetricFamily(
            "repr_model_info",
            "1 for each model",
            labels=("model", "version", "device", "precision"),
        )
        for m in models:
            info.add_metric((m.name, m.version, m.session.device, m.session.precision), 1)
        yield info
        yield from _from_stats([(model, model.stats()) for model in models])


def _from_stats(stats: list[tuple[Model, BatcherStats]]) -> Iterator[Metric]:
    queued = CounterMetricFamily(
        "repr_queue_seconds", "Time that requests waited for their run to start", labels=("model",)
    )
    computing = CounterMetricFamily(
        "repr_compute_seconds", "Time that batches ran", labels=("model",)
    )
    started = CounterMetricFamily("repr_started", "Requests whose run started", labels=("model",))
    full = CounterMetricFamily("repr_refused", "Requests refused by the queue", labels=("model",))
    waiting = GaugeMetricFamily("repr_waiting", "Requests that wait for a run", labels=("model",))
    running = GaugeMetricFamily("repr_running", "Requests that are being run", labels=("model",))
    sizes = HistogramMetricFamily("repr_batch_size", "Samples of each run", labels=("model",))
    for model, s in stats:
        labels = (model.name,)
        queued.add_metric(labels, s.wait_total)
        computing.add_metric(labels, s.run_total)
        started.add_metric(labels, s.started)
        full.add_metric(labels, s.refused)
        waiting.add_metric(labels, s.waiting)
        running.add_metric(labels, s.running)
        buckets = [
            (str(float(most)), float(sum(n for size, n in s.batches.items() if size <= most)))
            for most in _BATCHES
        ]
        buckets.append(("+Inf", float(sum(s.batches.values()))))
        sizes.add_metric(labels, buckets, sum(size * n for size, n in s.batches.items()))
    yield from (queued, computing, started, full, waiting, running, sizes)
