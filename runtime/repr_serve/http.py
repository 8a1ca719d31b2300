"""The Open Inference Protocol v2 over HTTP, pictures in and labels out, metrics: an ASGI application."""

import asyncio
import hashlib
import hmac
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from repr_runtime import errors
from repr_runtime.machine import version_of
from repr_serve import tracing
from repr_serve.asgi import (
    ClientGoneError,
    Exchange,
    Fields,
    Lag,
    Receive,
    Scope,
    Send,
    fields_of,
    reply,
)
from repr_serve.errors import (
    CANCELLED,
    ControlForbiddenError,
    KeyRequiredError,
    ModelNotFoundError,
    RequestError,
    status_of,
)
from repr_serve.metrics import CONTENT_TYPE, Metrics
from repr_serve.model import Model
from repr_serve.oip import rest
from repr_serve.oip.cards import card, metadata
from repr_serve.oip.tensors import signature_of
from repr_serve.pictures.labels import Labeller
from repr_serve.service import Service

_log = logging.getLogger(__name__)
_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/(infer|classify)")
_OPEN = ("/v2/health/live", "/v2/health/ready", "/")
_TIMEOUT = b"x-request-timeout"
_PAGE = {
    "content-security-policy": "default-src 'none'; connect-src 'self'; img-src blob: data:; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; frame-ancestors 'self'",
    "x-content-type-options": "nosniff",
}
EXTENSIONS = ("binary_tensor_data", "model_repository", "classify")


@dataclass(frozen=True)
class HttpOptions:
    """Bounds of the HTTP side. ``keys``: SHA-256 of each API key; without any, none is asked for.

    ``max_body`` is in bytes; ``read_timeout`` in seconds, for a body to arrive.
    """

    max_body: int = 32 * 2**20
    read_timeout: float = 30.0
    keys: Collection[bytes] = ()
    allow_control: bool = False


