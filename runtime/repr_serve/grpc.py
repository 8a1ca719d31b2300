"""The Open Inference Protocol v2 over gRPC."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from repr_runtime import errors
from repr_runtime.machine import version_of
from repr_serve import tracing
from repr_serve.errors import (
    CANCELLED,
    ControlForbiddenError,
    KeyRequiredError,
    NotReadyError,
    RequestError,
    status_of,
)
from repr_serve.http import EXTENSIONS, has_key
from repr_serve.metrics import Metrics
from repr_serve.oip import rest, wire
from repr_serve.oip.cards import metadata
from repr_serve.oip.tensors import NAMES, Signature, signature_of
from repr_serve.service import Service
from repr_serve.settings import Settings

_log = logging.getLogger(__name__)
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Where the numbers of each type are; of the others only raw bytes are taken."""

_Request, _Response = wire.message("ModelInferRequest"), wire.message("ModelInferResponse")


async def start(service: Service, metrics: Metrics, settings: Settings) -> Any:
    """A server that answers already; ``stop(grace)`` ends it. Raises :class:`OptionError`."""
    limit = settings.http.max_body
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", int(settings.workers > 1)),
            ("grpc.server_handshake_timeout_ms", 10_000),
            ("grpc.keepalive_time_ms", 60_000),  # or a client whose machine is gone stays
        )
    )
    servicer = Servicer(service, metrics, settings)
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(servicer.method(name)) for name in wire.METHODS
    }
    service_name = f"{wire.PACKAGE}.{wire.SERVICE}"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service_name, handlers),))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    place = f"{host}:{settings.grpc_port}"
    try:
        if settings.tls_cert is not None and settings.tls_key is not None:
            pair = (settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())
            port = server.add_secure_port(place, grpc.ssl_server_credentials((pair,)))
        else:
            port = server.add_insecure_port(place)
    except RuntimeError as error:
        raise errors.OptionError(
            f"cannot listen on {place} ({error}); choose another --grpc-port, or --no-grpc"
        ) from error
    await server.start()
    _log.info("listening on grpc://%s:%d", host, port)
    return server


class Servicer:
    """The methods: bytes in, bytes out, so that what cannot be parsed is the client's mistake."""

    def __init__(self, service: Service, metrics: Metrics, settings: Settings) -> None:
        self._service, self._metrics = service, metrics
        self._options = settings.http

    def method(self, name: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """The handler of a method of the protocol."""
        if name == "ModelInfer":
            return self._infer
        request, response = wire.message(f"{name}Request"), wire.message(f"{name}Response")
        work = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server,
            "ModelMetadata": self._model,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }[name]

        async def answer(content: bytes, context: Any) -> bytes:
            try:
                if name not in ("ServerLive", "ServerReady"):
                    self._check_key(context)
                made = response(**await work(parse(request, content)))
                return bytes(made.SerializeToString())
            except Exception as error:
                await _abort(context, error)
                raise

        return answer

    def _check_key(self, context: Any) -> None:
        if self._options.keys:
            given = dict(context.invocation_metadata() or ()).get("authorization", "")
            if not has_key(str(given).encode(), self._options.keys):
                raise KeyRequiredError(
                    "this service asks for an API key: authorization: Bearer KEY"
                )

    async def _infer(self, content: bytes, context: Any) -> bytes:
        began = time.monotonic()
        name, outcome = "", "ok"
        try:
            self._check_key(context)
            request = parse(_Request, content)
            model = self._service.model(request.model_name, request.model_version)
            name = model.name
            signature = signature_of(model)
            parameters = _values(request.parameters)
            deadline = self._service.deadline(context.time_remaining())
            if (own := rest.timeout_of(parameters)) is not None:
                deadline = min(deadline, self._service.deadline(own))
            model.require_room(deadline)
            inputs = inputs_of(request, signature)
            asked = [signature.output(output.name) for output in request.outputs]
            rest.require_once(asked)
            for output in request.outputs:
                _values(output.parameters)
            model, outputs = await self._service.infer(model, inputs, deadline)
            response = _Response(model_name=model.name, model_version=model.version, id=request.id)
            for output in asked or signature.outputs:
                array = outputs[output]
                response.outputs.add(name=output, datatype=NAMES[array.dtype], shape=array.shape)
                response.raw_output_contents.append(array.tobytes())
            return bytes(response.SerializeToString())
        except asyncio.CancelledError:
            outcome = CANCELLED.kind
            raise
        except Exception as error:
            outcome = status_of(error).kind
            await _abort(context, error)
            raise
        finally:
            seconds = time.monotonic() - began
            self._metrics.count(name, "grpc", outcome, seconds)
            if tracing.active():
                texts = {key: str(value) for key, value in context.invocation_metadata() or ()}
                tracing.record("grpc", name, outcome, seconds, texts)

    async def _live(self, _: Any) -> dict[str, Any]:
        return {"live": self._service.live}

    async def _ready(self, _: Any) -> dict[str, Any]:
        return {"ready": self._service.ready}

    async def _model_ready(self, request: Any) -> dict[str, Any]:
        try:
            self._service.model(request.name, request.version)
        except NotReadyError:
            return {"ready": False}
        return {"ready": True}

    async def _server(self, _: Any) -> dict[str, Any]:
        version = version_of("repr-deploy")
        return {"name": "repr-serve", "version": version, "extensions": EXTENSIONS}

    async def _model(self, request: Any) -> dict[str, Any]:
        return metadata(self._service.model(request.name, request.version))

    async def _index(self, request: Any) -> dict[str, Any]:
        return {
            "models": [
                {
                    "name": m.name,
                    "version": m.version,
                    "state": "READY" if m.ready else "UNAVAILABLE",
                    "reason": m.reason,
                }
                for m in self._service.index()
                if m.ready or not request.ready
            ]
        }

    async def _load(self, request: Any) -> dict[str, Any]:
        return await self._change(self._service.load, request.model_name)

    async def _unload(self, request: Any) -> dict[str, Any]:
        return await self._change(self._service.unload, request.model_name)

    async def _change(self, change: Callable[[str], Any], name: str) -> dict[str, Any]:
        if not self._options.allow_control:
            raise ControlForbiddenError(
                "models are loaded and unloaded only by a service that was started with --allow-control"
            )
        await asyncio.to_thread(change, name)
        return {}


