"""Servers beside the artifact: honest ones are measured, and of the others the row says what they did."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from oip_server import json_server
from serving import free_port, running

from repr_bench.cli import main
from repr_bench.errors import UsageError
from repr_bench.inputs import EvaluationImages
from repr_bench.measuring.measure import Plan
from repr_bench.peers.run import run_peers
from repr_bench.remote.peer import check_servers, remote_peers
from repr_bench.request import Remote, Request, Server
from repr_bench.results.file import read_results
from repr_bench.results.peers import OURS, PeerRow
from repr_bench.run import run
from repr_serve import HttpOptions, ModelOptions, Settings, Source
from repr_serve.server.worker import Application
from repr_serve.settings import read_keys

KEY = "a key of the tests"
PLAN = Plan(seconds=0.002, samples=2, rounds=2, warmup_seconds=0.001)
pytestmark = pytest.mark.usefixtures("ten_images")

Compare = Callable[..., list[PeerRow]]


@pytest.fixture
def folder(make_artifact: Callable[..., Path]) -> Path:
    return make_artifact(golden=True)


@pytest.fixture
def real(folder: Path, tmp_path: Path) -> Iterator[list[str]]:
    """The URLs of a service that asks for a key, by HTTP and by gRPC."""
    (tmp_path / "keys").write_text(KEY)
    settings = Settings(
        sources=[Source("linear", folder)],
        models=ModelOptions(device="cpu", instances=1, max_batch=4),
        http=HttpOptions(keys=read_keys(tmp_path / "keys")),
        grpc_port=free_port(),
    )
    with running(Application(settings), lifespan="on") as port:
        yield [f"http://127.0.0.1:{port}", f"grpc=grpc://127.0.0.1:{settings.grpc_port}"]


def asked(folder: Path, *urls: str, key: str = KEY) -> Request:
    remote = Remote(tuple(map(Server.parse, urls)), 3, key)
    return Request((str(folder),), batches=(1,), device="cpu", threads=1, plan=PLAN, remote=remote)


@pytest.fixture
def compare(folder: Path, no_progress: Any) -> Compare:
    def compare(*urls: str, **changes: Any) -> list[PeerRow]:
        request = replace(asked(folder, *urls), **changes)
        rows = run(replace(request, images=EvaluationImages(limit=1)), no_progress).rows
        found, _ = run_peers(request, remote_peers(request, no_progress), rows, no_progress)
        return [row for row in found if row.peer != OURS]

    return compare


def test_both_protocols_are_measured_with_the_accuracy_of_what_answered(
    compare: Compare, real: list[str]
) -> None:
    found = compare(*real, batches=(1, 2))
    assert [row.reason for row in found] == [""] * 8
    assert {(row.peer, row.measure, row.batch) for row in found} == {
        (peer, measure, batch)
        for peer in (real[0], "grpc")
        for measure in ("latency", "throughput")
        for batch in (1, 2)
    }
    for row in found:
        assert row.server
        assert row.graph is not None
        assert row.graph.accuracy is not None
        assert (row.graph.accuracy.top1, row.graph.accuracy.images) == (3, 10)
        assert row.graph.difference is not None
        assert row.graph.difference.within
        way = "gRPC" if row.peer == "grpc" else "REST, binary tensors"
        assert f"by {way}, 3 callers" in row.settings


def test_a_server_of_json_alone_that_takes_few_samples_is_measured(compare: Compare) -> None:
    with json_server(most=4) as url:
        found = compare(f"mine={url}")
    assert [(row.peer, row.status, row.reason) for row in found] == [("mine", "measured", "")] * 2
    assert found[0].graph is not None
    assert found[0].graph.figures["top1_percent"].value == 30
    assert found[0].settings == "model linear version 7 by REST, JSON, 3 callers"


REASONS = {
    "wrong numbers": "its top-1 is another on 10 of 10 images",
    "wrong shape": "answers 'logits' FP32 [1, 5], expected FP32 [1, 10]",
    "no output": "does not answer output 'logits'",
    "500": "answered 500: kaboom",
    "refuses": "answered 503: full",
    "hangs up": "broke off: it closed the connection",
    "no JSON": "answers no JSON",
    "another model": "has another model: its inputs are 'input' FP32 [-1, 3, 64, 64]",
}


def test_what_a_server_does_wrong_is_the_reason_of_its_rows(compare: Compare) -> None:
    with ExitStack() as stack:
        modes = ["", *REASONS]
        servers = {mode: stack.enter_context(json_server(mode)) for mode in modes}
        found = compare(*(f"{mode or 'good'}={url}" for mode, url in servers.items()))
    for mode, reason in REASONS.items():
        rows = [row for row in found if row.peer == mode]
        assert {row.status for row in rows} == {"failed"}, mode
        assert all(reason in row.reason for row in rows)
    assert {row.status for row in found if row.peer == "good"} == {"measured"}


def test_other_numbers_of_the_same_classes_are_seen(compare: Compare) -> None:
    with json_server("off") as url:
        (row, _) = compare(url)
    assert row.status == "measured"
    assert row.graph is not None
    assert row.graph.answers_differ


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9", "http://127.0.0.1:9 cannot be reached"),
        ("grpc://127.0.0.1:9", "grpc://127.0.0.1:9 cannot be reached"),
        (
            "{json}/v2/models/other",
            "no /v2/models/other; it has linear; name the model: --url http",
        ),
        (
            "{wrong}",
            r"another model: its inputs are 'input' FP32 \[-1, 3, 64, 64\]; the artifact's",
        ),
        ("{real}", "asks for an API key.*: give the key by --api-key-file or REPR_API_KEY"),
    ],
)
def test_what_can_be_seen_before_the_work_is(
    url: str, message: str, folder: Path, real: list[str]
) -> None:
    with json_server() as good, json_server("another model") as wrong:
        url = url.format(json=good, wrong=wrong, real=real[0])
        with pytest.raises(UsageError, match=message):
            check_servers(asked(folder, url, key=""))
        check_servers(asked(folder, good, *real))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("http://h:8000", Server("http://h:8000", "http", "h", 8000)),
        ("https://h/", Server("https://h", "https", "h", 443)),
        ("a=grpc://[::1]:9", Server("a", "grpc", "::1", 9)),
        ("http://h:1/nets/v2", Server("http://h:1/nets", "http", "h", 1, "/nets")),
        ("t=http://h:1/v2/models/m", Server("t", "http", "h", 1, "", "m")),
        ("t=http://h:1/v2/models/m/versions/3/infer", Server("t", "http", "h", 1, "", "m", "3")),
    ],
)
def test_a_server_by_its_url(text: str, found: Server) -> None:
    assert Server.parse(text) == found


@pytest.mark.parametrize(
    "text",
    ["localhost:8000", "ftp://h:1", "grpc://h", "http://", "http://h:99999", "http://k@h:1", "a=b"],
)
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no server|--api-key-file"):
        Server.parse(text)


def test_two_servers_need_two_names() -> None:
    with pytest.raises(UsageError, match=r"--url NAME=URL"):
        Remote((Server.parse("http://h:1"), Server.parse("http://h:1/v2/models/m")))


def test_the_command_shows_it_in_every_form(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("repr_bench.cli.QUICK", PLAN)
    files = {name: tmp_path / f"out.{name}" for name in ("json", "csv", "markdown", "html")}
    options = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    common = [str(folder), "--quick", "--batch", "1", "--threads", "1", "--callers", "2"]
    with json_server() as url, json_server("off") as off:
        assert main([*common, *options, "--url", f"mine={url}"]) == 0
        assert main([*common, "--url", off]) == 1
    out = capsys.readouterr().out
    assert re.search(r"linear +fp32 +1 +in process .* 30\.00", out)
    assert re.search(r"linear +fp32 +1 +mine .* × .* 30\.00", out)
    assert f"{off} answers linear otherwise than the original network: 'logits' is off by" in out
    for name, path in files.items():
        assert "mine" in path.read_text(), name
    assert "server,linear,fp32,1,mine,throughput,measured" in files["csv"].read_text()
    assert {row.peer for row in read_results(files["json"]).peers if row.server} == {"mine"}
    (tmp_path / "key").write_text("ümlaut")
    assert main([*common, "--url", url]) == 1
    assert main([*common, "--url", url, "--api-key-file", str(tmp_path / "key")]) == 1
    said = capsys.readouterr().err
    assert f"repr-bench: {url} cannot be reached" in said
    assert "characters that no field of HTTP may have" in said
    with pytest.raises(SystemExit):
        main([str(folder), "--overload", "2"])
    assert "--overload is for servers; name one with --url" in capsys.readouterr().err
