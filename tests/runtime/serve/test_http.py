"""The Open Inference Protocol v2 over HTTP, asked as a client asks it."""

import json
import select
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from serving import Reply, ask, binary_request, held, numbers, running, tensor
from starlette.applications import Starlette
from starlette.routing import Mount

from repr_serve import HttpApp, HttpOptions, ModelOptions, Service, app, asgi
from repr_serve.metrics import Metrics

INFER = "/v2/models/tiny/infer"


def test_health_metadata_and_index(port: int, served: HttpApp) -> None:
    version = served.service.model("tiny").version
    assert ask(port, "/v2/health/live").json == {"live": True}
    assert ask(port, "/v2/health/ready").json == {"ready": True}
    server = ask(port, "/v2").json
    assert server["name"] == "repr-serve"
    assert "binary_tensor_data" in server["extensions"]
    expected = {
        "name": "tiny",
        "versions": [version],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 3, 4, 4]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 5]}],
    }
    for place in ("/v2/models/tiny", f"/v2/models/tiny/versions/{version}"):
        assert ask(port, place).json == expected
        assert ask(port, place + "/ready").json == {"name": "tiny", "ready": True}
    line = {"name": "tiny", "version": version, "state": "READY", "reason": ""}
    assert ask(port, "/v2/repository/index", {}).json == [line]
    card = ask(port, "/v2/models/tiny/card").json
    assert (card["golden"]["samples"], card["labels"], card["pictures"]) == (3, 5, True)


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_numbers_go_in_and_come_out_as_json_and_as_bytes(
    tiny: Any, port: int, served: HttpApp, binary_in: bool, binary_out: bool
) -> None:
    x = tiny.inputs(3)
    head: dict[str, Any] = {"id": "one", "inputs": [tensor(x, binary=binary_in)]}
    if binary_out:
        head["parameters"] = {"binary_data_output": True}
    body, fields = binary_request(head, x.tobytes() if binary_in else b"")
    for _ in range(2):  # the second time the header is known
        reply = ask(port, INFER, body, fields)
        assert reply.status == 200
        if binary_out:
            length = int(reply.head["inference-header-content-length"])
            logits = np.frombuffer(reply.body[length:], np.float32).reshape(3, 5)
            reply = Reply(200, {}, reply.body[:length])
            assert reply.json["outputs"][0]["parameters"] == {"binary_data_size": 60}
        else:
            logits = numbers(reply)
        np.testing.assert_allclose(logits, tiny.logits(x), rtol=1e-4, atol=1e-4)
        assert reply.json["id"] == "one"
        assert reply.json["model_version"] == served.service.model("tiny").version


def test_outputs_are_chosen_by_name_and_nested_data_is_taken(tiny: Any, port: int) -> None:
    x = tiny.inputs(2)
    nested = {**tensor(x), "data": x.tolist()}
    reply = ask(port, INFER, {"inputs": [nested], "outputs": [{"name": "logits"}]})
    np.testing.assert_allclose(numbers(reply), tiny.logits(x), rtol=1e-4, atol=1e-4)


def test_several_inputs_and_a_version(pair: Path) -> None:
    made = app({"pair": pair}, models=ModelOptions(device="cpu", instances=1))
    left, right = np.array([[1, 2]], np.float32), np.array([[10, 20]], np.float32)
    head = {"inputs": [tensor(right, "right", binary=True), tensor(left, "left")]}
    body, fields = binary_request(head, right.tobytes())
    version = made.service.model("pair").version
    with running(made) as port:
        reply = ask(port, f"/v2/models/pair/versions/{version}/infer", body, fields)
        assert numbers(reply).tolist() == [[11, 22]]
        missing = ask(port, "/v2/models/pair/infer", {"inputs": [tensor(left, "left")]})
        assert (missing.status, "missing 'right'" in missing.json["error"]) == (400, True)
    assert made.service.draining  # the server that ran it has ended