def parse(kind: Any, content: bytes) -> Any:
    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise RequestError(f"the request is no {kind.DESCRIPTOR.name}: {error}") from error


def _values(parameters: Any) -> Mapping[str, Any]:
    """Parameters by name. Raises :class:`RequestError` for one that is not served."""
    if not parameters:
        return {}
    found = {}
    for name, parameter in parameters.items():
        which = parameter.WhichOneof("parameter_choice")
        found[name] = None if which is None else getattr(parameter, which)
    rest.refuse_unserved(found)
    return found


def inputs_of(request: Any, signature: Signature) -> dict[str, NDArray[Any]]:
    """The arrays of a request; raises :class:`InputError` and :class:`RequestError`."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(
            f"raw_input_contents has {len(raw)} tensors, the request {len(request.inputs)} inputs"
        )
    found: dict[str, NDArray[Any]] = {}
    for index, tensor in enumerate(request.inputs):
        name, datatype, shape = tensor.name, tensor.datatype, list(tensor.shape)
        if name in found:
            raise RequestError(f"input {name!r:.60} is given twice")
        if tensor.parameters:
            _values(tensor.parameters)
        if raw:
            if tensor.HasField("contents"):
                raise RequestError(f"input {name!r:.60} has contents, and there are raw ones")
            content = raw[index]
            found[name] = signature.layout(name, datatype, shape, len(content)).array(content)
            continue
        place = _CONTENTS.get(datatype)
        if place is None:
            signature.layout(name, datatype, shape, 0)  # which says what is wrong
            raise RequestError(f"input {name!r:.60}: {datatype} is sent as raw_input_contents")
        values = list(getattr(tensor.contents, place))
        found[name] = signature.of_values(name, datatype, shape, values)
    return found


async def _abort(context: Any, error: Exception) -> None:
    """End the call with the status that the error has; raises what ends it."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    status = status_of(error)
    if status.http == 500:
        _log.error("a call failed", exc_info=error)
    words = str(error) if isinstance(error, errors.ReproError) else "internal error"
    try:
        await context.abort(getattr(grpc.StatusCode, status.grpc), words)
    except grpc.aio.AbortError:
        raise
    except Exception as gone:  # the client has, and nobody is told
        raise grpc.aio.AbortError from gone
