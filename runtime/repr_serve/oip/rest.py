"""An inference request over HTTP and its answer: JSON, with the protocol's binary tensor extension.

A body is a JSON header, and after its ``Inference-Header-Content-Length`` bytes the raw tensors,
in the order in which the header names them. Without that field of the head it is all JSON.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from repr_serve.errors import RequestError
from repr_serve.oip.tensors import NAMES, Layout, Signature, Wanted

HEADER_LENGTH = b"inference-header-content-length"
_JSON = (b"content-type", b"application/json")
_BINARY = (b"content-type", b"application/octet-stream")
_MOST_TENSORS = 1024
_KEPT = 64  # plans of a model, and answers' headers of a plan
_LONGEST_KEPT = 4096  # bytes
_UNSERVED = {
    "classification": "ask /classify for labels",
    "shared_memory_region": "send the tensor itself",
    "sequence_id": "each request stands alone",
}


@dataclass(frozen=True)
class Plan:
    """What a header asks for: ``layouts`` of the raw tensors, ``timeout`` in seconds.

    ``heads`` are the headers of answers that were made before, by what they speak of.
    """

    id: str
    layouts: tuple[Layout, ...]
    outputs: tuple[Wanted, ...]
    timeout: float | None
    heads: dict[tuple[Any, ...], bytes] = field(default_factory=dict)


class Reader:
    """Reads requests to one model. Clients send the same header again and again: each is read once."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._plans: dict[bytes, Plan] = {}

    def read(
        self, body: bytes, header_length: bytes | None
    ) -> tuple[Plan, dict[str, NDArray[Any]]]:
        """What is asked, and the arrays; they are views of ``body``.

        Raises :class:`InputError` and :class:`RequestError`.
        """
        if header_length is None:
            header_length = b"%d" % len(body)
        total = len(body)
        if not header_length.isdigit() or len(header_length) > 18 or int(header_length) > total:
            raise RequestError(
                f"Inference-Header-Content-Length is {header_length.decode('latin-1'):.30}, the "
                f"body has {total:,} bytes"
            )
        length = int(header_length)
        header = body[:length]
        inputs: dict[str, NDArray[Any]] = {}
        plan = self._plans.get(header)
        if plan is None:
            plan, inputs = self._parse(header)
            if not inputs and length <= _LONGEST_KEPT:  # all of it is in the header
                if len(self._plans) >= _KEPT:
                    self._plans.clear()
                self._plans[header] = plan
        for layout in plan.layouts:
            begin, length = length, length + layout.length
            if length > total:
                raise RequestError(
                    f"input {layout.name!r}: binary_data_size is {layout.length:,}, "
                    f"{total - begin:,} bytes are left"
                )
            inputs[layout.name] = layout.array(body, begin)
        if length != total:
            raise RequestError(f"the body has {total - length:,} bytes more than its tensors")
        return plan, inputs

    def _parse(self, header: bytes) -> tuple[Plan, dict[str, NDArray[Any]]]:
        """What a header asks for, and the arrays that are in it."""
        try:
            head = orjson.loads(header)
        except orjson.JSONDecodeError as error:
            raise RequestError(f"the request is no JSON: {error}") from error
        if not isinstance(head, dict):
            raise RequestError(f"the request is {_kind(head)}, expected a JSON object")
        given = head.get("inputs")
        if not isinstance(given, list) or not given or len(given) > _MOST_TENSORS:
            raise RequestError("the request has no list of inputs")
        layouts: dict[str, Layout] = {}
        inputs: dict[str, NDArray[Any]] = {}
        for tensor in given:
            if not isinstance(tensor, dict):
                raise RequestError(f"an input is {_kind(tensor)}, expected an object")
            name = self._signature.input(tensor.get("name")).name
            if name in inputs or name in layouts:
                raise RequestError(f"input {name!r:.60} is given twice")
            size = _parameters(tensor).get("binary_data_size")
            what = (name, tensor.get("datatype"), tensor.get("shape"))
            if size is None:
                inputs[name] = self._signature.of_values(*what, tensor.get("data"))
                continue
            if type(size) is not int or size < 0 or "data" in tensor:
                also = ", and there is data as well" if "data" in tensor else ""
                raise RequestError(f"input {name!r:.60}: binary_data_size is {size!r:.30}{also}")
            layouts[name] = self._signature.layout(*what, size)
        identifier = head.get("id", "")
        if not isinstance(identifier, str):
            raise RequestError(f"id is {_kind(identifier)}, expected a text")
        parameters = _parameters(head)
        outputs = _outputs(head.get("outputs"), parameters, self._signature)
        plan = Plan(identifier, tuple(layouts.values()), outputs, timeout_of(parameters))
        return plan, inputs


