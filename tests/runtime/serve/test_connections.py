"""Clients that are slow, or never come to an end, are sent away, and stop nobody else."""

import select
import socket
import time
from contextlib import ExitStack
from typing import Any

import pytest
from serving import ask, running, tensor

from repr_serve import HttpApp
from repr_serve.server import connection
from repr_serve.server.connection import Connection

HEAD = b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n"


def answer(client: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    client.settimeout(10)
    found = b""
    while part := client.recv(65536):
        found += part
    return found


def readable(client: socket.socket, seconds: float) -> bool:
    return bool(select.select([client], [], [], seconds)[0])


def test_a_head_that_does_not_come_to_an_end_ends_the_connection(
    served: HttpApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_HEAD_SECONDS", 0.3)
    with running(served, lifespan="off", http=Connection) as port:
        place = ("127.0.0.1", port)
        for begin in (b"", b"GET", HEAD):  # nothing, a word, a part
            with socket.create_connection(place) as client:
                start = time.monotonic()
                client.sendall(begin)
                assert answer(client) == b""
                assert 0.2 < time.monotonic() - start < 5
        with socket.create_connection(place) as client:  # the second request of a connection
            client.sendall(HEAD + b"\r\n")
            while b'{"live":true}' not in client.recv(65536):
                pass
            start = time.monotonic()
            client.sendall(HEAD)
            assert answer(client) == b""
            assert 0.2 < time.monotonic() - start < 5
        with socket.create_connection(place) as client:  # one that takes its time, but comes
            for part in (HEAD[:10], HEAD[10:], b"connection: close\r\n\r\n"):
                client.sendall(part)
                time.sleep(0.05)
            assert b'{"live":true}' in answer(client)


def test_a_head_has_a_longest(served: HttpApp) -> None:
    with (
        running(served, lifespan="off", http=Connection) as port,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        client.sendall(HEAD + b"x: " + b"y" * 60_000)
        assert not readable(client, 0.2)
        client.sendall(b"y" * 30_000)
        assert answer(client).startswith(b"HTTP/1.1 400 ")


def test_many_that_hang_do_not_stop_one_that_does_not(tiny: Any, served: HttpApp) -> None:
    body = {"inputs": [tensor(tiny.inputs(1))]}
    with running(served, lifespan="off", http=Connection) as port, ExitStack() as open_ones:
        for index in range(300):
            client = open_ones.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall((b"", HEAD, HEAD + b"content-length: 9\r\n\r\n{")[index % 3])
        start = time.monotonic()
        for _ in range(20):
            assert ask(port, "/v2/models/tiny/infer", body).status == 200
        assert time.monotonic() - start < 5
