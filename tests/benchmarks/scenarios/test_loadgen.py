"""LoadGen: its logs are read, its calls answered, whoever drives it; and the real one, if there."""

import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import loadgen_logs as logs
import pytest
from fake_queue import QueueService

from repr_bench import cli
from repr_bench.errors import ResultsError
from repr_bench.request import ScenarioOptions
from repr_bench.results.file import read_results
from repr_bench.results.trials import RateTrial, Scenario, latency_ms
from repr_bench.scenarios import loadgen
from repr_bench.scenarios.loadgen_log import read_loadgen_summary, read_trace
from repr_bench.scenarios.search import SearchSettings
from repr_runtime import Session
from repr_runtime.errors import MissingExtraError

ArtifactMaker = Callable[..., Path]


def _written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_summary_of_the_server_scenario(tmp_path: Path) -> None:
    found = read_loadgen_summary(_written(tmp_path, "mlperf_log_summary.txt", logs.SERVER).parent)
    assert (found.scenario, found.mode, found.valid) == ("server", "PerformanceOnly", False)
    assert (found.result_name, found.result) == ("Completed samples per second", 190.09)
    percentiles = {"50": 6137985.0, "90": 13556056.0, "99": 23130667.0, "99.9": 26573727.0}
    assert found.percentiles_ns == percentiles
    stated = {"target_qps": "200", "target_latency (ns)": "15000000"}
    assert stated.items() <= found.parameters.items()
    unmet = "Performance constraints not satisfied", "Early stopping not satisfied"
    assert found.reasons == unmet


@pytest.mark.parametrize(
    ("name", "text", "result", "reasons"),
    [
        ("a.txt", logs.SINGLE_STREAM, ("single-stream", True, 5888911), ()),
        ("b.txt", logs.OFFLINE, ("offline", False, 873.137), ("Min duration not satisfied",)),
        (
            *("mlperf_log_detail.txt", logs.MULTI_STREAM_DETAIL),
            *(("multi-stream", False, 5864748), ("Early stopping not satisfied",)),
        ),
    ],
)
def test_logs_of_the_others(
    name: str, text: str, result: tuple[object, ...], reasons: tuple[str, ...], tmp_path: Path
) -> None:
    found = read_loadgen_summary(_written(tmp_path, name, text))
    assert (found.scenario, found.valid, found.result) == result
    assert found.reasons == reasons
    if name == "mlperf_log_detail.txt":
        assert read_loadgen_summary(tmp_path) == found
        assert found.version == "6.0.17 @ d6147c7eb7"
        figures = found.percentiles_ns["50"], found.parameters["samples_per_query"]
        assert figures == (2122881, "8")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        logs.SERVER.replace("Server", "Waiter"),
        logs.SERVER.replace("190.09", "many"),
        logs.SERVER.replace("INVALID", "PERHAPS"),
        logs.SERVER.replace("Completed samples", "Tokens").replace("Scheduled samples", "Words"),
        logs.MULTI_STREAM_DETAIL.replace('"result_validity"', '"x"'),
        logs.MULTI_STREAM_DETAIL[:-30],
        ":::MLLOG 3\n",
    ],
)
def test_what_is_no_log_is_refused(text: str, tmp_path: Path) -> None:
    path = _written(tmp_path, "log.txt", text)
    with pytest.raises(ResultsError, match=r"log\.txt is no summary or detail log"):
        read_loadgen_summary(path)


def test_a_missing_log_is_said(tmp_path: Path) -> None:
    for read, path in (
        (read_loadgen_summary, tmp_path / "none"),
        (read_loadgen_summary, tmp_path),
        (read_trace, tmp_path / "none"),
    ):
        with pytest.raises(ResultsError, match="cannot be read"):
            read(path)
    with pytest.raises(ResultsError, match="holds no samples"):
        read_trace(_written(tmp_path, "trace.json", "{}"))