class HttpApp:
    """The application: inference straight from ASGI, since each layer costs it; the rest by routes."""

    def __init__(
        self, service: Service, metrics: Metrics, options: HttpOptions, owns_service: bool = False
    ) -> None:
        """``owns_service``: it is closed when the server that runs this says that it ends."""
        self.service, self.metrics, self.options = service, metrics, options
        self._owns, self._lag = owns_service, Lag()
        self._labeller = Labeller(service)
        self._readers = WeakKeyDictionary[Model, rest.Reader]()
        self._control = ThreadPoolExecutor(1, "repr-control")
        self._routes = Starlette(
            routes=self._table(),
            lifespan=self._lifespan,
            exception_handlers={
                HTTPException: _not_there,
                errors.ReproError: _failed,
                ClientGoneError: _gone,
                Exception: _failed,
            },
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        if self._owns:
            await asyncio.to_thread(self.service.close, self.service.options.timeout)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._routes(scope, receive, send)
            return
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            fields = fields_of(scope)
            self._check_key(fields, path)
        except (KeyRequiredError, RequestError) as error:
            self.metrics.count("", "http", status_of(error).kind, 0.0)
            await _refuse(send, error)
            return
        asked = _INFER.fullmatch(path)
        if asked is None or scope["method"] != "POST":
            await self._routes(scope, receive, send)
            return
        name, version, what = asked.groups()
        work = self._infer if what == "infer" else self._classify
        await self._answer(
            scope,
            fields,
            Exchange(receive, self.options.read_timeout, self._lag),
            send,
            work,
            name,
            version or "",
        )

    def _check_key(self, fields: Mapping[bytes, bytes], path: str) -> None:
        if not self.options.keys or path in _OPEN:
            return
        if not has_key(fields.get(b"authorization", b""), self.options.keys):
            raise KeyRequiredError("this service asks for an API key: Authorization: Bearer KEY")

    # Inference

    async def _answer(
        self,
        scope: Scope,
        fields: Mapping[bytes, bytes],
        exchange: Exchange,
        send: Send,
        work: Callable[..., Awaitable[tuple[Fields, bytes]]],
        name: str,
        version: str,
    ) -> None:
        began = time.monotonic()
        outcome = "ok"
        try:
            with exchange:
                model = self.service.model(name, version)
                given = fields.get(_TIMEOUT)
                deadline = self._deadline(None if given is None else _seconds(given))
                model.require_room(deadline)
                body = await exchange.body(fields, self.options.max_body)
                head, content = await work(scope, fields, model, body, deadline)
            await reply(send, 200, head, content)
        except ClientGoneError:
            outcome = CANCELLED.kind
            with suppress(OSError):  # nobody reads it, but what this is mounted in may wait for it
                await reply(send, CANCELLED.http, [(b"content-length", b"0")], b"")
        except asyncio.CancelledError:
            outcome = CANCELLED.kind
            raise
        except Exception as error:
            outcome = status_of(error).kind
            if isinstance(error, ModelNotFoundError):
                name = ""  # else a client could make any number of names
            await _refuse(send, error)
        finally:
            seconds = time.monotonic() - began
            self.metrics.count(name, "http", outcome, seconds)
            if tracing.active():
                texts = {k.decode("latin-1"): v.decode("latin-1") for k, v in fields.items()}
                tracing.record("http", name, outcome, seconds, texts)
            if _log.isEnabledFor(logging.DEBUG):
                trace = fields.get(b"traceparent", b"").decode("latin-1")
                _log.debug("%s %s %.6f s %s", ascii(scope["path"]), outcome, seconds, trace)

    def _deadline(self, seconds: float | None) -> float:
        """Until when a request is to be run: it was read late already, and is answered as late."""
        return self.service.deadline(seconds) - 2 * self._lag.seconds

    async def _infer(
        self, _: Scope, fields: Mapping[bytes, bytes], model: Model, body: bytes, deadline: float
    ) -> tuple[Fields, bytes]:
        reader = self._readers.get(model)
        if reader is None:
            reader = self._readers.setdefault(model, rest.Reader(signature_of(model)))
        plan, inputs = reader.read(body, fields.get(rest.HEADER_LENGTH))
        if plan.timeout is not None:
            deadline = min(deadline, self._deadline(plan.timeout))
        model, outputs = await self.service.infer(model, inputs, deadline)
        return rest.answer(model.name, model.version, plan, outputs)

    async def _classify(
        self,
        scope: Scope,
        fields: Mapping[bytes, bytes],
        model: Model,
        body: bytes,
        deadline: float,
    ) -> tuple[Fields, bytes]:
        began = time.monotonic()
        query = Request(scope).query_params
        top = query.get("top", "5")
        if not (top.isascii() and top.isdigit() and len(top) <= 4 and 1 <= int(top) <= 1000):
            raise RequestError(f"top is {top!r:.30}, expected a whole number from 1 to 1000")
        pictures = await self._labeller.pictures(fields.get(b"content-type", b""), body)
        model, found = await self._labeller.label(model, pictures, int(top), deadline)
        return rest.json_answer(
            {
                "model_name": model.name,
                "model_version": model.version,
                "predictions": [
                    {
                        "index": p.index,
                        "label": p.label,
                        "probability": p.probability,
                        "top": [{"index": i, "label": n, "probability": q} for i, n, q in p.top],
                    }
                    for p in found
                ],
                "milliseconds": (time.monotonic() - began) * 1e3,
            }
        )

    # All else

    def _table(self) -> Sequence[Route]:
        model = "/v2/models/{name}"
        table: dict[str, tuple[str, Callable[[Request], Awaitable[Response]]]] = {
            "/": ("GET", self._page),
            "/metrics": ("GET", self._metrics),
            "/v2": ("GET", self._server),
            "/v2/health/live": ("GET", self._live),
            "/v2/health/ready": ("GET", self._ready),
            "/v2/repository/index": ("POST", self._index),
            "/v2/repository/models/{name}/load": ("POST", self._load),
            "/v2/repository/models/{name}/unload": ("POST", self._unload),
        }
        for place in (model, model + "/versions/{version}"):
            table[place] = ("GET", self._model)
            table[place + "/ready"] = ("GET", self._model_ready)
            table[place + "/card"] = ("GET", self._card)
            table[place + "/infer"] = table[place + "/classify"] = ("POST", self._model)
        return [Route(path, work, methods=[method]) for path, (method, work) in table.items()]

    async def _page(self, _: Request) -> Response:
        page = Path(__file__).parent / "page" / "index.html"
        return Response(page.read_bytes(), headers=_PAGE, media_type="text/html")

    async def _metrics(self, _: Request) -> Response:
        return Response(self.metrics.page(), headers={"content-type": CONTENT_TYPE})

    async def _server(self, _: Request) -> Response:
        version = version_of("repr-deploy")
        return _json({"name": "repr-serve", "version": version, "extensions": EXTENSIONS})

    async def _live(self, _: Request) -> Response:
        live = self.service.live
        return _json({"live": live}, 200 if live else 503)

    async def _ready(self, _: Request) -> Response:
        ready = self.service.ready
        return _json({"ready": ready}, 200 if ready else 503)

    async def _model(self, request: Request) -> Response:
        return _json(metadata(_found(self.service, request)))

    async def _model_ready(self, request: Request) -> Response:
        model = _found(self.service, request)
        return _json({"name": model.name, "ready": True})

    async def _card(self, request: Request) -> Response:
        return _json(card(_found(self.service, request)))

    async def _index(self, request: Request) -> Response:
        with Exchange(request.receive, self.options.read_timeout, self._lag) as exchange:
            body = await exchange.body(fields_of(request.scope), 2**16)
        try:
            asked = orjson.loads(body or b"{}")
        except orjson.JSONDecodeError as error:
            raise RequestError(f"the request is no JSON: {error}") from error
        only = isinstance(asked, dict) and asked.get("ready") is True
        return _json(
            [
                {
                    "name": m.name,
                    "version": m.version,
                    "state": "READY" if m.ready else "UNAVAILABLE",
                    "reason": m.reason,
                }
                for m in self.service.index()
                if m.ready or not only
            ]
        )

    async def _load(self, request: Request) -> Response:
        return await self._change(self.service.load, request)

    async def _unload(self, request: Request) -> Response:
        return await self._change(self.service.unload, request)

    async def _change(self, change: Callable[[str], Any], request: Request) -> Response:
        if not self.options.allow_control:
            raise ControlForbiddenError(
                "models are loaded and unloaded only by a service that was started with --allow-control"
            )
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._control, change, request.path_params["name"])
        return Response()


