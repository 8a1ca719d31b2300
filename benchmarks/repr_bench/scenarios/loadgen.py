"""MLPerf's LoadGen drives our sessions: what it asks is run, what it says is read back.

LoadGen calls into Python from C++, where an exception would end the process: whatever is raised
is kept, its samples count as done, and it is raised again when LoadGen has come to its end.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from repr_bench.errors import UsageError
from repr_bench.results.scenarios import ScenarioRow
from repr_bench.results.trials import (
    MULTI_STREAM_SAMPLES,
    PERCENT,
    LoadGenSummary,
    Scenario,
    Windows,
)
from repr_bench.scenarios.arrivals import Sample
from repr_bench.scenarios.loadgen_log import (
    DETAIL,
    SCENARIOS,
    TRACE,
    read_loadgen_summary,
    read_trace,
)
from repr_bench.scenarios.realtime import realtime_priority
from repr_bench.scenarios.samples import POOL
from repr_bench.scenarios.system import SystemUnderTest
from repr_runtime.errors import MissingExtraError

if TYPE_CHECKING:
    from repr_runtime import Batcher

_NAMES = {ours: theirs for theirs, ours in SCENARIOS.items()}
_SPARE = 1.2
"""Queries are generated beforehand, for this many times the expected speed."""


@dataclass(frozen=True)
class LoadGenSettings:
    """Of one run: ``expected`` queries a second, and those offered if a server."""

    scenario: Scenario
    seconds: float
    expected: float
    slo_ms: float
    seed: int = 0


class Query(NamedTuple):
    """One sample that LoadGen asks for: its name for the answer, and which of ours it is."""

    id: int
    sample: int


RunIndices = Callable[[Sequence[int]], object]
"""Run the samples of these indices as one batch."""

Issue = Callable[["Answers", Sequence[Query]], None]
"""Have the queries run, and hand in that they are done, then or later."""

OpenIssuer = Callable[[], contextlib.AbstractContextManager[Issue]]


def library() -> Any:
    """The module ``mlperf_loadgen``; raises :class:`MissingExtraError` if it is not installed."""
    try:
        import mlperf_loadgen
    except ImportError as error:
        raise MissingExtraError("--loadgen", "loadgen", "mlperf_loadgen") from error
    return mlperf_loadgen


def measure_with_loadgen(
    lg: Any, ours: ScenarioRow, system: SystemUnderTest, row: ScenarioRow
) -> ScenarioRow:
    """``row`` with the scenario of ``ours``, at the rate that ours found."""
    speed, batch = ours.images_per_second, ours.batch or 1
    expected = speed and speed.value
    if ours.scenario == "server":
        expected = ours.rate
    elif ours.scenario != "offline" and expected is not None:
        expected /= batch
    if expected is None:
        raise UsageError(f"LoadGen was not run: {ours.reason or 'there is no rate to offer'}")
    pool = system.pool
    issuers: dict[Scenario, OpenIssuer] = {
        "server": lambda: served(system.serve, pool.samples),
        "offline": lambda: batches(pool.run, batch, ours.instances),
    }
    options = system.options
    settings = LoadGenSettings(
        ours.scenario, row.seconds, expected, options.slo_ms, seed=options.seed
    )
    issuer = issuers.get(ours.scenario, lambda: stream(pool.run))
    summary, windows, lengths = run_loadgen(lg, settings, issuer, POOL)
    return replace(
        row,
        status="measured",
        reason="",
        inputs=pool.what,
        windows_ns=windows,
        window_seconds=lengths,
        loadgen=summary,
    )


def run_loadgen(
    lg: Any, settings: LoadGenSettings, open_issuer: OpenIssuer, pool: int
) -> tuple[LoadGenSummary, Windows, tuple[float, ...]]:
    """Let LoadGen run ``settings`` on samples 0 to ``pool - 1``, through the issuer that is opened.

    Returns what LoadGen says, and the latencies in its trace, in ns, by windows, and these in seconds.
    Raises what an answer failed with, and :class:`ResultsError` if LoadGen's logs make no sense.
    """
    errors: list[BaseException] = []
    with tempfile.TemporaryDirectory(prefix="repr-bench-loadgen-") as folder:
        answers = Answers(lg, errors)
        with open_issuer() as issue:

            def guarded(samples: Sequence[Any]) -> None:
                try:
                    if not errors:
                        issue(answers, [Query(s.id, s.index) for s in samples])
                        return
                except BaseException as error:  # see above; Ctrl-C too
                    errors.append(error)
                lg.QuerySamplesComplete([lg.QuerySampleResponse(s.id, 0, 0) for s in samples])

            # Queries are never held back, and all samples are in memory all the time.
            sut = lg.ConstructSUT(guarded, lambda: None)
            qsl = lg.ConstructQSL(pool, pool, lambda _indices: None, lambda _indices: None)
            try:
                logs = _log_settings(lg, folder)
                served_by_rate = settings.scenario == "server"
                with realtime_priority() if served_by_rate else contextlib.nullcontext():
                    lg.StartTestWithLogSettings(sut, qsl, _settings(lg, settings), logs)
            finally:
                lg.DestroyQSL(qsl)
                lg.DestroySUT(sut)
        if errors:
            raise errors[0]
        summary = read_loadgen_summary(Path(folder, DETAIL))
        windows = read_trace(Path(folder, TRACE), by_sample=settings.scenario == "offline")
    return summary, *windows


class Answers:
    """Where issuers hand in that queries are done, from any thread."""

    def __init__(self, lg: Any, errors: list[BaseException]) -> None:
        self._lg, self._errors = lg, errors

    def done(self, queries: Sequence[Query], error: BaseException | None = None) -> None:
        """Tell LoadGen that these are done; ``error`` is what they failed with."""
        if error is not None:
            self._errors.append(error)
        responses = [self._lg.QuerySampleResponse(query.id, 0, 0) for query in queries]
        self._lg.QuerySamplesComplete(responses)


@contextlib.contextmanager
def stream(run: RunIndices) -> Iterator[Issue]:
    """Each query is run as one batch, at once: single-stream and multi-stream."""

    def issue(answers: Answers, queries: Sequence[Query]) -> None:
        run([query.sample for query in queries])
        answers.done(queries)

    yield issue


@contextlib.contextmanager
def batches(run: RunIndices, batch: int, instances: int) -> Iterator[Issue]:
    """All is run in batches of ``batch``, by as many threads as there are ``instances``: offline.

    What fills up a last batch is its last sample, again.
    """
    with ThreadPoolExecutor(instances, "repr-bench-loadgen") as threads:

        def work(answers: Answers, queries: Sequence[Query]) -> None:
            indices = [query.sample for query in queries]
            failed: BaseException | None = None
            try:
                run(indices + indices[-1:] * (batch - len(indices)))
            except BaseException as error:
                failed = error
            answers.done(queries, failed)

        def issue(answers: Answers, queries: Sequence[Query]) -> None:
            for begin in range(0, len(queries), batch):
                threads.submit(work, answers, queries[begin : begin + batch])

        yield issue


@contextlib.contextmanager
def served(serve: Callable[[], Batcher], samples: Sequence[Sample]) -> Iterator[Issue]:
    """Each sample goes to a batcher: the server scenario."""
    service = serve()

    def answered(answers: Answers, query: Query, future: Future[Any]) -> None:
        answers.done([query], None if future.cancelled() else future.exception())

    def issue(answers: Answers, queries: Sequence[Query]) -> None:
        for query in queries:
            future = service.submit(samples[query.sample])
            future.add_done_callback(partial(answered, answers, query))

    try:
        yield issue
    finally:
        service.close()


def _settings(lg: Any, settings: LoadGenSettings) -> Any:
    found = lg.TestSettings()
    found.scenario = getattr(lg.TestScenario, _NAMES[settings.scenario])
    found.mode = lg.TestMode.PerformanceOnly
    found.min_duration_ms = round(settings.seconds * 1e3)
    found.min_query_count = 1
    found.qsl_rng_seed = found.sample_index_rng_seed = found.schedule_rng_seed = settings.seed
    percentile = PERCENT[settings.scenario] / 100
    expected_ns = round(1e9 / (settings.expected * _SPARE))
    if settings.scenario == "single-stream":
        found.single_stream_expected_latency_ns = expected_ns
        found.single_stream_target_latency_percentile = percentile
    elif settings.scenario == "multi-stream":
        found.multi_stream_expected_latency_ns = expected_ns
        found.multi_stream_samples_per_query = MULTI_STREAM_SAMPLES
        found.multi_stream_target_latency_percentile = percentile
    elif settings.scenario == "server":
        found.server_target_qps = settings.expected
        found.server_target_latency_ns = round(settings.slo_ms * 1e6)
        found.server_target_latency_percentile = percentile
    else:
        found.offline_expected_qps = settings.expected * _SPARE
    return found


def _log_settings(lg: Any, folder: str) -> Any:
    output = lg.LogOutputSettings()
    output.outdir = folder
    output.copy_summary_to_stdout = output.copy_detail_to_stdout = False
    found = lg.LogSettings()
    found.log_output = output
    found.enable_trace = True
    return found
