"""A service that runs in a thread of the test, and what asks it."""

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvicorn
from numpy.typing import NDArray
from PIL import Image

from repr_serve.model import Model


@dataclass(frozen=True)
class Reply:
    """What came back; ``json`` is its body."""

    status: int
    head: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    port: int,
    path: str,
    body: Any = None,
    head: Mapping[str, str] | None = None,
    method: str | None = None,
) -> Reply:
    """One request; a body that is not bytes is sent as JSON."""
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        way = method or ("GET" if body is None else "POST")
        connection.request(way, path, content, dict(head or {}))
        reply = connection.getresponse()
        return Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
    finally:
        connection.close()


@contextmanager
def running(app: Any, **settings: Any) -> Iterator[int]:
    """The port on which ``app`` is served meanwhile."""
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, **settings)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        end = time.monotonic() + 20
        while not server.started and time.monotonic() < end and thread.is_alive():
            time.sleep(0.005)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def held(model: Model) -> Iterator[threading.Semaphore]:
    """Meanwhile each run of ``model`` waits; the semaphore counts those that came to it."""
    session: Any = model.session
    run, gate, entered = session.run, threading.Event(), threading.Semaphore(0)

    def waiting(*arrays: Any) -> Any:
        entered.release()
        assert gate.wait(20), "the test forgot to open the gate"
        return run(*arrays)

    session.run = waiting
    quick, model.quick_rows = model.quick_rows, 0  # the event loop itself must not wait
    try:
        yield entered
    finally:
        gate.set()
        session.run, model.quick_rows = run, quick


def tensor(
    array: NDArray[Any], name: str = "input", datatype: str = "FP32", binary: bool = False
) -> dict[str, Any]:
    """An input of the protocol's JSON: its numbers, or how many bytes follow."""
    made: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
    if binary:
        return {**made, "parameters": {"binary_data_size": array.nbytes}}
    return {**made, "data": array.ravel().tolist()}


def binary_request(head: Mapping[str, Any], *raw: bytes) -> tuple[bytes, dict[str, str]]:
    """Body and head of a request in the binary tensor extension."""
    header = json.dumps(head).encode()
    return b"".join((header, *raw)), {"Inference-Header-Content-Length": str(len(header))}


def numbers(reply: Reply, output: int = 0) -> NDArray[Any]:
    """The numbers of an output that came as JSON."""
    found = reply.json["outputs"][output]
    return np.array(found["data"], np.float64).reshape(found["shape"])


def pixels(seed: int = 0) -> NDArray[np.uint8]:
    """A picture of noise, (9, 7, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (9, 7, 3), np.uint8)


def picture_file(kind: str, array: NDArray[Any] | None = None, **options: Any) -> bytes:
    """A picture, by default that of seed 0, as a file: ``PNG``, ``JPEG`` …"""
    stream = io.BytesIO()
    Image.fromarray(pixels() if array is None else array).save(stream, kind, **options)
    return stream.getvalue()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])