def test_values_that_the_network_cannot_take_are_their_senders_mistake(
    tiny: Any, tmp_path: Path
) -> None:
    table = helper.make_tensor("value", 1, [4, 2], range(8))
    nodes = [
        helper.make_node("Constant", [], ["table"], value=table),
        helper.make_node("Cast", ["x"], ["index"], to=7),
        helper.make_node("Gather", ["table", "index"], ["y"]),
    ]
    golden = {
        "input.x": np.zeros((3, 1), np.float32),
        "output.y": np.array([[[0, 1]]] * 3, np.float32),
    }
    receipts = {"golden": {"samples": 3, "tolerance": {"y": 0}}}
    sizes = ({"x": ("n", 1)}, {"y": ("n", 1, 2)})
    path = tiny.write_model(tmp_path / "rows", nodes, *sizes, golden=golden, receipts=receipts)
    with running(app({"rows": path}, models=ModelOptions(device="cpu", instances=1))) as port:
        found = [
            ask(port, "/v2/models/rows/infer", {"inputs": [tensor(np.full((1, 1), row), "x")]})
            for row in (3, 4)
        ]
    assert numbers(found[0]).tolist() == [[[6, 7]]]
    assert (found[1].status, "out of data bounds, idx=4" in found[1].json["error"]) == (422, True)


X = np.zeros((1, 3, 4, 4), np.float32)
GOOD = tensor(X)
WRONG: list[tuple[int, str, Any]] = [
    (400, "the request is no JSON", b"{"),
    (400, "the request is no JSON", b"\xff\xfe"),
    (400, "no JSON: depth limit", b'{"inputs":' + b"[" * 5000 + b"]" * 5000 + b"}"),
    (400, "the request is a list, expected a JSON object", []),
    (400, "no list of inputs", {}),
    (400, "no list of inputs", {"inputs": []}),
    (400, "no list of inputs", {"inputs": {"name": "input"}}),
    (400, "an input is a number, expected an object", {"inputs": [1]}),
    (400, "no input 'x'; the model takes 'input' FP32", {"inputs": [{**GOOD, "name": "x"}]}),
    (400, "no input None", {"inputs": [{"data": [1]}]}),
    (400, "no input ['input']", {"inputs": [{**GOOD, "name": ["input"]}]}),
    (400, "'input' is given twice", {"inputs": [GOOD, GOOD]}),
    (400, "input 'input' is 'FP64', the model takes", {"inputs": [{**GOOD, "datatype": "FP64"}]}),
    (400, "input 'input' is 'BYTES'", {"inputs": [{**GOOD, "datatype": "BYTES"}]}),
    (400, "shape is 'all', expected a list", {"inputs": [{**GOOD, "shape": "all"}]}),
    (400, "shape is [-1, 3, 4, 4]", {"inputs": [{**GOOD, "shape": [-1, 3, 4, 4]}]}),
    (400, "shape is [True, 3, 4, 4]", {"inputs": [{**GOOD, "shape": [True, 3, 4, 4]}]}),
    (400, "the shape given is [9", {"inputs": [{**GOOD, "shape": [9 * 10**17, 3, 4, 4]}]}),
    (400, "there is none so large", {"inputs": [{**GOOD, "shape": [0, 2**62], "data": []}]}),
    (400, "expected (batch, 3, 4, 4)", {"inputs": [{**GOOD, "shape": [1, 48, 1, 1]}]}),
    (400, "data has 2 values", {"inputs": [{**GOOD, "data": [1, 2]}]}),
    (400, "no array of numbers", {"inputs": [{**GOOD, "data": [[1], [2, 3]]}]}),
    (400, "expected a list of numbers", {"inputs": [{**GOOD, "data": ["1"] * 48}]}),
    (400, "data is a text, expected a list", {"inputs": [{**GOOD, "data": [["x" * 9999, ""]]}]}),
    (400, "data is a list among others, null", {"inputs": [{**GOOD, "data": [[1], None]}]}),
    (400, "expected a list of numbers", {"inputs": [{**GOOD, "data": None}]}),
    (400, "expected a list of numbers", {"inputs": [{**GOOD, "data": [None] * 48}]}),
    (400, "48 values that are NaN or infinite", {"inputs": [{**GOOD, "data": [1e39] * 48}]}),
    (400, "got 5 samples in one request", {"inputs": [tensor(np.zeros((5, 3, 4, 4)))]}),
    (400, "there is nothing in it", {"inputs": [tensor(np.zeros((0, 3, 4, 4)))]}),
    (
        400,
        "no output 'y'; the model gives 'logits'",
        {"inputs": [GOOD], "outputs": [{"name": "y"}]},
    ),
    (400, "outputs is a text", {"inputs": [GOOD], "outputs": "logits"}),
    (400, "'logits' is asked for twice", {"inputs": [GOOD], "outputs": [{"name": "logits"}] * 2}),
    (400, "id is a number", {"inputs": [GOOD], "id": 7}),
    (400, "parameters is a list", {"inputs": [GOOD], "parameters": []}),
    (400, "timeout is -1", {"inputs": [GOOD], "parameters": {"timeout": -1}}),
    (
        400,
        "'classification' is not served here; ask /classify",
        {"inputs": [GOOD], "outputs": [{"name": "logits", "parameters": {"classification": 3}}]},
    ),
    (
        400,
        "binary_data_size is 192, 0 bytes are left",
        {"inputs": [tensor(X, binary=True)]},
    ),
]


