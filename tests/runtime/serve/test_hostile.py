"""Requests that nearly are some: each is read or refused in words, by either protocol, and nothing else.

A few thousand of them each time; ``REPR_HOSTILE=1000000 pytest tests/runtime/serve/test_hostile.py``
asks that many, most of them in this process and the rest over sockets, of the seed
``REPR_HOSTILE_SEED``, and says what came of them with ``-s``.
"""

import asyncio
import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from malformed import Asked, Malformed
from serving import ask, binary_request, free_port, running, tensor

from repr_runtime import errors
from repr_runtime.artifact.manifest import TensorSpec
from repr_serve import HttpApp, ModelOptions, Settings, Source
from repr_serve.errors import RequestError
from repr_serve.grpc import Servicer, inputs_of, parse
from repr_serve.oip import wire
from repr_serve.oip.rest import Reader
from repr_serve.oip.tensors import Signature
from repr_serve.server import connection
from repr_serve.server.connection import Connection
from repr_serve.server.worker import Application

MANY = int(os.environ.get("REPR_HOSTILE", "4000"))
SEED = int(os.environ.get("REPR_HOSTILE_SEED", "0"))
SIDE_BY_SIDE = 8
X = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
GOOD = binary_request(
    {
        "inputs": [tensor(X, binary=True)],
        "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
    },
    X.tobytes(),
)

SPECS = {
    "a": TensorSpec("a", "float32", ("n", 2)),
    "b": TensorSpec("b", "int64", ("n",)),
}
SIGNATURE = Signature(SPECS, {"y": TensorSpec("y", "float32", ("n", 2))})
A, B = np.ones((3, 2), np.float32), np.arange(3)
HEAD: dict[str, Any] = {
    "id": "7",
    "parameters": {"timeout": 5, "binary_data_output": True},
    "inputs": [
        {"name": "a", "datatype": "FP32", "shape": [3, 2], "parameters": {"binary_data_size": 24}},
        {"name": "b", "datatype": "INT64", "shape": [3], "data": [0, 1, 2]},
    ],
    "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
}
ODD = st.sampled_from(
    [None, True, -1, 0, 2**63, 2**70, 1e308, 0.5, "", "a", "FP64", [], {}, [[[]]], {"a": 1}, "\0"]
)


def changed(value: Any, draw: Any) -> Any:
    """``value`` with some of its parts left out, doubled, or something odd in their place."""
    what = draw(st.integers(0, 11))
    if what == 0:
        return draw(ODD)
    if isinstance(value, dict):
        kept = {k: changed(v, draw) for k, v in value.items() if draw(st.integers(0, 11))}
        return (
            {**kept, draw(st.sampled_from(["data", "parameters", "x"])): 1} if what == 1 else kept
        )
    if isinstance(value, list):
        parts = [changed(part, draw) for part in value]
        return parts + parts[:1] if what == 1 else parts
    return value


def is_read_or_refused(read: Any) -> None:
    said = ""
    try:
        arrays = read()
    except (errors.InputError, RequestError) as error:
        said = str(error)
    else:
        assert all(isinstance(array, np.ndarray) for array in arrays.values())
    assert len(said) < 600


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_of_http(data: st.DataObject) -> None:
    reader = Reader(SIGNATURE)
    header = json.dumps(changed(HEAD, data.draw)).encode()
    spoilt = bytearray(header)
    for place in data.draw(st.lists(st.integers(0, len(header) - 1), max_size=2)):
        spoilt[place] = data.draw(st.integers(0, 255))
    body = bytes(spoilt) + A.tobytes()[: data.draw(st.integers(0, 24))]
    lengths = st.sampled_from([b"%d" % len(header), b"0", b"-1", b"9" * 20, b"", b"1_0", None])
    for length in (b"%d" % len(header), data.draw(lengths)):
        for _ in range(2):  # the second time its header may be known
            is_read_or_refused(lambda length=length: reader.read(body, length)[1])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_of_grpc(data: st.DataObject) -> None:
    message = wire.message("ModelInferRequest")(model_name="m", id="7")
    message.inputs.add(name="a", datatype="FP32", shape=[3, 2])
    message.inputs.add(name="b", datatype="INT64", shape=[3])
    for given_one in message.inputs:
        if data.draw(st.booleans()):
            given_one.datatype = data.draw(st.sampled_from(["FP16", "BF16", "BYTES", "INT8", ""]))
        if data.draw(st.booleans()):
            given_one.shape[0] = data.draw(st.sampled_from([-1, 0, 1, 2**62]))
        if data.draw(st.booleans()):
            given_one.contents.int64_contents.extend([0, 1, 2])
    for _ in range(data.draw(st.integers(0, 3))):
        message.raw_input_contents.append(bytes(data.draw(st.sampled_from([0, 6, 12, 24, 25]))))
    content = bytearray(message.SerializeToString())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=2)):
        content[place] = data.draw(st.integers(0, 255))
    kind = wire.message("ModelInferRequest")
    is_read_or_refused(lambda: inputs_of(parse(kind, bytes(content)), SIGNATURE))


