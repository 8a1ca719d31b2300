"""Looks into an ONNX file, without onnx, for one thing: tensors kept in other files.

A graph may name files to read weights from. Those files stand in no manifest, so nothing
would notice a change in them, and the names may lead anywhere. The walk follows the
protobuf wire format (tag, length, payload) along the few fields that lead to tensors.
"""

from collections.abc import Iterator

from repr_runtime.errors import ModelLoadError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# message -> field number -> message, from onnx.proto: only what leads to a TensorProto
_PATHS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
}  # fmt: skip
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14


def external_tensors(content: bytes) -> bool:
    """Whether any tensor in the ONNX file ``content`` is kept outside of it.

    Raises :class:`ModelLoadError` if the bytes are not in the protobuf wire format.
    """
    view = memoryview(content)
    stack = [("model", view)]
    while stack:
        message, payload = stack.pop()
        for number, kind, value in _fields(payload):
            if message == "tensor":
                if number == _TENSOR_EXTERNAL_DATA:
                    return True
                if number == _TENSOR_DATA_LOCATION and kind == _VARINT and value != 0:
                    return True
            elif kind == _BYTES and number in _PATHS[message]:
                assert isinstance(value, memoryview)
                stack.append((_PATHS[message][number], value))
    return False


def _fields(view: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """The fields of one message: number, wire type and value."""
    position, end = 0, len(view)
    while position < end:
        tag, position = _varint(view, position)
        if tag >= 2**32:  # readers differ in which field they take it for
            raise _damaged(f"tag {tag}")
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, position = _varint(view, position)
            yield number, kind, value
            continue
        if kind == _BYTES:
            size, position = _varint(view, position)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise _damaged(f"wire type {kind}")
        if size > end - position:
            raise _damaged(f"a field of {size:,} bytes where {end - position:,} are left")
        yield number, kind, view[position : position + size]
        position += size


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(view) and shift < 70:
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _damaged("an unfinished number")


def _damaged(what: str) -> ModelLoadError:
    return ModelLoadError(f"the graph is not a readable ONNX file ({what}); export it again")
