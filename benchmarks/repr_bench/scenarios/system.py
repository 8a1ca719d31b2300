"""The system under test, as MLPerf calls it: one graph in an open session, and what is asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from repr_bench.request import Listener, Request, ScenarioOptions
from repr_bench.results.graph import Graph
from repr_bench.results.scenarios import ScenarioRow
from repr_bench.results.trials import MULTI_STREAM_SAMPLES, Scenario
from repr_bench.scenarios.samples import SamplePool

if TYPE_CHECKING:
    from repr_bench.remote.protocol import OpenLoop
    from repr_models.data.images import Images
    from repr_runtime import Batcher, Session

QUEUE_LIMIT = 4096
"""Samples that may wait in the batcher: far more than any bound leaves time for."""

STREAMS = {"single-stream": 1, "multi-stream": MULTI_STREAM_SAMPLES}
"""The scenarios of one query at a time, and how many samples it has."""


@dataclass(frozen=True)
class SystemUnderTest:
    """The graph that ``session`` runs, ``images`` to feed it (None: noise), and who hears of it.

    ``server`` is what the session asks, where it runs nothing itself.
    """

    label: str
    precision: str
    graph: Graph
    session: Session
    images: Images | None
    request: Request
    options: ScenarioOptions
    listener: Listener
    server: str = ""

    @cached_property
    def pool(self) -> SamplePool:
        """What queries are made of. Raises :class:`UsageError` where nothing can be fed."""
        return SamplePool(self.session, self.images)

    def serve(self, seconds: float | None = None) -> Batcher | OpenLoop:
        """A batcher, or the server, which is told that an answer is of use for ``seconds``."""
        from repr_bench.remote.session import RemoteSession

        remote: object = self.session
        if isinstance(remote, RemoteSession):
            return remote.open_loop(self.pool.samples, seconds)
        return self.batcher()

    def batcher(self) -> Batcher:
        """One in which a batch starts as soon as an instance is free, with all who wait."""
        from repr_runtime import Batcher

        most = self.options.max_batch
        limit = max(QUEUE_LIMIT, most)
        return Batcher(self.session, max_batch=most, max_delay=0.0, queue_limit=limit)

    def row(self, scenario: Scenario) -> ScenarioRow:
        """The row of ``scenario`` as it is until something was measured for it."""
        served = scenario in ("server", "overload")
        return ScenarioRow(
            label=self.label,
            precision=self.precision,
            scenario=scenario,
            source="repr-bench",
            status="interrupted",
            reason="interrupted",
            choice=self.session.choice,
            instances=1 if scenario in STREAMS else self.session.instances,
            batch=self.options.max_batch if served else STREAMS.get(scenario),
            seconds=self.request.plan.seconds,
            slo_ms=self.options.slo_ms if served else None,
            server=self.server,
            graph=self.graph,
        )