async def asked_of(app: HttpApp, asked: Asked) -> tuple[int, bytes]:
    """Status and body, as an ASGI server gives and takes them; status 0 where nothing is said."""
    parts = list(asked.parts)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if len(parts) == int(asked.leaves):
            if not asked.leaves:
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}
        more = len(parts) > 1
        return {"type": "http.request", "body": parts.pop(0), "more_body": more}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": asked.method,
        "path": asked.path,
        "headers": asked.fields,
        "query_string": asked.query,
        "root_path": "",
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 1),
        "client": ("127.0.0.1", 2),
        "raw_path": b"/",
    }
    await asyncio.wait_for(app(scope, receive, send), 30)
    if not sent:
        return 0, b""
    body = b"".join(message.get("body", b"") for message in sent[1:])
    head = dict(sent[0]["headers"])
    assert asked.method == "HEAD" or int(head[b"content-length"]) == len(body)
    return sent[0]["status"], body


def is_a_refusal(status: int, body: bytes, asked: Asked) -> None:
    """Or an answer; nobody's fault are 503 and 504, of which the second was asked for."""
    assert status < 500 or status in (503, 504), (status, body, asked)
    assert status or asked.leaves, asked
    if 400 <= status != 499 and asked.method != "HEAD":
        said = json.loads(body)["error"]
        assert len(said) < 1200, said


