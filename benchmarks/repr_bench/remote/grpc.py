"""The protocol over gRPC, in the messages that the service has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import grpc
from numpy.typing import NDArray

from repr_bench.remote.protocol import (
    ANSWER_SECONDS,
    Arrays,
    Metadata,
    NoModelError,
    RemoteError,
    Tensor,
    datatype_of,
    from_numbers,
    from_raw,
)
from repr_bench.request import Server
from repr_runtime import BatcherStats
from repr_runtime.errors import DeadlineExceededError, QueueFullError
from repr_serve.oip import wire

_Request = wire.message("ModelInferRequest")
_UNBOUNDED = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
_CONTENTS = ("bool", "int", "int64", "uint", "uint64", "fp32", "fp64")


class GrpcClient:
    """``model`` of ``server``; ``outputs`` are asked for, ``key`` is its API key, if any."""

    how = "gRPC"

    def __init__(self, server: Server, model: str, outputs: Sequence[str], key: str) -> None:
        self._server, self._model, self._outputs = server, model, outputs
        self._fields = (("authorization", f"Bearer {key}"),) if key else ()
        self._channel = (
            grpc.secure_channel(server.place, grpc.ssl_channel_credentials(), _UNBOUNDED)
            if server.secure
            else grpc.insecure_channel(server.place, _UNBOUNDED)
        )
        self._infer = self._method("ModelInfer")

    def metadata(self) -> Metadata:
        asked = {"name": self._model, "version": self._server.version}
        try:
            found = self._call("ModelMetadata", **asked)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise NoModelError(self._says(error)) from error
            raise self._error(error) from error
        inputs, outputs = (
            tuple(Tensor(t.name, t.datatype, tuple(t.shape)) for t in tensors)
            for tensors in (found.inputs, found.outputs)
        )
        return Metadata(", ".join(found.versions), inputs, outputs)

    def models(self) -> list[str]:
        try:
            return sorted({one.name for one in self._call("RepositoryIndex").models})
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise self._error(error) from error
            return []

    def infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Raises :class:`QueueFullError` and :class:`DeadlineExceededError` too."""
        try:
            return self._read(self._infer(self._request(inputs), timeout=ANSWER_SECONDS))
        except grpc.RpcError as error:
            raise self._error(error) from error

    def open_loop(self, samples: Mapping[int, Arrays], seconds: float | None) -> GrpcOpenLoop:
        ready = {key: self._request(inputs) for key, inputs in samples.items()}
        timeout = ANSWER_SECONDS if seconds is None else seconds
        send = partial(self._infer.future, timeout=timeout)
        return GrpcOpenLoop(lambda sample: send(ready[id(sample)]), self._answer)

    def close(self) -> None:
        self._channel.close()

    def _method(self, name: str) -> Any:
        made = self._channel.unary_unary(
            f"/{wire.PACKAGE}.{wire.SERVICE}/{name}",
            request_serializer=wire.message(f"{name}Request").SerializeToString,
            response_deserializer=wire.message(f"{name}Response").FromString,
        )
        return _WithFields(made, self._fields) if self._fields else made

    def _call(self, name: str, /, **asked: Any) -> Any:
        request = wire.message(f"{name}Request")(**asked)
        return self._method(name)(request, timeout=ANSWER_SECONDS)

    def _request(self, inputs: Arrays) -> Any:
        return _Request(
            model_name=self._model,
            model_version=self._server.version,
            inputs=[
                {"name": name, "datatype": datatype_of(array.dtype), "shape": array.shape}
                for name, array in inputs.items()
            ],
            outputs=[{"name": name} for name in self._outputs],
            raw_input_contents=[array.tobytes() for array in inputs.values()],
        )

    def _answer(self, call: Any) -> dict[str, NDArray[Any]]:
        """What a call that has ended came to."""
        try:
            return self._read(call.result())
        except grpc.RpcError as error:
            raise self._error(error) from error

    def _read(self, found: Any) -> dict[str, NDArray[Any]]:
        raw, outputs = found.raw_output_contents, found.outputs
        if raw and len(raw) != len(outputs):
            raise RemoteError(f"{self._server.name} answers {len(raw)} of {len(outputs)} outputs")
        if raw:
            return {
                tensor.name: from_raw(tensor.datatype, tensor.shape, content)
                for tensor, content in zip(outputs, raw, strict=True)
            }
        return {
            tensor.name: from_numbers(tensor.datatype, tensor.shape, _numbers(tensor.contents))
            for tensor in outputs
        }

    def _error(self, error: Any) -> Exception:
        code = error.code()
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return QueueFullError(self._says(error))
        if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):  # whoever saw it
            return DeadlineExceededError(self._says(error))
        key = ": give the key by --api-key-file or REPR_API_KEY"
        return RemoteError(self._says(error) + key * (code is grpc.StatusCode.UNAUTHENTICATED))

    def _says(self, error: Any) -> str:
        text = " ".join(str(error.details()).split())
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return f"{self._server.name} cannot be reached: {text:.200}"
        return f"{self._server.name} answered {error.code().name}: {text:.200}"


class _WithFields:
    """A method that is called with the same metadata each time."""

    def __init__(self, method: Any, fields: Any) -> None:
        self._method = method
        self.future = partial(method.future, metadata=fields)
        self._call = partial(method, metadata=fields)

    def __call__(self, request: Any, timeout: float) -> Any:
        return self._call(request, timeout=timeout)


class GrpcOpenLoop:
    """Calls that are begun as they come; the channel's own thread hears the answers."""

    def __init__(self, send: Any, answer: Any) -> None:
        self._send, self._answer = send, answer
        self._calls = set[Any]()

    def submit(self, sample: Any) -> Future[Any]:
        future: Future[Any] = Future()
        call = self._send(sample)
        self._calls.add(call)
        call.add_done_callback(partial(self._done, future))
        return future

    def stats(self) -> BatcherStats:
        return BatcherStats()

    def close(self, *, drain: bool = True) -> None:  # noqa: ARG002
        """Give up what is not answered; the channel is the client's."""
        for call in tuple(self._calls):
            call.cancel()

    def _done(self, future: Future[Any], call: Any) -> None:
        self._calls.discard(call)
        try:
            future.set_result(self._answer(call))
        except BaseException as error:  # cancelled, where the channel was closed
            future.set_exception(error)


def _numbers(contents: Any) -> Any:
    """Those that are there; each type has a list of its own."""
    lists = (getattr(contents, f"{kind}_contents") for kind in _CONTENTS)
    return next((found for found in lists if found), [])
