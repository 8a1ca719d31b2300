"""An ONNX file of a stranger's, as far as its parsed content: sizes are looked at before bytes are read."""

import mmap
import os
import stat
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import onnx
from onnx import external_data_helper as external
from onnx import helper

from repr_export.errors import GraphError, in_one_line
from repr_runtime.artifact.onnx_file import cost_of
from repr_runtime.errors import LimitError

_LARGEST = 2**31
"""Bytes of an ONNX file, and of its tensors that lie in others: protobuf's own limit."""


def read_graph(path: Path) -> tuple[bytes, onnx.ModelProto]:
    """The bytes of the ONNX file at ``path``, and what they say with all tensors inside.

    Raises :class:`GraphError` for a file that is none, or would cost more than any network does.
    """
    try:
        content = _read(path)
        proto = onnx.load_model_from_string(content)
        _require_text(proto.graph, path)
        if cost_of(content).external:
            _require_whole(proto, path)
            external.load_external_data_for_model(proto, str(path.parent))
    except GraphError:
        raise
    except LimitError as error:
        raise GraphError(f"{path}: {error}") from error
    except Exception as error:  # protobuf's, onnx's and the file system's share no base
        raise not_valid(path, error) from error
    return content, proto


def not_valid(path: Path, error: Exception) -> GraphError:
    """What a library says against the file at ``path``."""
    return GraphError(
        f"{path} is not a valid ONNX file: {in_one_line(error) or type(error).__name__}"
    )


def _read(path: Path) -> bytes:
    """The whole file, which was walked through before it costs memory."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise GraphError(f"{path} is no file that could be read twice; copy it into one")
        if status.st_size > _LARGEST:
            raise GraphError(
                f"{path} has {status.st_size:,} bytes, an ONNX file has at most {_LARGEST:,}; keep "
                f"tensors in files beside it"
            )
        if not status.st_size:
            raise GraphError(f"{path} is not a valid ONNX file: it is empty")
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as view:
            cost_of(view)
        return stream.read(_LARGEST)


def _require_text(graph: onnx.GraphProto, path: Path) -> None:
    """Raise for a name that is not UTF-8, which protobuf's readers give as bytes, or refuse."""
    for name in _names(graph):
        if isinstance(name, bytes):
            raise GraphError(f"{path} has a name that is no text ({name!r:.60}); rename it")


def _names(graph: onnx.GraphProto) -> Iterator[str | bytes]:
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (dimension.dim_param for dimension in value.type.tensor_type.shape.dim)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name
            for body in (attribute.g, *attribute.graphs) if _has_graphs(attribute) else ():
                yield from _names(body)


def _has_graphs(attribute: onnx.AttributeProto) -> bool:
    return attribute.HasField("g") or len(attribute.graphs) > 0


def _require_whole(proto: onnx.ModelProto, path: Path) -> None:
    """Raise unless each tensor in another file has as many bytes there as its shape asks for."""
    total, folder = 0, path.parent.resolve()
    for tensor in _external_tensors(proto):
        about: Any = external.ExternalDataInfo(tensor)
        wanted = -(-prod(tensor.dims) * _bits(tensor) // 8)
        place = path.parent / about.location
        if not place.resolve().is_relative_to(folder):
            raise GraphError(
                f"{path} reads tensor {tensor.name!r:.60} from {about.location!r:.60}, outside of its "
                f"folder; copy the file there, and write the graph with its name"
            )
        there = os.stat(place).st_size - (about.offset or 0) if place.is_file() else 0
        given = there if about.length is None else about.length
        if min(tensor.dims, default=0) < 0 or given != wanted or there < wanted:
            raise GraphError(
                f"{path}: tensor {tensor.name!r:.60} of shape {list(tensor.dims)!s:.60} has {wanted:,} "
                f"bytes, {about.location!r:.60} has {given if there >= given else there:,} for it; "
                f"write the graph and its tensors again"
            )
        total += wanted
    if total > _LARGEST:
        raise GraphError(
            f"{path} has {total:,} bytes of tensors in other files, an artifact's graph at most "
            f"{_LARGEST:,} with all of them; export a smaller network"
        )


def _external_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    tensors: Iterable[onnx.TensorProto] = external._get_all_tensors(proto)
    return filter(external.uses_external_data, tensors)


def _bits(tensor: onnx.TensorProto) -> int:
    """Of an element, packed where two or four share a byte."""
    kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    if kind.endswith(("INT4", "FLOAT4E2M1")):
        return 4
    if kind.endswith("INT2"):
        return 2
    return 8 * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
