"""A graph as the bytes of an ONNX file, checked."""

import onnx
import onnx_ir as ir

from repr_export.errors import GraphError, first_line
from repr_runtime.machine import version_of

_LARGEST = 2**31 - 1


def serialize(model: ir.Model) -> bytes:
    """The ONNX file of ``model``, the same bytes for the same model.

    Raises :class:`GraphError` if it does not pass the onnx checker or is too large for a file.
    """
    model.producer_name, model.producer_version = "repr-deploy", version_of("repr-deploy")
    try:
        proto = ir.to_proto(model)
        if proto.ByteSize() > _LARGEST:
            raise GraphError(
                f"the graph has {proto.ByteSize():,} bytes; files of 2 GiB and more are not supported"
            )
        content: bytes = proto.SerializeToString(deterministic=True)
        onnx.checker.check_model(content)
    except GraphError:
        raise
    except Exception as error:  # protobuf's and onnx's share no base
        raise GraphError(
            f"the graph does not pass the onnx checker: {first_line(error)}"
        ) from error
    return content
