"""Graphs that read tensors from other files are refused, wherever they hide the reference."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from refusals import refuses

from repr_runtime import load
from repr_runtime.artifact.onnx_file import _PATHS, cost_of
from repr_runtime.errors import ExternalDataError, ModelLoadError


def external(name: str = "weight") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def inside(name: str = "weight") -> TensorProto:
    return numpy_helper.from_array(np.ones(2, np.float32), name)


def value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2])


def branch(tensor: TensorProto) -> onnx.GraphProto:
    node = helper.make_node("Add", ["x", tensor.name], ["z"])
    return helper.make_graph([node], "branch", [], [value("z")], [tensor])


def of_nodes(*nodes: onnx.NodeProto, weights: Sequence[TensorProto] = ()) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [value("x")], [value("y")], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def in_initializer(tensor: TensorProto) -> onnx.ModelProto:
    return of_nodes(helper.make_node("Add", ["x", tensor.name], ["y"]), weights=[tensor])


def in_constant(tensor: TensorProto | None, **value: Any) -> onnx.ModelProto:
    constant = helper.make_node("Constant", [], ["c"], **(value or {"value": tensor}))
    return of_nodes(constant, helper.make_node("Add", ["x", "c"], ["y"]))


def in_if_body(tensor: TensorProto) -> onnx.ModelProto:
    true = numpy_helper.from_array(np.array(True), "condition")
    bodies = {"then_branch": branch(inside()), "else_branch": branch(tensor)}
    return of_nodes(
        helper.make_node("Constant", [], ["condition"], value=true),
        helper.make_node("If", ["condition"], ["y"], **bodies),
    )


def in_sparse_initializer(tensor: TensorProto) -> onnx.ModelProto:
    model = in_initializer(inside("dense"))
    indices = numpy_helper.from_array(np.arange(2), "indices")
    model.graph.sparse_initializer.add(values=tensor, indices=indices, dims=[4])
    return model


def in_sparse_attribute(tensor: TensorProto) -> onnx.ModelProto:
    indices = numpy_helper.from_array(np.arange(2), "indices")
    sparse = onnx.SparseTensorProto(values=indices, indices=tensor, dims=[2])
    return in_constant(None, sparse_value=sparse)


def in_function(tensor: TensorProto) -> onnx.ModelProto:
    model = of_nodes(helper.make_node("Relu", ["x"], ["y"]))
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    model.functions.append(
        helper.make_function("own", "F", [], ["c"], [constant], [helper.make_opsetid("", 20)])
    )
    return model


def in_training_info(tensor: TensorProto) -> onnx.ModelProto:
    model = of_nodes(helper.make_node("Relu", ["x"], ["y"]))
    model.training_info.add().initialization.CopyFrom(branch(tensor))
    return model


PLACES = [
    *(in_initializer, in_constant, in_if_body, in_sparse_initializer),
    *(in_sparse_attribute, in_function, in_training_info),
]


@pytest.mark.parametrize("place", PLACES)
def test_found_everywhere(tiny: Any, tmp_path: Path, place: Any) -> None:
    assert not cost_of(place(inside()).SerializeToString()).external
    path = tiny.write(tmp_path / "a", graph=place(external()).SerializeToString())
    parts = ("model.onnx", "other files, which no hash covers", "export it again")
    with refuses(ExternalDataError, *parts):
        load(path, device="cpu")


def test_either_mark_is_enough() -> None:
    located, marked = external(), external()
    located.ClearField("data_location")
    marked.ClearField("external_data")
    for tensor in (located, marked):
        assert cost_of(in_initializer(tensor).SerializeToString()).external


def test_the_walk_follows_every_field_of_onnx_that_leads_to_a_tensor() -> None:
    """The table of fields against onnx's own description of its format."""
    names = {
        "ModelProto": "model", "TrainingInfoProto": "training", "FunctionProto": "function",
        "GraphProto": "graph", "NodeProto": "node", "AttributeProto": "attribute",
        "SparseTensorProto": "sparse", "TensorProto": "tensor",
    }  # fmt: skip
    leading = {
        short: {
            field.number: names[field.message_type.name]
            for field in getattr(onnx, full).DESCRIPTOR.fields
            if field.message_type is not None and field.message_type.name in names
        }
        for full, short in names.items()
    }
    assert leading == {**_PATHS, "tensor": {}}


def test_a_tag_that_readers_take_for_different_fields_is_refused() -> None:
    """A number of more than 32 bits whose low bits are those of `graph`."""
    model = in_initializer(external())
    graph = model.graph.SerializeToString()
    tag, hidden = (7 << 3 | 2) + (1 << 32), bytearray()
    while tag >= 128:
        hidden.append(tag & 127 | 128)
        tag >>= 7
    hidden.append(tag)
    assert len(graph) < 128
    with pytest.raises(ModelLoadError, match="not a readable ONNX file"):
        cost_of(bytes(hidden) + bytes([len(graph)]) + graph)


@given(st.binary(max_size=200))
def test_any_bytes_are_walked_or_refused(content: bytes) -> None:
    try:
        assert cost_of(content).external in (True, False)
    except ModelLoadError as error:
        assert "; " in str(error)  # noqa: PT017
