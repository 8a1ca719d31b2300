"""Channel shuffles become Gathers that pick the same channels; whatever only looks like one stays."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from repr_export.passes.shuffle_to_gather import shuffle_to_gather

SHUFFLE = "p = Reshape(x, parted) t = Transpose<perm=[0,2,1,3,4]>(p) s = Reshape(t, joined)"
CONSTANTS = {"parted": [-1, 2, 3, 4, 5], "joined": [-1, 6, 4, 5], "sizes": [2, 4]}


def shuffled(
    graphs, body, *, given="float[N,6,4,5]", output="float[N,C,H,W] y", value_info="", **changes
):
    used = (CONSTANTS | changes).items()
    constants = {name: np.asarray(value) for name, value in used if f" {name})" in f"{body} "}
    return graphs.parse(f"g ({given} x) => ({output}) {value_info} {{ {body} }}", **constants)


@pytest.mark.parametrize(
    ("body", "changes", "kinds"),
    [
        (f"{SHUFFLE} y = Relu(s)", {}, ["Gather", "Relu"]),
        (SHUFFLE.replace("s =", "y ="), {}, ["Gather"]),
        (f"{SHUFFLE} y = Relu(s)", {"parted": [-1, 3, 2, 4, 5]}, ["Gather", "Relu"]),
        (
            f"{SHUFFLE} y, z = Split<axis=1>(s, sizes)",
            {
                "output": "float[N,C,H,W] y, float[N,D,H,W] z",
                "value_info": "<float[N,6,4,5] s, float[N,2,4,5] y, float[N,4,4,5] z>",
            },
            ["Gather", "Gather"],
        ),
        # the parts of a Split of samples are no channels
        (
            f"{SHUFFLE} y, z = Split<axis=0, num_outputs=2>(s)",
            {"output": "float[N,C,H,W] y, float[M,C,H,W] z"},
            ["Gather", "Split"],
        ),
        (
            f"{SHUFFLE} y = Relu(s) z = Neg(s)",
            {"output": "float[N,C,H,W] y, float[N,C,H,W] z"},
            ["Gather", "Relu", "Neg"],
        ),
    ],
    ids=["alone", "given out", "three groups", "parted again", "samples parted", "read twice"],
)
def test_the_same_channels_in_the_same_order(graphs, body, changes, kinds):
    model = shuffled(graphs, body, **changes)
    if "value_info" in changes:
        for node in model.graph:
            if node.op_type == "Split":
                for value, size in zip(node.outputs, (2, 4), strict=True):
                    value.shape = ir.Shape(["N", size, 4, 5])
    before = ir.to_proto(model)
    assert shuffle_to_gather(model).changed == 1
    assert [node.op_type for node in model.graph] == kinds
    assert {*model.graph.initializers} <= {
        value.name for node in model.graph for value in node.inputs
    }
    for size in (2, 6):
        x = np.random.default_rng(size).standard_normal((size, 6, 4, 5)).astype(np.float32)
        want, got = (
            ort.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
            for proto in (before, ir.to_proto(model))
        )
        for a, b in zip(want, got, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        (f"{SHUFFLE} y = Relu(s)".replace("0,2,1,3,4", "0,1,2,4,3"), {"joined": [-1, 6, 5, 4]}),
        (f"{SHUFFLE} y = Relu(s)", {"joined": [-1, 6, 5, 4]}),
        (f"{SHUFFLE} y = Relu(s)", {"joined": [-1, 3, 8, 5]}),
        (f"{SHUFFLE} y = Relu(s)", {"parted": [-1, 2, 3, 5, 4], "joined": [-1, 6, 5, 4]}),
        (f"{SHUFFLE} y = Relu(s)", {"parted": [4, 2, 3, 4, 5]}),
        (f"{SHUFFLE} y = Relu(s)", {"given": "float[N,6,4,W]"}),
        (f"{SHUFFLE} y = Relu(s)", {"given": "float[N,C,4,5]"}),
        (f"{SHUFFLE} y = Relu(s) z = Neg(t)", {"output": "float[N,C,H,W] y, float[N,A,B,C,D] z"}),
        (f"{SHUFFLE} y = Relu(s) z = Neg(p)", {"output": "float[N,C,H,W] y, float[N,A,B,C,D] z"}),
        (f"{SHUFFLE} y = Relu(s)", {"output": "float[N,C,H,W] y, float[N,A,B,C,D] t"}),
    ],
    ids=[
        *("pixels turned", "rows and columns", "other channels", "other pixels", "one batch size"),
        *("free pixels", "free channels", "read between", "read before", "given out between"),
    ],
)
def test_what_is_no_shuffle_stays(graphs, body, changes):
    model = shuffled(graphs, body, **changes)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert shuffle_to_gather(model).changed == 0
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