def test_a_trace_by_query_and_by_sample(tmp_path: Path) -> None:
    path = _written(tmp_path, "trace.json", logs.TRACE)
    windows, seconds = read_trace(path)
    # scheduled at 0.2 and 10.2 ms; the slowest sample counts; the last ends at 24.2 ms
    assert windows == ((3_000_000,), (14_000_000,))
    assert sum(seconds) == pytest.approx(0.024)
    windows, seconds = read_trace(path, by_sample=True)
    assert [ns // 10**6 for window in windows for ns in window] == [2, 3, 13, 14]
    assert sum(seconds) == pytest.approx(0.024)


class FakeLoadGen:
    """Issues ``queries``, lists of samples' indices, and waits until all are answered."""

    def __init__(self, queries: list[list[int]]) -> None:
        self.queries = queries
        self.answered: list[int] = []
        self.settings: Any = None
        self.destroyed: list[str] = []
        self._all = threading.Event()
        names = ("SingleStream", "MultiStream", "Server", "Offline")
        self.TestScenario = SimpleNamespace(**{name: name for name in names})
        self.TestMode = SimpleNamespace(PerformanceOnly="PerformanceOnly")
        self.DestroySUT = lambda _sut: self.destroyed.append("sut")
        self.DestroyQSL = lambda _qsl: self.destroyed.append("qsl")
        self.ConstructSUT = lambda issue, _flush: issue
        self.QuerySampleResponse = lambda name, _data, _size: name
        self.TestSettings = self.LogSettings = self.LogOutputSettings = SimpleNamespace

    def ConstructQSL(self, total: int, fitting: int, load: Any, _unload: Any) -> int:  # noqa: N802
        assert total == fitting
        load([0])
        return total

    def QuerySamplesComplete(self, names: list[int]) -> None:  # noqa: N802
        self.answered += names
        if len(self.answered) == sum(map(len, self.queries)):
            self._all.set()

    def StartTestWithLogSettings(self, issue: Any, _qsl: Any, settings: Any, log: Any) -> None:  # noqa: N802
        self.settings = settings
        name = 0
        for query in self.queries:
            issue([SimpleNamespace(id=name + k, index=index) for k, index in enumerate(query)])
            name += len(query)
        assert self._all.wait(10), "LoadGen would wait for ever"
        folder = Path(log.log_output.outdir)
        _written(folder, "mlperf_log_detail.txt", logs.MULTI_STREAM_DETAIL)
        _written(folder, "mlperf_log_trace.json", logs.TRACE)


def run_issuer(lg: FakeLoadGen, scenario: Scenario, issuer: loadgen.OpenIssuer) -> Any:
    """LoadGen's run of two seconds at 100 queries/s."""
    settings = loadgen.settings_of(lg, scenario, 2.0, 100.0, ScenarioOptions(seed=3))
    return loadgen.run_loadgen(lg, scenario, settings, issuer, 8)


def test_streams_run_each_query_as_one_batch() -> None:
    lg = FakeLoadGen([[0, 1, 2], [3, 1, 0]])
    ran: list[Sequence[int]] = []
    summary, windows, _ = run_issuer(lg, "multi-stream", partial(loadgen.stream, ran.append))
    assert ran == [[0, 1, 2], [3, 1, 0]]
    assert lg.answered == [0, 1, 2, 3, 4, 5]
    assert lg.destroyed == ["qsl", "sut"]
    assert (summary.result, windows) == (5864748, ((3_000_000,), (14_000_000,)))
    set_to = vars(lg.settings)
    assert (set_to["min_duration_ms"], set_to["schedule_rng_seed"]) == (2000, 3)
    assert set_to["multi_stream_samples_per_query"] == 8
    assert set_to["multi_stream_target_latency_percentile"] == 0.99


def test_offline_runs_in_batches_filled_up_with_the_last_sample() -> None:
    lg = FakeLoadGen([[0, 1, 2, 3, 4]])
    ran: list[Sequence[int]] = []
    run_issuer(lg, "offline", partial(loadgen.batches, ran.append, 3, 2))
    assert sorted(ran) == [[0, 1, 2], [3, 4, 4]]
    assert sorted(lg.answered) == [0, 1, 2, 3, 4]
    assert lg.settings.offline_expected_qps > 100


def test_the_server_hands_samples_to_the_batcher_and_drains_it() -> None:
    class Later(QueueService):
        def submit(self, sample: Any, **_: Any) -> Future[Any]:
            self.given.append(sample)
            future: Future[Any] = Future()
            threading.Timer(0.001, partial(future.set_result, {})).start()
            return future

    service, lg = Later(1), FakeLoadGen([[0], [2], [1]])
    run_issuer(lg, "server", partial(loadgen.served, lambda: service, ["a", "b", "c"]))
    assert (service.given, service.closed) == (["a", "c", "b"], [True])
    assert sorted(lg.answered) == [0, 1, 2]
    wanted = {"server_target_qps": 100.0, "server_target_latency_ns": 15_000_000}
    assert wanted.items() <= vars(lg.settings).items()


@pytest.mark.parametrize("error", [ArithmeticError("it broke"), KeyboardInterrupt()])
def test_no_error_goes_through_loadgen(error: BaseException) -> None:
    run, lg = Mock(side_effect=error), FakeLoadGen([[0], [1], [2]])
    with pytest.raises(type(error)):
        run_issuer(lg, "multi-stream", partial(loadgen.stream, run))
    run.assert_called_once()  # the rest is waved through
    assert lg.answered == [0, 1, 2]


def test_an_error_in_a_thread_is_raised_at_the_end() -> None:
    run, lg = Mock(side_effect=ArithmeticError("it broke")), FakeLoadGen([[0, 1, 2]])
    with pytest.raises(ArithmeticError):
        run_issuer(lg, "offline", partial(loadgen.batches, run, 2, 1))
    assert sorted(lg.answered) == [0, 1, 2]


def test_where_it_is_not_installed_the_way_out_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'repr-deploy\[loadgen\]'"):
        loadgen.library()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("mlperf_loadgen") is None, reason="mlcommons-loadgen is not installed"
)
def test_loadgen_and_we_agree(
    make_artifact: ArtifactMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that takes as long as a sleep takes that long whoever drives it.

    The fastest calls are compared, since a busy machine makes any number of them slow; and what we read
    of LoadGen's trace must be what LoadGen itself made of it.
    """
    real = Session.run

    def slow(self: Session, *arrays: Any, **named: Any) -> Any:
        time.sleep(0.02)
        return real(self, *arrays, **named)

    def at_twenty_a_second(
        attempt: Any, _first: float, _plan: Any, trials: list[RateTrial]
    ) -> None:
        trials.append(replace(attempt(20.0, True), outcome="held"))

    monkeypatch.setattr(Session, "run", slow)
    monkeypatch.setattr("repr_bench.scenarios.server.search", at_twenty_a_second)
    monkeypatch.setattr(SearchSettings, "lasting", lambda *_, **__: (0.5, 10))
    path = tmp_path / "r.json"
    command = [str(make_artifact()), "--scenario", "all", "--loadgen", "--seconds", "0.5"]
    command += ["--batch", "1", "--limit", "20"]
    more = ["--max-batch", "8", "--instances", "1", "--slo", "50ms", "--json", str(path)]
    assert cli.main([*command, *more, "--threads", "1", "--quiet"]) == 0
    rows = {(row.scenario, row.source): row for row in read_results(path).scenarios}
    assert len(rows) == 8
    for scenario in ("single-stream", "multi-stream", "server"):
        ours, theirs = rows[scenario, "repr-bench"], rows[scenario, "LoadGen"]
        fastest: Any = latency_ms(theirs.windows_ns, 1)
        assert fastest.value >= 20
        if scenario != "server":
            mine: Any = latency_ms(ours.windows_ns, 1)
            assert fastest.value == pytest.approx(mine.value, rel=0.5)
        assert theirs.loadgen is not None
        assert theirs.loadgen.version.startswith("6.")
        samples = sorted(ns for window in theirs.windows_ns for ns in window)
        assert theirs.loadgen.percentiles_ns["50"] == samples[len(samples) // 2]
        assert theirs.loadgen.percentiles_ns["90"] == samples[int(len(samples) * 0.9)]
        assert sum(theirs.window_seconds) >= 0.35
    rates: Any = {which: row.images_per_second for which, row in rows.items()}
    assert 6 < rates["server", "LoadGen"].value < 60  # about ten Poisson arrivals in half a second
    for source in ("repr-bench", "LoadGen"):
        assert 8 / 0.2 < rates["offline", source].value <= 8 / 0.02
    theirs = rows["offline", "LoadGen"]
    assert theirs.loadgen is not None
    ours_of_theirs = theirs.queries / sum(theirs.window_seconds)
    assert theirs.loadgen.result == pytest.approx(ours_of_theirs, rel=0.02)
