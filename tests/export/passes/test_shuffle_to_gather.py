"""Channel shuffles become Gathers that pick the same channels; whatever only looks like one stays."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from repr_export.passes.shuffle_to_gather import shuffle_to_gather

SHUFFLE = "p = Reshape(x, parted) t = Transpose<perm=[0,2,1,3,4]>(p) s = Reshape(t, joined)"
PARTS = f"{SHUFFLE} y, z = Split<axis=1>(s, sizes)"
TWO = "float[N,C,H,W] y, float[N,D,H,W] z"
CONSTANTS = {"parted": [-1, 2, 3, 4, 5], "joined": [-1, 6, 4, 5], "sizes": [2, 4]}


def shuffled(
    graphs, body, *, given="float[N,6,4,5]", output="float[N,C,H,W] y", value_info="", **changes
):
    used = (CONSTANTS | changes).items()
    constants = {name: np.asarray(value) for name, value in used if f" {name})" in f"{body} "}
    return graphs.parse(f"g ({given} x) => ({output}) {value_info} {{ {body} }}", **constants)


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [({}, (2, 4)), ({"parted": [-1, 3, 2, 4, 5]}, (2, 4)), ({"sizes": [1, 5]}, (1, 5))],
    ids=["two groups", "three groups", "other parts"],
)
def test_each_part_has_the_same_channels_in_the_same_order(graphs, changes, sizes):
    model = split(shuffled(graphs, PARTS, output=TWO, **changes), sizes)
    before = ir.to_proto(model)
    assert shuffle_to_gather(model).changed == 1
    assert [node.op_type for node in model.graph] == ["Gather", "Gather"]
    assert {*model.graph.initializers} == {node.inputs[1].name for node in model.graph}
    for size in (2, 6):
        x = np.random.default_rng(size).standard_normal((size, 6, 4, 5)).astype(np.float32)
        want, got = (
            ort.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
            for proto in (before, ir.to_proto(model))
        )
        for a, b in zip(want, got, strict=True):
            np.testing.assert_array_equal(a, b)


def split(model, sizes):
    """``model`` with the shapes that inference finds behind its Split."""
    node = next(node for node in model.graph if node.op_type == "Split")
    for value, size in zip(node.outputs, sizes, strict=True):
        value.shape = ir.Shape(["N", size, 4, 5])
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {"joined": [-1, 6, 5, 4]},
        {"joined": [-1, 3, 8, 5]},
        {"parted": [-1, 2, 3, 5, 4], "joined": [-1, 6, 5, 4]},
        {"parted": [4, 2, 3, 4, 5]},
        {"given": "float[N,6,4,W]"},
        {"given": "float[N,C,4,5]"},
        {"more": "w = Neg(t)", "output": f"{TWO}, float[N,A,B,C,D] w"},
        {"more": "w = Neg(p)", "output": f"{TWO}, float[N,A,B,C,D] w"},
        {"more": "w = Neg(s)", "output": f"{TWO}, float[N,C,H,W] w"},
        {"output": f"{TWO}, float[N,A,B,C,D] t"},
    ],
    ids=[
        *("rows and columns", "other channels", "other pixels", "one batch size", "free pixels"),
        *("free channels", "read between", "read before", "read behind", "given out between"),
    ],
)
def test_what_is_no_such_shuffle_stays(graphs, changes):
    body = f"{PARTS} {changes.pop('more', '')}" if "more" in changes else PARTS
    model = split(shuffled(graphs, body, **{"output": TWO, **changes}), (2, 4))
    stays(model)


@pytest.mark.parametrize(
    "body",
    [
        f"{SHUFFLE} y = Relu(s) z = Neg(x)",
        f"{SHUFFLE} y, z = Split<axis=0, num_outputs=2>(s)",
        PARTS,  # into parts of unknown sizes
        PARTS.replace("0,2,1,3,4", "0,1,2,4,3"),
    ],
    ids=["no Split", "samples parted", "sizes not known", "pixels turned"],
)
def test_what_no_split_of_channels_follows_stays(graphs, body):
    stays(shuffled(graphs, body, output=TWO))


def stays(model):
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert shuffle_to_gather(model).changed == 0
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
