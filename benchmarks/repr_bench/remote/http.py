"""HTTP/1.1 connections that are kept alive: asked one request at a time, or many in an open loop."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import httptools

from repr_bench.remote.protocol import ANSWER_SECONDS, RemoteError
from repr_bench.request import Server
from repr_runtime import BatcherStats

_AT_ONCE = 2**18
_JOINED = 2**16
"""Parts of a request up to so many bytes are copied together, which costs less than two calls."""


@dataclass
class Reply:
    """An answer: field names in lower case."""

    status: int = 0
    fields: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


class Connection:
    """One connection to ``server``. Raises :class:`RemoteError` where there is none to be had."""

    def __init__(self, server: Server) -> None:
        self._name = server.name
        try:
            self.socket = socket.create_connection((server.host, server.port), ANSWER_SECONDS)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if server.secure:
                context = ssl.create_default_context()
                self.socket = context.wrap_socket(self.socket, server_hostname=server.host)
        except OSError as error:  # of ssl, too
            unknown = isinstance(error, ssl.SSLCertVerificationError)
            way = "; name the file of who signed it: SSL_CERT_FILE=ca.pem" * unknown
            raise RemoteError(f"{server.name} cannot be reached: {error}{way}") from error
        self._parser: Any = httptools.HttpResponseParser(self)
        self._reply, self._parts, self._complete = Reply(), list[bytes](), False
        self.kept, self.fresh = True, True
        """Whether the server keeps it; nothing was answered on it yet: later it may be closed."""

    def on_header(self, name: bytes, value: bytes) -> None:
        self._reply.fields[name.lower()] = value

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        self._reply.status = self._parser.get_status_code()
        if self._reply.status >= 200:
            # Now: behind the end of the message the parser has forgotten it.
            self._complete, self.kept = True, bool(self._parser.should_keep_alive())

    @property
    def begun(self) -> bool:
        """Whether a part of the answer has come."""
        return bool(self._parts or self._reply.fields)

    def send(self, parts: Sequence[bytes]) -> None:
        """Send a request, all of it. Raises ``OSError``."""
        if sum(map(len, parts)) <= _JOINED:
            self.socket.sendall(b"".join(parts))
            return
        for part in parts:
            self.socket.sendall(part)

    def receive(self) -> Reply | None:
        """What has come by now: the answer, once it is whole. Raises what :meth:`ask` raises."""
        while True:
            part = self.socket.recv(_AT_ONCE)
            if not part:
                raise ConnectionResetError("it closed the connection")
            try:
                self._parser.feed_data(part)
            except httptools.HttpParserError as error:
                raise RemoteError(f"{self._name} does not speak HTTP: {error}") from error
            if self._complete:
                return self._whole()
            if not (isinstance(self.socket, ssl.SSLSocket) and self.socket.pending()):
                return None

    def _whole(self) -> Reply:
        reply = self._reply
        reply.body, self.fresh = b"".join(self._parts), False
        self._reply, self._parts, self._complete = Reply(), [], False
        return reply

    def ask(self, parts: Sequence[bytes]) -> Reply:
        """Send a request and wait for its answer. Raises ``OSError``, :class:`RemoteError`."""
        self.send(parts)
        while (reply := self.receive()) is None:
            pass
        return reply

    def close(self) -> None:
        self.socket.close()


class Connections:
    """Connections to one server that are used again; any thread may ask."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._idle = deque[Connection]()

    def take(self) -> Connection:
        """One that nobody uses. Raises :class:`RemoteError`."""
        try:
            return self._idle.pop()
        except IndexError:
            return Connection(self._server)

    def give(self, connection: Connection) -> None:
        """Keep it, where the server does."""
        if connection.kept:
            self._idle.append(connection)
        else:
            connection.close()

    def drop(self, connection: Connection) -> None:
        """Use it no more."""
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def ask(self, parts: Sequence[bytes]) -> Reply:
        """The answer to a request. Raises :class:`RemoteError`.

        On a connection that the server has closed since its last answer it is sent again.
        """
        while True:
            connection = self.take()
            try:
                reply = connection.ask(parts)
            except OSError as error:
                stale = not connection.fresh and not connection.begun
                connection.close()
                if stale and isinstance(error, ConnectionError):
                    continue
                raise broken(self._server, error) from error
            except BaseException:
                connection.close()
                raise
            self.give(connection)
            return reply

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


def broken(server: Server, error: OSError) -> RemoteError:
    """What to say of a connection that failed."""
    if isinstance(error, TimeoutError):
        return RemoteError(f"{server.name} did not answer within {ANSWER_SECONDS:g} s")
    return RemoteError(f"{server.name} broke off: {error}")


class HttpOpenLoop:
    """Requests sent as they come, each on a connection of its own; one thread reads all answers.

    ``request_of`` has the parts of a sample's request; ``read`` makes its answer, or raises.
    """

    def __init__(
        self,
        server: Server,
        request_of: Callable[[Any], Sequence[bytes]],
        read: Callable[[Reply], Any],
    ) -> None:
        self._server, self._request_of, self._read = server, request_of, read
        with contextlib.suppress(ImportError, OSError, ValueError):  # as many as the system allows
            import resource

            most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self._pool = Connections(server)
        self._selector = selectors.DefaultSelector()
        self._waiting: dict[Connection, Future[Any]] = {}
        self._known = set[Connection]()
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._receive, name="repr-bench-answers", daemon=True
        )
        self._thread.start()

    def submit(self, sample: Any) -> Future[Any]:
        """Send it. Raises :class:`RemoteError`."""
        future: Future[Any] = Future()
        while True:
            connection = self._pool.take()
            self._waiting[connection] = future
            try:
                if connection not in self._known:
                    self._known.add(connection)
                    self._selector.register(connection.socket, selectors.EVENT_READ, connection)
                connection.send(self._request_of(sample))
                return future
            except (OSError, ValueError) as error:  # ValueError: it was closed just now
                stale = not connection.fresh
                if self._waiting.pop(connection, None) is None:  # the reader has said it
                    return future
                self._forget(connection)
                if not stale:
                    raise broken(self._server, OSError(error)) from error

    def stats(self) -> BatcherStats:
        return BatcherStats()

    def close(self, *, drain: bool = True) -> None:  # noqa: ARG002  # nothing waits on this side
        self._ended.set()
        self._thread.join()
        for connection in tuple(self._known):
            self._forget(connection)
        self._selector.close()

    def _forget(self, connection: Connection) -> None:
        self._known.discard(connection)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.socket)
        connection.close()

    def _receive(self) -> None:
        while not self._ended.is_set():
            for key, _ in self._selector.select(0.05):
                connection = key.data
                try:
                    reply = connection.receive()
                except Exception as error:
                    self._failed(connection, error)
                    continue
                if reply is not None:
                    future = self._waiting.pop(connection)
                    if connection.kept:
                        self._pool.give(connection)
                    else:
                        self._forget(connection)
                    try:
                        future.set_result(self._read(reply))
                    except Exception as error:
                        future.set_exception(error)

    def _failed(self, connection: Connection, error: Exception) -> None:
        """A connection is gone; one that nobody waits for is no loss."""
        future = self._waiting.pop(connection, None)
        self._pool.drop(connection)
        self._forget(connection)
        if future is not None:
            told = broken(self._server, error) if isinstance(error, OSError) else error
            future.set_exception(told)
