"""The protocol over REST: raw bytes by the binary tensor extension, or JSON where that is not spoken."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from repr_bench.remote.http import Connections, HttpOpenLoop, Reply
from repr_bench.remote.protocol import (
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
from repr_runtime.errors import DeadlineExceededError, QueueFullError

_HEADER_LENGTH = b"inference-header-content-length"
_REFUSED, _LATE = (429, 503), (408, 504)


class RestClient:
    """``model`` of ``server``; ``outputs`` are asked for, ``key`` is its API key, if any.

    ``binary`` says how tensors go; a first request that is answered settles it.
    """

    def __init__(self, server: Server, model: str, outputs: Sequence[str], key: str) -> None:
        self._server, self._outputs = server, outputs
        self._connections = Connections(server)
        version = f"/versions/{quote(server.version)}" if server.version else ""
        self._model = f"/v2/models/{quote(model)}{version}"
        self._fields = f"Host: {server.place}\r\n"
        if key:
            self._fields += f"Authorization: Bearer {key}\r\n"
        self._heads: dict[tuple[Any, ...], bytes] = {}
        self.binary: bool | None = None

    @property
    def how(self) -> str:
        """In words."""
        return "REST, binary tensors" if self.binary else "REST, JSON"

    def metadata(self) -> Metadata:
        reply = self._ask("GET", self._model)
        if reply.status == 404:
            raise NoModelError(self._says(reply))
        found = self._object(self._checked(reply).body)
        try:
            inputs, outputs = (
                tuple(
                    Tensor(t["name"], t["datatype"], tuple(map(int, t["shape"])))
                    for t in found.get(key) or ()
                )
                for key in ("inputs", "outputs")
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RemoteError(f"{self._server.name} describes no tensors: {error!r}") from error
        return Metadata(", ".join(map(str, found.get("versions") or ())), inputs, outputs)

    def models(self) -> list[str]:
        reply = self._ask("POST", "/v2/repository/index", b"{}")
        try:
            return sorted({str(one["name"]) for one in json.loads(reply.body)})
        except (ValueError, TypeError, KeyError):
            return []

    def infer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Raises :class:`QueueFullError` and :class:`DeadlineExceededError` too."""
        if self.binary is None:
            return self._settle(inputs)
        return self._read(self._connections.ask(self._request(inputs)))

    def open_loop(self, samples: Mapping[int, Arrays], seconds: float | None) -> HttpOpenLoop:
        ready = {key: self._request(inputs, seconds) for key, inputs in samples.items()}
        return HttpOpenLoop(self._server, lambda sample: ready[id(sample)], self._read)

    def close(self) -> None:
        self._connections.close()

    def _settle(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Raw bytes if the server takes them; what it says to JSON otherwise."""
        try:
            self.binary = True
            return self._read(self._connections.ask(self._request(inputs)))
        except RemoteError:
            self.binary = False
            try:
                return self._read(self._connections.ask(self._request(inputs)))
            except RemoteError:
                self.binary = None
                raise

    def _request(self, inputs: Arrays, seconds: float | None = None) -> list[bytes]:
        if not self.binary:
            tensors = [
                {**_described(name, array), "data": array.ravel().tolist()}
                for name, array in inputs.items()
            ]
            body = self._header(tensors, seconds)
            return [self._head("POST", f"{self._model}/infer", len(body), seconds), body]
        raw = [array.tobytes() for array in inputs.values()]
        key = (seconds, *(array.shape for array in inputs.values()))
        head = self._heads.get(key)
        if head is None:
            tensors = [
                {**_described(name, array), "parameters": {"binary_data_size": array.nbytes}}
                for name, array in inputs.items()
            ]
            header = self._header(tensors, seconds)
            size = len(header) + sum(map(len, raw))
            head = self._head("POST", f"{self._model}/infer", size, seconds, len(header)) + header
            self._heads[key] = head
        return [head, *raw]

    def _header(self, tensors: Sequence[Mapping[str, Any]], seconds: float | None) -> bytes:
        how = {"parameters": {"binary_data": True}} if self.binary else {}
        asked: dict[str, Any] = {"inputs": tensors}
        asked["outputs"] = [{"name": name, **how} for name in self._outputs]
        if seconds is not None:
            asked["parameters"] = {"timeout": round(seconds * 1e6)}
        return json.dumps(asked).encode()

    def _head(
        self, method: str, path: str, size: int, seconds: float | None = None, header: int = 0
    ) -> bytes:
        kind = "application/octet-stream" if header else "application/json"
        more = f"Inference-Header-Content-Length: {header}\r\n" if header else ""
        if seconds is not None:  # before the body is read it can be known then
            more += f"X-Request-Timeout: {seconds}\r\n"
        return (
            f"{method} {self._server.prefix}{path} HTTP/1.1\r\n{self._fields}"
            f"Content-Type: {kind}\r\n{more}Content-Length: {size}\r\n\r\n"
        ).encode()

    def _ask(self, method: str, path: str, body: bytes = b"") -> Reply:
        return self._connections.ask([self._head(method, path, len(body)), body])

    def _read(self, reply: Reply) -> dict[str, NDArray[Any]]:
        body = self._checked(reply).body
        length = reply.fields.get(_HEADER_LENGTH)
        end = len(body)
        if length is not None:
            end = int(length) if length.isdigit() else end
        found: dict[str, NDArray[Any]] = {}
        try:
            for tensor in self._object(body[:end])["outputs"]:
                datatype, shape = tensor["datatype"], tensor["shape"]
                size = (tensor.get("parameters") or {}).get("binary_data_size")
                if size is None:
                    found[tensor["name"]] = from_numbers(datatype, shape, tensor["data"])
                    continue
                begin, end = end, end + size
                found[tensor["name"]] = from_raw(datatype, shape, body[begin:end])
        except (KeyError, TypeError, AttributeError) as error:
            raise RemoteError(f"{self._server.name} answers what has no {error}") from error
        return found

    def _checked(self, reply: Reply) -> Reply:
        if reply.status == 200:
            return reply
        if reply.status in _REFUSED:
            raise QueueFullError(self._says(reply))
        if reply.status in _LATE:
            raise DeadlineExceededError(self._says(reply))
        if reply.status in (401, 403):
            raise RemoteError(
                f"{self._says(reply)}: give the key by --api-key-file or REPR_API_KEY"
            )
        raise RemoteError(self._says(reply))

    def _says(self, reply: Reply) -> str:
        """The status, and what the server says to it."""
        try:
            found = json.loads(reply.body)
            text = str(found.get("error") or found.get("detail") or "")
        except (ValueError, AttributeError):
            text = reply.body[:200].decode("utf-8", "replace")
        said = f": {' '.join(text.split()):.200}" if text.strip() else ""
        return f"{self._server.name} answered {reply.status}{said}"

    def _object(self, body: bytes) -> dict[str, Any]:
        try:
            found = json.loads(body)
        except ValueError as error:
            raise RemoteError(f"{self._server.name} answers no JSON: {error}") from error
        if not isinstance(found, dict):
            raise RemoteError(f"{self._server.name} answers no object, but {found!r:.60}")
        return found


def _described(name: str, array: NDArray[Any]) -> dict[str, Any]:
    dtype: np.dtype[Any] = array.dtype
    return {"name": name, "datatype": datatype_of(dtype), "shape": list(array.shape)}
