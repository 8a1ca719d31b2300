"""Requests that nearly are some: each is read or refused in words, by either protocol, and nothing else."""

import json
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from repr_runtime import errors
from repr_runtime.artifact.manifest import TensorSpec
from repr_serve.errors import RequestError
from repr_serve.grpc import inputs_of, parse
from repr_serve.oip import wire
from repr_serve.oip.rest import Reader
from repr_serve.oip.tensors import Signature

SPECS = {
    "a": TensorSpec("a", "float32", ("n", 2)),
    "b": TensorSpec("b", "int64", ("n",)),
}
SIGNATURE = Signature(SPECS, {"y": TensorSpec("y", "float32", ("n", 2))})
A, B = np.ones((3, 2), np.float32), np.arange(3)
HEAD: dict[str, Any] = {
    "id": "7",
    "parameters": {"timeout": 5, "binary_data_output": True},
    "inputs": [
        {"name": "a", "datatype": "FP32", "shape": [3, 2], "parameters": {"binary_data_size": 24}},
        {"name": "b", "datatype": "INT64", "shape": [3], "data": [0, 1, 2]},
    ],
    "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
}
ODD = st.sampled_from(
    [None, True, -1, 0, 2**63, 2**70, 1e308, 0.5, "", "a", "FP64", [], {}, [[[]]], {"a": 1}, "\0"]
)


def changed(value: Any, draw: Any) -> Any:
    """``value`` with some of its parts left out, doubled, or something odd in their place."""
    what = draw(st.integers(0, 11))
    if what == 0:
        return draw(ODD)
    if isinstance(value, dict):
        kept = {k: changed(v, draw) for k, v in value.items() if draw(st.integers(0, 11))}
        return (
            {**kept, draw(st.sampled_from(["data", "parameters", "x"])): 1} if what == 1 else kept
        )
    if isinstance(value, list):
        parts = [changed(part, draw) for part in value]
        return parts + parts[:1] if what == 1 else parts
    return value


def is_read_or_refused(read: Any) -> None:
    said = ""
    try:
        arrays = read()
    except (errors.InputError, RequestError) as error:
        said = str(error)
    else:
        assert all(isinstance(array, np.ndarray) for array in arrays.values())
    assert len(said) < 600


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_of_http(data: st.DataObject) -> None:
    reader = Reader(SIGNATURE)
    header = json.dumps(changed(HEAD, data.draw)).encode()
    spoilt = bytearray(header)
    for place in data.draw(st.lists(st.integers(0, len(header) - 1), max_size=2)):
        spoilt[place] = data.draw(st.integers(0, 255))
    body = bytes(spoilt) + A.tobytes()[: data.draw(st.integers(0, 24))]
    lengths = st.sampled_from([b"%d" % len(header), b"0", b"-1", b"9" * 20, b"", b"1_0", None])
    for length in (b"%d" % len(header), data.draw(lengths)):
        for _ in range(2):  # the second time its header may be known
            is_read_or_refused(lambda length=length: reader.read(body, length)[1])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_of_grpc(data: st.DataObject) -> None:
    message = wire.message("ModelInferRequest")(model_name="m", id="7")
    message.inputs.add(name="a", datatype="FP32", shape=[3, 2])
    message.inputs.add(name="b", datatype="INT64", shape=[3])
    for tensor in message.inputs:
        if data.draw(st.booleans()):
            tensor.datatype = data.draw(st.sampled_from(["FP16", "BF16", "BYTES", "INT8", ""]))
        if data.draw(st.booleans()):
            tensor.shape[0] = data.draw(st.sampled_from([-1, 0, 1, 2**62]))
        if data.draw(st.booleans()):
            tensor.contents.int64_contents.extend([0, 1, 2])
    for _ in range(data.draw(st.integers(0, 3))):
        message.raw_input_contents.append(bytes(data.draw(st.sampled_from([0, 6, 12, 24, 25]))))
    content = bytearray(message.SerializeToString())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=2)):
        content[place] = data.draw(st.integers(0, 255))
    kind = wire.message("ModelInferRequest")
    is_read_or_refused(lambda: inputs_of(parse(kind, bytes(content)), SIGNATURE))
