"""Clients that are slow, or never come to an end, are sent away, and stop nobody else."""

import json
import random
import re
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any
from unittest.mock import Mock, call

import pytest
from serving import ask, running, tensor

from repr_serve import HttpApp, asgi
from repr_serve.server import connection
from repr_serve.server.connection import Connection, _Outlet

HEAD = b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n"


@pytest.fixture(scope="module")
def hard(served: HttpApp) -> Iterator[int]:
    """The port of a server whose connections are those of the command."""
    with running(served, lifespan="off", http=Connection) as port:
        yield port


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


def test_an_answer_goes_as_one_and_none_after_the_last_word() -> None:
    transport, ends = Mock(), Mock()
    made = _Outlet(ends, transport)
    made.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # this is waited for
    made.write(b"HTTP/1.1 200 OK\r\n\r\n")
    made.write(b"body")
    assert transport.write.call_count == 1
    made.close()
    assert transport.write.call_args_list[1:] == [call(b"HTTP/1.1 200 OK\r\n\r\nbody")]
    assert ends.end.call_count == 1
    made.ended = True
    made.write(b"more")
    made.flush()
    assert transport.write.call_count == 2


def test_a_loop_that_is_late_has_less_time(
    served: HttpApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left() -> float:
        return served._deadline(10.0) - time.monotonic()

    assert 9.9 < left() <= 10
    for _ in range(200):
        served._lag.saw(2.0)
    assert 5.9 < left() < 6.1  # it was read late, and would be answered as late
    monkeypatch.setattr(asgi, "_LAG_KNOWN", 0.0)  # nothing was late since
    time.sleep(0.01)
    assert 9.9 < left() <= 10


def test_a_head_has_a_longest(served: HttpApp) -> None:
    with (
        running(served, lifespan="off", http=Connection) as port,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        client.sendall(HEAD + b"x: " + b"y" * 60_000)
        assert not readable(client, 0.2)
        client.sendall(b"y" * 30_000)
        assert answer(client).startswith(b"HTTP/1.1 400 ")


OTHER = HEAD + b"upgrade: h2c\r\nconnection: upgrade\r\n\r\n"
INFER = b"POST /v2/models/tiny/infer HTTP/1.1\r\nhost: a\r\n"
BAD_CHUNK = INFER + b"transfer-encoding: chunked\r\n\r\nzz\r\n"


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        ((HEAD + b"\r\n") * 50 + HEAD + b"connection: close\r\n\r\n", [200] * 51),
        ((HEAD + b"\r\n") * 3 + b"\0\0 /\r\n\r\n" + HEAD, [200] * 3 + [400]),
        ((HEAD + b"\r\n") * 2 + BAD_CHUNK + HEAD, [200, 200, 400]),
        (BAD_CHUNK, [400]),
        (HEAD + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", [400]),
        (HEAD + b"content-length: 1\r\ncontent-length: 1\r\n\r\na", [400]),
        (HEAD + b"x: a\r\n b\r\n\r\n", [400]),
        (HEAD.replace(b"\r", b"") + b"\n", [400]),
        (HEAD + b"x: a\0b\r\n\r\n", [400]),
        (HEAD + b"x: " + b"y" * 200_000 + b"\r\n\r\n", [400]),
        (OTHER + HEAD + b"connection: close\r\n\r\n", [200, 200]),
        (OTHER.replace(b"upgrade: h", b"uPgRaDe : h") + HEAD + b"\r\n", [400]),
        (INFER + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 40_000, [400]),
        (
            INFER.replace(b"tiny", b"no") + b"expect: 100-continue\r\ncontent-length: 9\r\n\r\n",
            [404],
        ),
    ],
)
def test_each_request_has_its_answer_and_what_is_none_the_last(
    hard: int, sent: bytes, statuses: list[int]
) -> None:
    with socket.create_connection(("127.0.0.1", hard)) as client:
        with suppress(ConnectionError):  # it may end before all is sent
            client.sendall(sent)
        said = answer(client)
    assert [int(code) for code in re.findall(rb"HTTP/1.1 (\d+) ", said)] == statuses


def test_however_they_are_cut_requests_are_answered_in_their_order(tiny: Any, hard: int) -> None:
    dice = random.Random(0)
    for _ in range(8):
        sent, count = b"", dice.randrange(1, 60)
        for index in range(count):
            body = json.dumps({"id": f"n{index}", "inputs": [tensor(tiny.inputs(1))]}).encode()
            body += b" " * dice.choice((0, 0, 0, 40_000))
            if dice.random() < 0.5:
                sent += INFER + b"content-length: %d\r\n\r\n" % len(body) + body
            else:
                at = dice.randrange(1, len(body))
                chunks = b"".join(b"%x\r\n%s\r\n" % (len(x), x) for x in (body[:at], body[at:]))
                sent += INFER + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        sent += HEAD + b"connection: close\r\n\r\n"
        with socket.create_connection(("127.0.0.1", hard)) as client:
            reading: list[bytes] = []
            reader = threading.Thread(target=lambda to=reading, of=client: to.append(answer(of)))
            reader.start()
            while sent:
                size = dice.choice((1, 100, 5000, 300_000))
                client.sendall(sent[:size])
                sent = sent[size:]
            reader.join()
        found = [int(one) for one in re.findall(rb'"id":"n(\d+)"', reading[0])]
        assert found == list(range(count))
        assert reading[0].endswith(b'{"live":true}')


def test_an_offer_of_another_protocol_does_not_lose_the_body(hard: int) -> None:
    body = b'{"inputs":[]}'
    with socket.create_connection(("127.0.0.1", hard)) as client:
        offer = b"connection: upgrade\r\nUpgrade: h2c\r\ncontent-length: %d\r\n\r\n" % len(body)
        client.sendall(INFER + offer + body + HEAD + b"connection: close\r\n\r\n")
        said = answer(client)
    assert (b"no list of inputs" in said, said.endswith(b'{"live":true}')) == (True, True)


def test_who_sends_too_much_is_told_though_it_does_not_stop(hard: int) -> None:
    length = 40 * 2**20
    with socket.create_connection(("127.0.0.1", hard)) as client:
        client.sendall(INFER + b"content-length: %d\r\n\r\n" % length)
        client.sendall(bytes(length))
        assert b"the body has 41,943,040 bytes, at most 33,554,432" in answer(client)


def test_what_comes_behind_a_long_body_is_no_long_head(hard: int) -> None:
    length = 300_000
    with socket.create_connection(("127.0.0.1", hard)) as client:
        client.sendall(INFER + b"content-length: %d\r\n\r\n" % length + bytes(length) + HEAD)
        time.sleep(0.1)
        client.sendall(b"connection: close\r\n\r\n")
        assert answer(client).endswith(b'{"live":true}')


def test_who_sends_much_and_reads_nothing_is_not_kept(
    served: HttpApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is what it sent: its requests are parsed as they are answered."""
    monkeypatch.setattr(connection, "_UNREAD_SECONDS", 0.3)
    made: list[Connection] = []
    init = Connection.connection_made

    def note(self: Connection, transport: Any) -> None:
        made.append(self)
        init(self, transport)

    monkeypatch.setattr(Connection, "connection_made", note)
    with running(served, lifespan="off", http=Connection) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(5)
            most, until = 0, time.monotonic() + 20
            with suppress(ConnectionError):
                while time.monotonic() < until:
                    client.sendall(b"GET / HTTP/1.1\r\n\r\n" * 1000)
                    most = max(most, *(len(one.pipeline) for one in made), 0)
            assert (0 < most < 1000, time.monotonic() < until) == (True, True)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(HEAD + b"content-length: 9\r\n\r\n")
            assert readable(client, 5)


def test_a_body_that_nobody_waits_for_must_end(
    served: HttpApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_HEAD_SECONDS", 0.3)
    with running(served, lifespan="off", http=Connection) as port:
        for length, ends in ((9, True), (3, False)):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(HEAD + b"content-length: %d\r\n\r\n" % length)
                while b'{"live":true}' not in client.recv(65536):
                    pass
                for _ in range(3):
                    client.sendall(b"a")
                assert readable(client, 0.8) == ends


def test_at_the_end_an_idle_connection_is_answered_once_more(served: HttpApp) -> None:
    with running(served, lifespan="off", http=Connection) as port:
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(HEAD + b"\r\n")
        assert readable(client, 5)
        client.recv(65536)
        later = threading.Timer(0.4, client.sendall, [HEAD + b"\r\n"])
        later.start()
    later.join()
    with client:
        said = answer(client)
    assert (said.startswith(b"HTTP/1.1 200"), b"connection: close" in said) == (True, True)


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