@pytest.mark.parametrize(("status", "words", "body"), WRONG)
def test_a_wrong_request_is_told_what_is_wrong(
    port: int, status: int, words: str, body: Any
) -> None:
    reply = ask(port, INFER, body)
    assert (reply.status, words in reply.json["error"]) == (status, True), reply.body
    assert len(reply.body) < 600


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((192, 191), "191 bytes are left"),
        ((192, 193), "1 bytes more than its tensors"),
        ((191, 191), "has 191 bytes, expected 192"),
        (("192", 192), "binary_data_size is '192'"),
        ((2**70, 192), "binary_data_size is"),
    ],
)
def test_missing_and_surplus_bytes_are_refused(port: int, sizes: Any, words: str) -> None:
    said, sent = sizes
    given = {**tensor(X, binary=True), "parameters": {"binary_data_size": said}}
    body, fields = binary_request({"inputs": [given]}, bytes(sent))
    for _ in range(2):
        reply = ask(port, INFER, body, fields)
        assert (reply.status, words in reply.json["error"]) == (400, True), reply.body
    for length in ("100000", "-1", "x", "1" * 30):
        reply = ask(port, INFER, body, {"Inference-Header-Content-Length": length})
        assert (reply.status, "Inference-Header" in reply.json["error"]) == (400, True)


@pytest.mark.parametrize(
    ("status", "method", "path"),
    [
        (404, "POST", "/v2/models/other/infer"),
        (404, "POST", "/v2/models/tiny/versions/1/infer"),
        (404, "POST", "/v2/models/..%2F..%2Fetc/infer"),
        (404, "GET", "/v2/models/other"),
        (404, "GET", "/v2/models/other/ready"),
        (404, "GET", "/v3"),
        (405, "GET", INFER),
        (405, "DELETE", "/v2/models/tiny"),
        (403, "POST", "/v2/repository/models/tiny/unload"),
    ],
)
def test_what_is_not_there_has_its_status_and_an_error(
    port: int, status: int, method: str, path: str
) -> None:
    reply = ask(port, path, method=method)
    assert (reply.status, isinstance(reply.json["error"], str)) == (status, True)
    if status == 405:
        assert f"by {reply.head['allow']}, not by {method}" in reply.json["error"]


def test_a_full_queue_is_503_at_once_and_a_deadline_504(tiny: Any, artifact: Path) -> None:
    options = ModelOptions(device="cpu", instances=1, max_batch=1, queue_limit=1, timeout=20)
    made = app({"tiny": artifact}, models=options)
    body = {"inputs": [tensor(tiny.inputs(1))]}
    replies: list[Reply] = []
    with running(made) as port:
        with held(made.service.model("tiny")) as entered:
            waiting = [
                threading.Thread(target=lambda: replies.append(ask(port, INFER, body)))
                for _ in range(2)
            ]
            waiting[0].start()
            assert entered.acquire(timeout=10)
            late = ask(port, INFER, body, {"X-Request-Timeout": "0.05"})
            assert (late.status, "no answer within" in late.json["error"]) == (504, True)
            own = ask(port, INFER, {**body, "parameters": {"timeout": 50_000}})
            assert own.status == 504
            waiting[1].start()
            while made.service.model("tiny").stats().waiting < 1:
                time.sleep(0.002)
            start = time.monotonic()
            full = ask(port, INFER, body)
            assert time.monotonic() - start < 2
            assert (full.status, full.head["retry-after"]) == (503, "1")
            assert "try again later" in full.json["error"]
        for thread in waiting:
            thread.join(10)
        assert [reply.status for reply in replies] == [200, 200]
        assert ask(port, INFER, body, {"X-Request-Timeout": "soon"}).status == 400


