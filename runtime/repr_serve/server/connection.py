"""uvicorn's HTTP connection, with bounds on what a client may keep it waiting for, or holding."""

import asyncio
import re
from collections import deque
from typing import Any

import orjson
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD_SECONDS = 10.0
_LONGEST_HEAD = 64 * 1024  # bytes after those that came with its beginning; of trailers, too
_UNREAD_SECONDS = 30.0
_LEAST_READ = 32 * 1024  # bytes of an answer that a client takes in that time
_LINGER_SECONDS = 1.0
_PIECE = 16 * 1024  # bytes that are parsed at once: a few hundred of the shortest requests
_MOST_AHEAD = 16  # requests that are parsed before those in front of them are answered
_DROPPED: Any = deque[Any](maxlen=0)
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


class _Flow(FlowControl):
    """Reads no more while there is something that was read and is not parsed yet."""

    held = b""

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


class _Outlet:
    """The transport, as a request's answer sees it: head and body go as one, when all is there.

    Each write wakes the client, and costs as much as parsing a request.
    """

    def __init__(self, connection: "Connection", transport: Any) -> None:
        self._transport, self._end = transport, connection.end
        self._parts: list[bytes] = []
        self.ended = False  # a refusal was the last that this client is told
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 100 ") and not self.ended:
            self._transport.write(data)
        else:
            self._parts.append(data)

    def flush(self) -> None:
        if self._parts and not self.ended:
            self._transport.write(b"".join(self._parts))
        self._parts.clear()

    def close(self) -> None:
        self.flush()
        self._end()


class Connection(HttpToolsProtocol):
    """A client has ``_HEAD_SECONDS`` for each head, and to end a body that nobody waits for any more.

    It must read its answers, too. What comes in one piece and is read costs no timer. Requests
    that come before the last is answered are parsed a few at a time, and answered in their order;
    so is a 400 to what is no request. At the end of the server an idle connection has a moment
    for the request that may be on its way.
    """

    flow: _Flow
    cycle: Any
    _late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _in_head = _in_message = True
    _head_bytes = 0
    _new = _deaf = _ending = False
    _refusal = ""
    _asked: Any = None  # the request that is being answered

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.flow, self._outlet = _Flow(transport), _Outlet(self, transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._stop_watching()
        self._unset_keepalive_if_required()
        if self._asked is not None:  # which is not the last where others came behind it
            self._asked.disconnected = True
            self._asked.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._asked = cycle
        super()._start_asgi_task(cycle, app)

    # What the parser finds

    def on_message_begin(self) -> None:
        self._in_head = self._in_message = self._new = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_head = False
        self.cycle.transport = self._outlet
        self.headers = _DROPPED  # a chunked body's trailers are no fields of the head
        if self._ending:
            self.cycle.keep_alive = False
        if self.parser.should_upgrade():  # it takes all that follows for another protocol's
            self._deaf, self.cycle.keep_alive = True, False

    def on_body(self, body: bytes) -> None:
        self._new = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        super().on_message_complete()

    # What comes

    def data_received(self, data: bytes) -> None:
        if self.flow.held or len(data) > _PIECE or len(self.pipeline) > _MOST_AHEAD:
            self.flow.held += data
            self._feed_held()
        else:
            self._feed(data)

    def _feed_held(self) -> None:
        held, begin = self.flow.held, 0
        while begin < len(held) and len(self.pipeline) <= _MOST_AHEAD:
            self._feed(held[begin : begin + _PIECE])
            begin += _PIECE
        self.flow.held = held[begin:]
        if self.flow.held:
            self.flow.pause_reading()

    def _feed(self, data: bytes) -> None:
        if self._deaf or self.transport.is_closing():
            return  # but it is read, and so it does not pile up
        if (self._in_head or not self._in_message) and b"pgrade" in data:
            data = _without_upgrade(data)
        self._new = False
        super().data_received(data)
        if self._in_message and not self._new:
            self._head_bytes += len(data)
            if self._head_bytes > _LONGEST_HEAD:
                self.send_400_response("The head of the request is too long.")
        if self._in_head:
            self._arm()
        elif not (self._in_message and self.cycle.response_complete):
            self._disarm()

    def send_400_response(self, msg: str) -> None:
        """At once, or when the requests before this one are answered."""
        if self._deaf or self.transport.is_closing():
            return
        self._deaf = True
        in_body = self._in_message and not self._in_head
        if in_body and self.pipeline:
            self.pipeline.popleft()  # which has that body
            self._refusal = msg
        elif not in_body and self._working:
            self._refusal = msg
        else:
            self._refuse(msg)

    def _refuse(self, msg: str) -> None:
        body = orjson.dumps({"error": msg})
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(body), body)
        )
        self.end()

    def end(self) -> None:
        """Close; but what is still sent to a closed socket undoes the answer, so that is read first."""
        self._outlet.ended = True
        if self._in_message and self.transport.can_write_eof():
            self._deaf = True
            self.transport.write_eof()
            self._arm()
        else:
            self.transport.close()
            self._watch_reading()

    @property
    def _working(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # What goes

    def on_response_complete(self) -> None:
        self._outlet.flush()
        last = not self.pipeline
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if last and self._refusal:
            self._refuse(self._refusal)
        elif self.flow.held:
            self._feed_held()
            self.flow.resume_reading()
        elif self._in_message and self.cycle.response_complete:
            if self.expect_100_continue:  # a body that was not asked for may never come
                self.transport.close()
            self._arm()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_watching()

    def shutdown(self) -> None:
        self._ending = True
        if self._working:
            super().shutdown()
        else:
            self.loop.call_later(_LINGER_SECONDS, super().shutdown)

    # What does not come, or does not go

    def _arm(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(_HEAD_SECONDS, self._give_up)

    def _disarm(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def timeout_keep_alive_handler(self) -> None:
        self._give_up()

    def _give_up(self) -> None:
        if self._working:  # what came before is answered first
            self._disarm()
            self._arm()
        elif self.transport.get_write_buffer_size():  # which a mere end would wait for
            self.transport.abort()
        elif not self.transport.is_closing():
            self.transport.close()

    def _watch_reading(self) -> None:
        if self._unread is None:
            self._look_again(self.transport.get_write_buffer_size())

    def _look_again(self, left: int) -> None:
        self._unread = self.loop.call_later(_UNREAD_SECONDS, self._look, left)

    def _look(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left > before - _LEAST_READ:
            self.transport.abort()
        else:
            self._look_again(left)

    def _stop_watching(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


def _without_upgrade(data: bytes) -> bytes:
    """A head that offers another protocol, as one that does not.

    The offer need not be taken, but the parser would read no body after it. Where its bytes come
    in several pieces that is what happens, and the connection ends with the answer.
    """
    end = data.find(b"\r\n\r\n") + 1 or len(data)
    return _UPGRADE.sub(b"\r\nno-upgrade:", data[:end]) + data[end:]