def has_key(authorization: bytes, keys: Collection[bytes]) -> bool:
    """Whether ``Bearer KEY`` has a key of which ``keys`` has the SHA-256."""
    kind, _, key = authorization.partition(b" ")
    digest = hashlib.sha256(key.strip() if kind.lower() == b"bearer" else b"").digest()
    # All are compared, and digests of one length: the time says nothing of any key.
    return any([hmac.compare_digest(digest, known) for known in keys])  # noqa: C419


def _found(service: Service, request: Request) -> Model:
    return service.model(request.path_params["name"], request.path_params.get("version", ""))


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content, default=asdict), status, media_type="application/json")


def _seconds(given: bytes) -> float:
    """The client's own timeout, in seconds. Raises :class:`RequestError`."""
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise RequestError(f"X-Request-Timeout is {given!r:.30}, expected seconds")
    return seconds


def _refusal(error: BaseException) -> tuple[int, Fields, bytes]:
    """Status, head's fields and body for what went wrong; what is not a client's is logged."""
    status = status_of(error)
    if status.http == 500:
        _log.error("a request failed", exc_info=error)
    words = str(error) if isinstance(error, errors.ReproError) else "internal error"
    head, body = rest.json_answer({"error": words})
    if status.again:
        head.append((b"retry-after", b"%d" % status.again))
    if status.http in (408, 413, 415):  # its body was not read
        head.append((b"connection", b"close"))
    if status.http == 401:
        head.append((b"www-authenticate", b"Bearer"))
    return status.http, head, body


async def _refuse(send: Send, error: BaseException) -> None:
    await reply(send, *_refusal(error))


async def _failed(_: Request, error: Exception) -> Response:
    status, head, body = _refusal(error)
    response = Response(body, status)
    response.raw_headers = head
    return response


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=CANCELLED.http)  # nobody reads it


async def _not_there(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    head = dict(error.headers or {})
    path, method = request.scope["path"], request.method
    words = f"there is nothing at {path!r:.80}; what is served begins with /v2"
    if takes := head.get("Allow"):
        words = f"{path!r:.80} is asked by {takes}, not by {method:.20}"
    response = _json({"error": words}, error.status_code)
    response.headers.update(head)
    return response