def test_a_client_that_goes_away_is_cancelled(tiny: Any, artifact: Path) -> None:
    made = app({"tiny": artifact}, models=ModelOptions(device="cpu", instances=1, max_batch=1))
    model = made.service.model("tiny")
    body, fields = binary_request({"inputs": [tensor(tiny.inputs(1))]})
    head = f"POST {INFER} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with running(made) as port, held(model) as entered:
        thread = threading.Thread(target=ask, args=(port, INFER, body, fields))
        thread.start()
        assert entered.acquire(timeout=10)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(head + body)
            while model.stats().waiting < 1:
                time.sleep(0.002)
        end = time.monotonic() + 10
        while model.stats().cancelled < 1 and time.monotonic() < end:
            time.sleep(0.002)
        assert (model.stats().cancelled, model.stats().waiting) == (1, 0)
        cancelled = 'outcome="cancelled",protocol="http"} 1.0'
        assert cancelled in ask(port, "/metrics").body.decode()
    thread.join(10)


def raw(port: int, *parts: bytes) -> bytes:
    """What is answered to these bytes, until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        for part in parts:
            client.sendall(part)
        found = b""
        while part := client.recv(65536):
            found += part
        return found


def test_bodies_have_bounds_in_size_and_time_and_are_not_compressed(service: Service) -> None:
    made = HttpApp(service, Metrics(service), HttpOptions(max_body=1000, read_timeout=0.6))
    post = f"POST {INFER} HTTP/1.1\r\nhost: a\r\n".encode()
    chunk = b"190\r\n" + bytes(400) + b"\r\n"
    with running(made) as port:
        assert b" 413 " in raw(port, post + b"content-length: 1001\r\n\r\n")
        assert b" 413 " in raw(port, post + b"transfer-encoding: chunked\r\n\r\n", *[chunk] * 3)
        start = time.monotonic()
        assert b" 408 " in raw(port, post + b"content-length: 100\r\n\r\n{")
        assert 0.5 < time.monotonic() - start < 10
        gzipped = raw(port, post + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}")
        assert b" 415 " in gzipped
        both = post + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}"
        assert b" 400 " in raw(port, both)
        twice = b"inference-header-content-length: 1\r\ninference-header-content-length: 2\r\n"
        doubled = raw(port, post + twice + b"content-length: 2\r\nconnection: close\r\n\r\n{}")
        assert b"two values of inference-header-content-length" in doubled
        several = (
            b"tracestate: a=1\r\ntracestate: b=2\r\nx-forwarded-for: a\r\nx-forwarded-for: b\r\n"
        )
        added = raw(port, post + several + b"content-length: 2\r\nconnection: close\r\n\r\n{}")
        assert b"no list of inputs" in added
        assert b'outcome="request",protocol="http"} 1' in made.metrics.page()


def test_bodies_that_are_half_there_have_a_bound_together(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi, "_MOST_HELD", 1000)
    made = HttpApp(service, Metrics(service), HttpOptions(max_body=1000))
    begun = f"POST {INFER} HTTP/1.1\r\nhost: a\r\ncontent-length: 900\r\n\r\n".encode() + b" " * 890
    with running(made) as port, ExitStack() as opened:
        said = []
        for _ in range(5):  # 4,450 bytes; four bodies may be half there at least
            client = opened.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(begun)
            said.append(client)
        (refused,) = select.select(said, [], [], 10)[0]
        assert refused.recv(9999).startswith(b"HTTP/1.1 503 ")
        taken = next(client for client in said if client is not refused)
        taken.sendall(b" " * 10)
        assert taken.recv(9999).startswith(b"HTTP/1.1 400 ")
    assert asgi.Exchange.held == 0


def test_models_are_loaded_and_unloaded_where_that_is_allowed(
    tiny: Any, service: Service, artifact: Path
) -> None:
    made = HttpApp(service, Metrics(service), HttpOptions(allow_control=True))
    change = "/v2/repository/models/tiny/"
    body = {"inputs": [tensor(tiny.inputs(1))]}
    with running(made) as port:
        assert ask(port, change + "unload", {}).status == 200
        refused = ask(port, INFER, body)
        assert (refused.status, "unloaded" in refused.json["error"]) == (503, True)
        assert ask(port, "/v2/models/tiny/ready").status == 503
        assert ask(port, "/v2/repository/index", {"ready": True}).json == []
        tiny.write(artifact, seed=1)
        assert ask(port, change + "load", {}).status == 200
        np.testing.assert_allclose(
            numbers(ask(port, INFER, body)), tiny.logits(tiny.inputs(1), 1), atol=1e-4
        )
        (artifact / "golden.npz").unlink()
        bad = ask(port, change + "load", {})
        assert (bad.status, "golden.npz" in bad.json["error"]) == (422, True)
        assert ask(port, INFER, body).status == 200
        assert ask(port, "/v2/repository/models/other/load", {}).status == 404


def test_api_keys_guard_all_but_health(tiny: Any, service: Service) -> None:
    from hashlib import sha256

    keys = tuple(sha256(key).digest() for key in (b"first", b"second"))
    made = HttpApp(service, Metrics(service), HttpOptions(keys=keys))
    body = {"inputs": [tensor(tiny.inputs(1))]}
    with running(made) as port:
        assert ask(port, "/v2/health/ready").status == 200
        for path in (INFER, "/v2/repository/index"):
            for given in ({}, {"Authorization": "Bearer no"}, {"Authorization": "second"}):
                reply = ask(port, path, body, given)
                assert (reply.status, reply.head["www-authenticate"]) == (401, "Bearer")
            assert ask(port, path, body, {"Authorization": "Bearer second"}).status == 200
        assert ask(port, "/metrics").status == 401


def test_it_can_be_mounted_in_another_application(tiny: Any, served: HttpApp) -> None:
    x = tiny.inputs(1)
    with running(Starlette(routes=[Mount("/nets", served)])) as port:
        assert ask(port, "/nets/v2/models/tiny").json["name"] == "tiny"
        reply = ask(port, "/nets" + INFER, {"inputs": [tensor(x)]})
        np.testing.assert_allclose(numbers(reply), tiny.logits(x), atol=1e-4)


@pytest.mark.large
def test_in_a_service_of_fastapi_two_answer_and_end_with_it(
    tiny: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fastapi = pytest.importorskip("fastapi")
    options = ModelOptions(device="cpu", instances=1)
    nets = [app({"tiny": tiny.write(tmp_path / f"{s}", seed=s)}, models=options) for s in (0, 1)]

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        for one in nets:
            one.service.close()

    main = fastapi.FastAPI(lifespan=lifespan)
    for seed, one in enumerate(nets):
        main.mount(f"/{seed}", one)

    @main.middleware("http")
    async def around(request: Any, work: Any) -> Any:
        return await work(request)

    x = tiny.inputs(1)
    body = json.dumps({"inputs": [tensor(x)]}).encode()
    with running(main) as port:
        for seed in range(2):
            reply = ask(port, f"/{seed}{INFER}", body)
            np.testing.assert_allclose(numbers(reply), tiny.logits(x, seed), atol=1e-4)
        model = nets[0].service.model("tiny")
        with held(model) as entered:
            with socket.create_connection(("127.0.0.1", port)) as client:
                head = f"POST /0{INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
                client.sendall(head.encode() + body)
                assert entered.acquire(timeout=20)
            end = time.monotonic() + 20
            while b"cancelled" not in ask(port, "/0/metrics").body and time.monotonic() < end:
                time.sleep(0.01)
    assert [one.service.draining for one in nets] == [True, True]
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_what_happened_is_counted(tiny: Any, service: Service) -> None:
    made = HttpApp(service, Metrics(service), HttpOptions())
    x = tiny.inputs(2)
    with running(made) as port:
        for _ in range(3):
            ask(port, INFER, {"inputs": [tensor(x)]})
        ask(port, INFER, {"inputs": []})
        ask(port, "/v2/models/other/infer", {})
        page = ask(port, "/metrics").body.decode()
    version = service.model("tiny").version
    for line in (
        'repr_requests_total{model="tiny",outcome="ok",protocol="http"} 3.0',
        'repr_requests_total{model="tiny",outcome="request",protocol="http"} 1.0',
        'repr_requests_total{model="",outcome="model",protocol="http"} 1.0',
        'repr_request_seconds_count{model="tiny",protocol="http"} 3.0',
        'repr_request_seconds_bucket{le="5.0",model="tiny",protocol="http"} 3.0',
        'repr_batch_size_bucket{le="1.0",model="tiny"} 0.0',
        'repr_batch_size_bucket{le="2.0",model="tiny"} 3.0',
        'repr_batch_size_sum{model="tiny"} 6.0',
        f'repr_model_info{{device="cpu",model="tiny",precision="fp32",version="{version}"}} 1.0',
        "repr_ready 1.0",
    ):
        assert line in page.splitlines(), line
