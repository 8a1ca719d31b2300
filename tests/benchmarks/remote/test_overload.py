"""Scenarios of a server: those of a session, and more than it can do."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from oip_server import json_server
from scenario_rows import HELD
from serving import free_port, running

from repr_bench.measuring.measure import Plan
from repr_bench.remote.session import RemoteSession
from repr_bench.report.csv import to_csv
from repr_bench.report.sections.scenarios import result_text
from repr_bench.request import Remote, Request, ScenarioOptions, Server
from repr_bench.results.file import from_json, to_json
from repr_bench.run import run
from repr_bench.scenarios.overload import _recovered
from repr_bench.scenarios.run import with_scenarios
from repr_runtime import load
from repr_runtime.errors import DeadlineExceededError, QueueFullError
from repr_serve import ModelOptions, Settings, Source
from repr_serve.server.worker import Application

PLAN = Plan(seconds=0.02, samples=2, rounds=2, warmup_seconds=0.001)
pytestmark = pytest.mark.usefixtures("ten_images")


@pytest.fixture
def folder(make_artifact: Callable[..., Path]) -> Path:
    return make_artifact(golden=True)


@pytest.fixture
def urls(folder: Path) -> Iterator[tuple[str, str]]:
    settings = Settings(
        sources=[Source("linear", folder)],
        models=ModelOptions(device="cpu", instances=1, max_batch=8),
        grpc_port=free_port(),
    )
    with running(Application(settings), lifespan="on") as port:
        yield f"http://127.0.0.1:{port}", f"grpc://127.0.0.1:{settings.grpc_port}"


def asked(folder: Path, *urls: str) -> Request:
    remote = Remote(tuple(map(Server.parse, urls)), 2)
    return Request((str(folder),), batches=(1,), device="cpu", threads=1, plan=PLAN, remote=remote)


def answered(future: "Future[Any]") -> Any:
    return future.result(10)


@pytest.mark.parametrize("way", [0, 1], ids=["http", "grpc"])
def test_queries_of_an_open_loop_are_answered_each_its_own(
    folder: Path, urls: tuple[str, str], way: int
) -> None:
    request = asked(folder, urls[way])
    samples = [np.full((3, 32, 32), value, np.float32) for value in range(40)]
    with load(folder, device="cpu") as session:
        remote = RemoteSession(session, "linear", request.remote.servers[0], request)
        loop = remote.open_loop(samples, 20.0)
        futures = [loop.submit(sample) for sample in samples]
        found = [answered(future)["logits"] for future in futures]
        loop.close()
        if way == 0:  # gRPC's own deadline is not so exact
            loop = remote.open_loop(samples, 1e-6)
            with pytest.raises((DeadlineExceededError, QueueFullError)):
                answered(loop.submit(samples[0]))
            loop.close()
        remote.close()
    expected = [np.arange(10.0)[None] * value for value in range(40)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_connections_are_kept(folder: Path) -> None:
    sample = np.full((3, 32, 32), 1, np.float32)
    with json_server() as url, load(folder, device="cpu") as session:
        request = asked(folder, url)
        remote = RemoteSession(session, "linear", request.remote.servers[0], request)
        loop = remote.open_loop([sample])
        for _ in range(5):
            remote.run(sample[None])
            answered(loop.submit(sample))
        loop.close()
        remote.close()
        with urlopen(f"{url}/connections") as reply:
            assert int(reply.read()) == 3  # one caller's, the open loop's, and this one


def test_a_server_that_refuses_and_one_that_hangs_up(folder: Path) -> None:
    sample = np.full((3, 32, 32), 1, np.float32)
    with load(folder, device="cpu") as session:
        for mode, error in (("refuses real", QueueFullError), ("hangs up", ValueError)):
            with json_server(mode) as url:
                request = asked(folder, url)
                remote = RemoteSession(session, "linear", request.remote.servers[0], request)
                loop = remote.open_loop([sample])
                with pytest.raises(error, match=r"503: full|closed the connection"):
                    answered(loop.submit(sample))
                loop.close()
                remote.close()


def test_every_scenario_of_a_server_and_its_overload(
    folder: Path, urls: tuple[str, str], no_progress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("CALM_SECONDS", 0.2), ("LEAST_SECONDS", 0.2), ("LONG_ENOUGH", 1)):
        monkeypatch.setattr(f"repr_bench.scenarios.overload.{name}", value)
    monkeypatch.setattr("repr_bench.scenarios.search.LONG_ENOUGH", 1)
    with json_server("wrong shape") as liar:
        request = asked(folder, urls[0], f"liar={liar}")
        results = run(request, no_progress)
        options = ScenarioOptions(
            scenarios=("single-stream", "multi-stream", "offline"),
            slo_ms=100.0,
            max_batch=4,
            overload=0.5,
        )
        monkeypatch.setattr("repr_bench.scenarios.run.measure_server", _held)
        results = with_scenarios(results, request, options, no_progress)
    rows = {(row.server, row.scenario): row for row in results.scenarios}
    for server in ("", urls[0]):
        for scenario in (*options.scenarios, "overload"):
            row = rows[server, scenario]
            assert (row.status, row.reason) == ("measured", "")
            assert row.queries
    assert {row.status for (server, _), row in rows.items() if server == "liar"} == {"failed"}
    assert "expected FP32" in rows["liar", "overload"].reason
    row = rows[urls[0], "overload"]
    assert [trial.offered for trial in row.trials] == [50.0] * 3
    assert " in process; 0 % refused" in result_text(row, results.scenarios)
    assert from_json(to_json(results)) == results
    assert f"scenario,linear,fp32,1,{urls[0]}," in to_csv(results)


def _held(_: Any, row: Any) -> Any:
    """The search would take seconds."""
    trial = replace(HELD, offered=100.0)
    return replace(row, status="measured", reason="", trials=(trial,))


def test_an_overload_is_over_when_nearly_all_are_in_time_again() -> None:
    moments = np.arange(1, 201) * 10**7
    late_at_first = np.arange(200) >= 50
    assert _recovered(late_at_first, moments) == pytest.approx(0.5)  # 1 of the 151 left is late
    assert _recovered(np.ones(200, bool), moments) == 0.0
    assert _recovered(np.zeros(200, bool), moments) is None
    assert _recovered(np.empty(0, bool), np.empty(0, np.int64)) is None


def test_several_times_an_unknown_rate_is_no_overload(
    folder: Path, no_progress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = replace(HELD, offered=110.0, confirms=False, outcome="missed", lateness_ns=(10**8,) * 6)
    limited = (late, replace(HELD, offered=100.0))
    monkeypatch.setattr(
        "repr_bench.scenarios.run.measure_server",
        lambda _, row: replace(row, status="measured", reason="", trials=limited),
    )
    with json_server() as url:
        request = asked(folder, url)
        found = with_scenarios(
            run(request, no_progress), request, ScenarioOptions(overload=2.0), no_progress
        )
    rows = [row for row in found.scenarios if row.scenario == "overload"]
    assert {row.server: row.status for row in rows} == {"": "failed", url: "failed"}
    assert all("the load generator, not the network, is the limit" in row.reason for row in rows)