def answer(
    name: str, version: str, plan: Plan, outputs: Mapping[str, NDArray[Any]]
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The head's fields and the body."""
    wanted = plan.outputs
    if not all(output.binary for output in wanted):
        return _mixed(name, version, plan, outputs)
    arrays = [outputs[output.name] for output in wanted]
    key = (name, version, *[array.shape for array in arrays])
    head = plan.heads.get(key)
    if head is None:
        head = orjson.dumps(_head(name, version, plan, outputs))
        if len(plan.heads) >= _KEPT:
            plan.heads.clear()
        plan.heads[key] = head
    return _binary(head, [array.tobytes() for array in arrays])


def _mixed(
    name: str, version: str, plan: Plan, outputs: Mapping[str, NDArray[Any]]
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    head = orjson.dumps(_head(name, version, plan, outputs), option=orjson.OPT_SERIALIZE_NUMPY)
    raw = [outputs[output.name].tobytes() for output in plan.outputs if output.binary]
    return _binary(head, raw) if raw else ([_JSON, _length(head)], head)


def _binary(head: bytes, raw: list[bytes]) -> tuple[list[tuple[bytes, bytes]], bytes]:
    body = b"".join((head, *raw))
    return [_BINARY, (HEADER_LENGTH, b"%d" % len(head)), _length(body)], body


def _head(
    name: str, version: str, plan: Plan, outputs: Mapping[str, NDArray[Any]]
) -> dict[str, Any]:
    tensors = []
    for output in plan.outputs:
        array = outputs[output.name]
        tensor: dict[str, Any] = {
            "name": output.name,
            "datatype": NAMES[array.dtype],
            "shape": array.shape,
        }
        if output.binary:
            tensor["parameters"] = {"binary_data_size": array.nbytes}
        else:
            tensor["data"] = np.ascontiguousarray(array).reshape(-1)
        tensors.append(tensor)
    identifier = {"id": plan.id} if plan.id else {}
    return {"model_name": name, "model_version": version, **identifier, "outputs": tensors}


def json_answer(content: Any) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The same for anything that JSON can say."""
    body = orjson.dumps(content)
    return [_JSON, _length(body)], body


def _length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % len(body)


def _outputs(
    asked: object, parameters: Mapping[str, Any], signature: Signature
) -> tuple[Wanted, ...]:
    binary = parameters.get("binary_data_output") is True
    if asked is None or asked == []:
        return tuple(Wanted(name, binary) for name in signature.outputs)
    if not isinstance(asked, list) or len(asked) > _MOST_TENSORS:
        raise RequestError(f"outputs is {_kind(asked)}, expected a list")
    wanted = []
    for output in asked:
        if not isinstance(output, dict):
            raise RequestError(f"an output is {_kind(output)}, expected an object")
        own = _parameters(output).get("binary_data", binary)
        wanted.append(Wanted(signature.output(output.get("name")), own is True))
    require_once([output.name for output in wanted])
    return tuple(wanted)


def require_once(outputs: Sequence[str]) -> None:
    """Raise :class:`RequestError` where one is asked for again: a short request, a long answer."""
    if twice := [name for name, count in Counter(outputs).items() if count > 1]:
        raise RequestError(f"output {twice[0]!r} is asked for twice")


def _parameters(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise RequestError(f"parameters is {_kind(parameters)}, expected an object")
    refuse_unserved(parameters)
    return parameters


def refuse_unserved(parameters: Mapping[str, Any]) -> None:
    """Raises :class:`RequestError` for a parameter that would have to change the answer."""
    for name, way_out in _UNSERVED.items():
        if name in parameters and parameters[name] not in (0, ""):
            raise RequestError(f"parameter {name!r} is not served here; {way_out}")


def timeout_of(parameters: Mapping[str, Any]) -> float | None:
    """The protocol's extension ``timeout``, in microseconds, as seconds."""
    timeout = parameters.get("timeout")
    if timeout is None:
        return None
    if type(timeout) is not int or not 0 < timeout < 2**63:
        raise RequestError(f"timeout is {timeout!r:.30}, expected microseconds")
    return timeout / 1e6


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return "null" if value is None else names.get(type(value), "a number")
