"""What any ASGI server gives and takes: bodies read within bounds, answers, clients that went away."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Self

from repr_runtime import errors
from repr_serve.errors import BodyTooLargeError, EncodingError, RequestError, SlowClientError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Fields = list[tuple[bytes, bytes]]

_ONCE = {
    *(b"authorization", b"content-encoding", b"content-length", b"content-type", b"host"),
    *(b"inference-header-content-length", b"transfer-encoding", b"x-request-timeout"),
}
_MOST_HELD = 2**29  # bytes, or four bodies where those may be longer
_LAG_WEIGHT = 0.05
_LAG_KNOWN = 1.0  # seconds; what was seen before them says nothing any more
_SOON = 0.02  # seconds; what is answered within them is not worth watching


class Lag:
    """How late an event loop is at what it has to do, in seconds, as was seen last."""

    def __init__(self) -> None:
        self._seconds, self._seen = 0.0, 0.0

    def saw(self, seconds: float) -> None:
        self._seconds += _LAG_WEIGHT * (seconds - self._seconds)
        self._seen = time.monotonic()

    @property
    def seconds(self) -> float:
        if self._seconds and time.monotonic() - self._seen > _LAG_KNOWN:
            self._seconds = 0.0
        return self._seconds


class ClientGoneError(Exception):
    """There is nobody any more to answer."""


def fields_of(scope: Scope) -> Mapping[bytes, bytes]:
    """The fields of the request's head; what proxies and tracers add to comes in several, and is joined.

    Raises :class:`RequestError` where one that is read here has two values.
    """
    given: Fields = scope["headers"]
    fields = dict(given)
    if len(fields) != len(given):
        for name in [
            name for name, count in Counter(name for name, _ in given).items() if count > 1
        ]:
            values = list(dict.fromkeys(value for other, value in given if other == name))
            if len(values) > 1 and name in _ONCE:
                raise RequestError(f"the request has two values of {name.decode('latin-1')}")
            fields[name] = b", ".join(values)
    return fields


async def reply(send: Send, status: int, head: Fields, body: bytes) -> None:
    """A whole answer."""
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


class Exchange:
    """One request, while it is read and worked on; made for those that are done in no time.

    While this is entered, its task is cancelled when the body is not there after ``seconds``, and
    after it was read, when the client goes away; that becomes a :class:`SlowClientError` or a
    :class:`ClientGoneError`. One timer for both, since each costs as much as a small network.
    """

    held = 0
    """Bytes of bodies of which the rest has not come yet, in this process."""

    def __init__(self, receive: Receive, seconds: float, lag: Lag) -> None:
        self._receive, self._seconds, self._lag = receive, seconds, lag
        self._began = time.monotonic()
        self._timer: asyncio.TimerHandle
        self._watch: asyncio.Task[None] | None = None
        self._reading, self._why, self._mine = True, "", 0

    async def body(self, fields: Mapping[bytes, bytes], limit: int) -> bytes:
        """The whole body. Raises :class:`BodyTooLargeError` as soon as it is known to be.

        And :class:`EncodingError` if it is compressed, which could be any length, and
        :class:`QueueFullError` where many are half there.
        """
        encoding = fields.get(b"content-encoding", b"identity")
        if encoding not in (b"", b"identity"):
            raise EncodingError(f"content-encoding {encoding!r:.30} is not taken; send it as it is")
        given = fields.get(b"content-length", b"0")
        length = int(given) if len(given) < 20 and given.isdigit() else 2**63
        if length > limit:
            raise BodyTooLargeError(f"the body has {length:,} bytes, at most {limit:,} are taken")
        parts, total, more = [], 0, True
        try:
            while more:
                message = await self._receive()
                if message["type"] != "http.request":
                    raise ClientGoneError
                part = message.get("body", b"")
                parts.append(part)
                total += len(part)
                if total > limit:
                    raise BodyTooLargeError(f"the body has more than {limit:,} bytes")
                more = message.get("more_body", False)
                if more:
                    self._hold(len(part), max(_MOST_HELD, 4 * limit))
        finally:
            Exchange.held -= self._mine
            self._mine = 0
        self._reading = False
        if time.monotonic() - self._began > _SOON:  # the timer is set for the body's end
            self._timer.cancel()
            self._look_after(_SOON)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _look_after(self, seconds: float) -> None:
        self._due = self._loop.time() + seconds
        self._timer = self._loop.call_later(seconds, self._look)

    def _hold(self, count: int, most: int) -> None:
        self._mine += count
        Exchange.held += count
        if Exchange.held > most:
            raise errors.QueueFullError(
                f"{Exchange.held:,} bytes of requests are on their way already; try again later"
            )

    def _look(self) -> None:
        self._lag.saw(self._loop.time() - self._due)
        left = self._seconds - (time.monotonic() - self._began)
        if not self._reading:
            self._watch = self._loop.create_task(self._until_gone())
        elif left > 0:
            self._look_after(left)
        else:
            self._cancel("slow")

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._cancel("gone")

    def _cancel(self, why: str) -> None:
        self._why = why
        if self._task is not None:
            self._task.cancel()

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._look_after(_SOON)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if not self._why or kind is not asyncio.CancelledError or self._task is None:
            return
        self._task.uncancel()
        if self._why == "gone":
            raise ClientGoneError
        raise SlowClientError(f"the body did not arrive within {self._seconds:g} s")