async def by_many(count: int, one: Callable[[Malformed], Awaitable[object]]) -> Counter[Any]:
    """What came of so many, asked side by side."""
    came = Counter[Any]()

    async def some(seed: int) -> None:
        made = Malformed(seed)
        for _ in range(-(-count // SIDE_BY_SIDE)):
            came[await one(made)] += 1

    await asyncio.gather(*(some(SEED + 1000 * i) for i in range(SIDE_BY_SIDE)))
    print(f"\n{came.total():,} asked:", dict(sorted(came.items(), key=str)))
    return came


def resident() -> int:
    """Bytes of memory that this process holds now."""
    if not sys.platform.startswith("linux"):
        return 0
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def series(served: HttpApp) -> set[bytes]:
    """What the metrics have a value of."""
    lines = served.metrics.page().splitlines()
    return {line.rpartition(b" ")[0] for line in lines if not line.startswith(b"#")}


@pytest.mark.timeout(0)
def test_in_this_process(tiny: Any, served: HttpApp) -> None:
    asyncio.run(in_this_process(tiny, served))


async def in_this_process(tiny: Any, served: HttpApp) -> None:
    good = Asked("POST", "/v2/models/tiny/infer", b"", [], [GOOD[0]])
    length = GOOD[1]["Inference-Header-Content-Length"].encode()
    good.fields.append((b"inference-header-content-length", length))
    expected = tiny.logits(X)
    done, held = 0, [0]

    async def one(made: Malformed) -> int:
        nonlocal done
        done += 1
        if done == MANY // 5:
            held[0] = resident()
        if done % 20 == 0:
            status, body = await asked_of(served, good)
            found = np.frombuffer(body[-expected.nbytes :], np.float32).reshape(expected.shape)
            np.testing.assert_allclose(found, expected, atol=1e-4)
            return status
        asked = made.http()
        status, body = await asked_of(served, asked)
        is_a_refusal(status, body, asked)
        return status

    came = await by_many(MANY * 3 // 4, one)
    assert {200, 400, 404, 413, 415} <= {*came} or MANY < 4000
    assert len(asyncio.all_tasks()) == 1
    assert resident() - held[0] < 64 * 2**20
    assert {name for name in series(served) if b"model=" in name and b"tiny" not in name} == {
        name for name in series(served) if b'model=""' in name
    }
    assert len(series(served)) < 200


class Context:
    """As much of gRPC's as a handler asks for."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds, self.said = seconds, ("OK", "")

    def time_remaining(self) -> float | None:
        return self._seconds

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", "Bearer x"),)

    async def abort(self, code: grpc.StatusCode, words: str) -> None:
        self.said = (code.name, words)
        raise grpc.aio.AbortError


@pytest.mark.timeout(0)
def test_in_this_process_over_grpc(served: HttpApp) -> None:
    source = Source("tiny", served.service.model("tiny").path)
    servicer = Servicer(served.service, served.metrics, Settings([source]))

    async def one(made: Malformed) -> str:
        method, content = made.grpc()
        context = Context(made.pick((None, None, 9.0, 1e-9, -1.0)))
        with suppress(grpc.aio.AbortError):
            await asyncio.wait_for(servicer.method(method)(content, context), 30)
        code, words = context.said
        assert code not in ("INTERNAL", "UNKNOWN"), (method, content, words)
        assert len(words) < 1200
        return code

    came = asyncio.run(by_many(MANY * 3 // 16, one))
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= {*came}


async def said_to(port: int, sent: bytes, half: bool) -> bytes:
    """What comes back until nothing does for a moment, or the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = b""
    with suppress(OSError):
        writer.write(sent)
        if half:
            writer.write_eof()
        with suppress(TimeoutError):
            while part := await asyncio.wait_for(reader.read(2**16), 0.1):
                said += part
    writer.transport.abort()
    return said


@pytest.mark.timeout(0)
def test_over_sockets(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_HEAD_SECONDS", 0.5)
    asyncio.run(over_sockets(tiny, tmp_path))


async def over_sockets(tiny: Any, tmp_path: Path) -> None:
    """Both ports of the service; none of the connections is left at the end."""
    settings = Settings(
        sources=[Source("tiny", tiny.write(tmp_path / "tiny"))],
        models=ModelOptions(device="cpu", instances=1, max_batch=4, timeout=20),
        grpc_port=free_port(),
    )
    expected = tiny.logits(X)

    def is_right(port: int) -> None:
        reply = ask(port, "/v2/models/tiny/infer", *GOOD)
        found = np.frombuffer(reply.body[-expected.nbytes :], np.float32)
        np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-4)

    def files() -> int:
        return len(os.listdir("/proc/self/fd")) if sys.platform.startswith("linux") else 0

    with running(Application(settings), lifespan="on", http=Connection) as port:
        asked = 0

        async def one(made: Malformed) -> str:
            nonlocal asked
            asked += 1
            if asked % 50 == 0:
                await asyncio.to_thread(is_right, port)
            if made.chance(4):
                await said_to(settings.grpc_port or 0, made.frames(), made.chance(2))
                return "frames"
            sent = made.wire()
            said = await said_to(port, sent, made.chance(3))
            assert b"HTTP/1.1 500" not in said, (sent, said)
            return said[:12].decode()

        await asyncio.to_thread(is_right, port)
        before = files()
        came = await by_many(MANY // 16, one)
        assert {"HTTP/1.1 200", "HTTP/1.1 400", "frames"} <= {*came}
        await asyncio.to_thread(is_right, port)
        with grpc.insecure_channel(f"127.0.0.1:{settings.grpc_port}") as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert await asyncio.to_thread(live, b"", timeout=10) == b"\x08\x01"
        end = time.monotonic() + 10
        while files() > before + 8:
            assert time.monotonic() < end, "connections are left"
            await asyncio.sleep(0.05)
