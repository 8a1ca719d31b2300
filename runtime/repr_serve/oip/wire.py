"""The protocol's messages on the wire, from a table of their fields: no generated code.

They live in a pool of their own, since another package of the process may have its own copies.
"""

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE, SERVICE = "inference", "GRPCInferenceService"

METHODS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
)
"""Of each, the request and the response are named for it."""

_TENSOR = "name string, datatype string, shape int64*"
_WITH_CONTENTS = _TENSOR + ", parameters <InferParameter>, contents InferTensorContents"

# Fields in the order of their numbers, from 1: name and type; * is repeated, <X> a map from text,
# | one of several.
MESSAGES = {
    "InferParameter": (
        "bool_param bool|, int64_param int64|, string_param string|, double_param double|, "
        "uint64_param uint64|"
    ),
    "InferTensorContents": (
        "bool_contents bool*, int_contents int32*, int64_contents int64*, uint_contents uint32*, "
        "uint64_contents uint64*, fp32_contents float*, fp64_contents double*, "
        "bytes_contents bytes*"
    ),
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready bool",
    "ModelReadyRequest": "name string, version string",
    "ModelReadyResponse": "ready bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name string, version string, extensions string*",
    "ModelMetadataRequest": "name string, version string",
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "ModelMetadataResponse": (
        "name string, versions string*, platform string, "
        "inputs ModelMetadataResponse.TensorMetadata*, "
        "outputs ModelMetadataResponse.TensorMetadata*"
    ),
    "ModelInferRequest.InferInputTensor": _WITH_CONTENTS,
    "ModelInferRequest.InferRequestedOutputTensor": "name string, parameters <InferParameter>",
    "ModelInferRequest": (
        "model_name string, model_version string, id string, parameters <InferParameter>, "
        "inputs ModelInferRequest.InferInputTensor*, "
        "outputs ModelInferRequest.InferRequestedOutputTensor*, raw_input_contents bytes*"
    ),
    "ModelInferResponse.InferOutputTensor": _WITH_CONTENTS,
    "ModelInferResponse": (
        "model_name string, model_version string, id string, parameters <InferParameter>, "
        "outputs ModelInferResponse.InferOutputTensor*, raw_output_contents bytes*"
    ),
    "RepositoryIndexRequest": "repository_name string, ready bool",
    "RepositoryIndexResponse.ModelIndex": "name string, version string, state string, reason string",
    "RepositoryIndexResponse": "models RepositoryIndexResponse.ModelIndex*",
    "RepositoryModelLoadRequest": "repository_name string, model_name string",
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": "repository_name string, model_name string",
    "RepositoryModelUnloadResponse": "",
}

_Field = descriptor_pb2.FieldDescriptorProto


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="repr_serve/open_inference.proto", package=PACKAGE, syntax="proto3"
    )
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for name in sorted(MESSAGES, key=lambda name: name.count(".")):  # what holds others first
        outer, _, inner = name.rpartition(".")
        made[name] = made[outer].nested_type.add() if outer else file.message_type.add()
        made[name].name = inner
        for number, field in enumerate(filter(None, MESSAGES[name].split(", ")), 1):
            _add_field(made[name], f".{PACKAGE}.{name}", number, *field.split(" "))
    return file


def _add_field(
    message: descriptor_pb2.DescriptorProto, place: str, number: int, name: str, kind: str
) -> None:
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if kind.endswith("|"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if kind.endswith("*") or kind.startswith("<"):
        field.label = _Field.LABEL_REPEATED
    plain = kind.strip("*|")
    if plain.startswith("<"):
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _add_field(entry, place, 1, "key", "string")
        _add_field(entry, place, 2, "value", plain.strip("<>"))
        field.type, field.type_name = _Field.TYPE_MESSAGE, f"{place}.{entry.name}"
    elif plain[0].isupper():
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{plain}"
    else:
        field.type = _Field.Type.Value(f"TYPE_{plain.upper()}")


@cache
def pool() -> Any:
    """The pool that holds the messages."""
    made = descriptor_pool.DescriptorPool()
    made.AddSerializedFile(_file().SerializeToString())
    return made


def message(name: str) -> Any:
    """The class of a message."""
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))
