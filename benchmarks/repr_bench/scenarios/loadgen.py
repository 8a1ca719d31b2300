"""MLPerf's LoadGen drives our sessions: what it asks is run, what it says is read back.

LoadGen calls into Python from C++, where an exception would end the process: whatever is raised
is kept, its samples count as done, and it is raised again when LoadGen has come to its end.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repr_bench.errors import UsageError
from repr_bench.request import ScenarioOptions
from repr_bench.results.scenarios import ScenarioRow
from repr_bench.results.trials import (
    MULTI_STREAM_SAMPLES,
    PERCENT,
    LoadGenSummary,
    Scenario,
    Windows,
)
from repr_bench.scenarios.arrivals import Sample, realtime_priority
from repr_bench.scenarios.loadgen_log import (
    DETAIL,
    SCENARIOS,
    TRACE,
    read_loadgen_summary,
    read_trace,
)
from repr_bench.scenarios.samples import POOL
from repr_bench.scenarios.system import SystemUnderTest
from repr_runtime.errors import MissingExtraError

if TYPE_CHECKING:
    from repr_runtime import Batcher

_NAMES = {ours: theirs for theirs, ours in SCENARIOS.items()}
_SPARE = 1.2
"""Queries are generated beforehand, for this many times the expected speed."""


Samples = Sequence[Any]
"""LoadGen's own: ``id`` for the answer, and ``index``, which of ours it is."""

Done = Callable[[Samples, BaseException | None], None]
"""Told which samples are done, and what they failed with, from any thread."""

Issue = Callable[[Samples], None]
"""Have a query's samples run, and tell that they are done, then or later."""

OpenIssuer = Callable[[Done], contextlib.AbstractContextManager[Issue]]

RunIndices = Callable[[Sequence[int]], object]
"""Run the samples of these indices as one batch."""


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
        "server": partial(served, system.batcher, pool.samples),
        "offline": partial(batches, pool.run, batch, ours.instances),
    }
    settings = settings_of(lg, ours.scenario, row.seconds, expected, system.options)
    issuer = issuers.get(ours.scenario, partial(stream, pool.run))
    summary, windows, lengths = run_loadgen(lg, ours.scenario, settings, issuer, POOL)
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
    lg: Any, scenario: Scenario, settings: Any, open_issuer: OpenIssuer, pool: int
) -> tuple[LoadGenSummary, Windows, tuple[float, ...]]:
    """Let LoadGen run ``settings`` on samples 0 to ``pool - 1``, through the issuer that is opened.

    Returns what LoadGen says, and the latencies in its trace, in ns, by windows, and these in seconds.
    Raises what an answer failed with, and :class:`ResultsError` if LoadGen's logs make no sense.
    """
    errors: list[BaseException] = []

    def done(samples: Samples, error: BaseException | None) -> None:
        if error is not None:
            errors.append(error)
        lg.QuerySamplesComplete([lg.QuerySampleResponse(s.id, 0, 0) for s in samples])

    with tempfile.TemporaryDirectory(prefix="repr-bench-loadgen-") as folder:
        logs = lg.LogSettings()
        logs.log_output = lg.LogOutputSettings()
        logs.log_output.outdir = folder
        logs.log_output.copy_summary_to_stdout = logs.log_output.copy_detail_to_stdout = False
        logs.enable_trace = True
        with open_issuer(done) as issue:

            def guarded(samples: Samples) -> None:
                try:
                    if errors:
                        done(samples, None)
                    else:
                        issue(samples)
                except BaseException as error:  # see above; Ctrl-C too
                    done(samples, error)

            # Queries are never held back, and all samples are in memory all the time.
            sut = lg.ConstructSUT(guarded, lambda: None)
            qsl = lg.ConstructQSL(pool, pool, lambda _indices: None, lambda _indices: None)
            try:
                with realtime_priority() if scenario == "server" else contextlib.nullcontext():
                    lg.StartTestWithLogSettings(sut, qsl, settings, logs)
            finally:
                lg.DestroyQSL(qsl)
                lg.DestroySUT(sut)
        if errors:
            raise errors[0]
        summary = read_loadgen_summary(Path(folder, DETAIL))
        windows = read_trace(Path(folder, TRACE), by_sample=scenario == "offline")
    return summary, *windows


@contextlib.contextmanager
def stream(run: RunIndices, done: Done) -> Iterator[Issue]:
    """Each query is run as one batch, at once: single-stream and multi-stream."""

    def issue(samples: Samples) -> None:
        run([sample.index for sample in samples])
        done(samples, None)

    yield issue


@contextlib.contextmanager
def batches(run: RunIndices, batch: int, instances: int, done: Done) -> Iterator[Issue]:
    """All is run in batches of ``batch``, by as many threads as there are ``instances``: offline.

    What fills up a last batch is its last sample, again.
    """
    with ThreadPoolExecutor(instances, "repr-bench-loadgen") as threads:

        def work(samples: Samples) -> None:
            indices = [sample.index for sample in samples]
            failed: BaseException | None = None
            try:
                run(indices + indices[-1:] * (batch - len(indices)))
            except BaseException as error:
                failed = error
            done(samples, failed)

        def issue(samples: Samples) -> None:
            for begin in range(0, len(samples), batch):
                threads.submit(work, samples[begin : begin + batch])

        yield issue


@contextlib.contextmanager
def served(serve: Callable[[], Batcher], pool: Sequence[Sample], done: Done) -> Iterator[Issue]:
    """Each sample goes to a batcher: the server scenario."""
    service = serve()

    def answered(sample: Any, future: Future[Any]) -> None:
        done([sample], None if future.cancelled() else future.exception())

    def issue(samples: Samples) -> None:
        for sample in samples:
            future = service.submit(pool[sample.index])
            future.add_done_callback(partial(answered, sample))

    try:
        yield issue
    finally:
        service.close()


def settings_of(
    lg: Any, scenario: Scenario, seconds: float, expected: float, options: ScenarioOptions
) -> Any:
    """LoadGen's settings of one run: ``expected`` queries a second, and those offered if a server."""
    found = lg.TestSettings()
    found.scenario = getattr(lg.TestScenario, _NAMES[scenario])
    found.mode = lg.TestMode.PerformanceOnly
    found.min_duration_ms = round(seconds * 1e3)
    found.min_query_count = 1
    found.qsl_rng_seed = found.sample_index_rng_seed = found.schedule_rng_seed = options.seed
    percentile = PERCENT[scenario] / 100
    expected_ns = round(1e9 / (expected * _SPARE))
    if scenario == "single-stream":
        found.single_stream_expected_latency_ns = expected_ns
        found.single_stream_target_latency_percentile = percentile
    elif scenario == "multi-stream":
        found.multi_stream_expected_latency_ns = expected_ns
        found.multi_stream_samples_per_query = MULTI_STREAM_SAMPLES
        found.multi_stream_target_latency_percentile = percentile
    elif scenario == "server":
        found.server_target_qps = expected
        found.server_target_latency_ns = round(options.slo_ms * 1e6)
        found.server_target_latency_percentile = percentile
    else:
        found.offline_expected_qps = expected * _SPARE
    return found
