"""Shortcuts without parameters become convolutions; whatever only looks like one stays."""

import numpy as np
import onnx_ir as ir
import pytest

from repr_export.graph.multiply_adds import count_multiply_adds, count_parameters
from repr_export.graph.values import graph_nodes, picks_channels
from repr_export.passes.shortcut_to_conv import MOST_CHANNELS, shortcut_to_conv

END = 2**63 - 1
CONSTANTS = {
    "start": [0],
    "end": [END],
    "rows": [2],
    "columns": [3],
    "step": [2],
    "pads": [0, 1, 0, 0, 0, 2, 0, 0],
    "zero": np.float32(0),
}
SLICES = "a = Slice(r, start, end, rows, step) b = Slice(a, start, end, columns, step)"
PAD = "y = Pad(b, pads)"


def shortcut(graphs, body, given="float[N,3,9,8]", output="float[N,C,H,W] y", **changed):
    """``r`` is the rectified input ``x``; ``body`` makes ``y`` of it."""
    kinds = {
        name: np.asarray(value, None if name == "zero" else np.int64)
        for name, value in (CONSTANTS | changed).items()
        if name in body.replace(",", " ").replace(")", " ").split()
    }
    return graphs.parse(f"g ({given} x) => ({output}) {{ {body.replace('(r', '(x')} }}", **kinds)


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (f"{SLICES} {PAD}", {}),
        (f"{SLICES} y = Pad(b, pads, zero)", {}),
        (f"{SLICES} y = Pad(b, pads, , one)", {"pads": [1, 2], "one": [-3]}),
        (f"a = Slice(r, start, end, rows, step) {PAD}".replace("b,", "a,"),
         {"start": [0, 0], "end": [9, 8], "rows": [-2, -1], "step": [3, 3]}),
        (f"c = Slice(r, start, end, one) {SLICES} {PAD}".replace("Slice(r, start, end, rows",
         "Slice(c, start, end, rows"), {"one": [1]}),
        (f"{SLICES} {PAD}", {"pads": [0] * 8}),
    ],
    ids=["exported", "a fill of 0", "pads by axis", "one Slice", "a Slice of all", "no more channels"],
)  # fmt: skip
def test_a_shortcut_becomes_one_convolution_bit_for_bit(graphs, body, changed):
    model = shortcut(graphs, body, **changed)
    before = count_multiply_adds(model), count_parameters(model) - ("zero" in body)
    result = graphs.assert_preserves(shortcut_to_conv, model, tolerance=0)
    assert str(result) == "1 shortcuts made convolutions"
    assert graphs.ops(model) == ["Conv"]
    assert list(model.graph.initializers) == [model.graph[0].inputs[1].name]
    assert (count_multiply_adds(model), count_parameters(model)) == before == ((), 0)
    assert shortcut_to_conv(model).changed == 0


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (f"{SLICES} {PAD}", {"start": [1]}),
        (f"{SLICES} {PAD}", {"end": [7]}),
        (f"{SLICES} {PAD}", {"end": [-1]}),
        (f"{SLICES} {PAD}", {"rows": [0]}),
        (f"{SLICES} {PAD}", {"rows": [1]}),
        (f"a = Slice(r, start, end, rows, step) {PAD}".replace("b,", "a,"), {}),
        (f"{SLICES} {PAD}", {"step": [1]}),
        (f"{SLICES} {PAD}", {"start": [-1], "end": [-END], "step": [-2]}),
        (f"{SLICES} {PAD}", {"pads": [1, 1, 0, 0, 0, 1, 0, 0]}),
        (f"{SLICES} {PAD}", {"pads": [0, 1, 1, 0, 0, 1, 0, 0]}),
        (f"{SLICES} {PAD}", {"pads": [0, -1, 0, 0, 0, 3, 0, 0]}),
        (f"{SLICES} y = Pad(b, pads, zero)", {"zero": np.float32(1)}),
        (f"{SLICES} y = Pad(b, pads, , one)", {"pads": [1, 2], "one": [2]}),
        (f"{SLICES} {PAD}".replace("Pad", 'Pad<mode="edge">'), {}),
        (f"{SLICES} z = Relu(b) {PAD}", {"output": "float[N,C,H,W] y, float[N,3,5,4] z"}),
        (f"{SLICES} {PAD}", {"output": "float[N,C,H,W] y, float[N,3,5,4] b"}),
        (f"{SLICES} {PAD}", {"given": "float[N,C,9,8]"}),
        (f"{SLICES} {PAD}", {"given": f"float[N,{MOST_CHANNELS + 1},9,8]"}),
        (f"{SLICES} {PAD}", {"given": "double[N,3,9,8]", "output": "double[N,C,H,W] y"}),
        (f"a = Slice(r, start, end) {PAD}".replace("b,", "a,"),
         {"start": [0] * 4, "end": [END] * 4}),
        (PAD.replace("b,", "x,"), {}),
    ],
    ids=[
        *("from the second", "not to the end", "to the last but one", "samples left out"),
        *("channels left out", "rows alone", "every pixel", "backwards", "more samples"),
        *("more rows", "fewer channels", "ones around", "pads of rows", "edges repeated"),
        *("read elsewhere", "given out", "free channels", "many channels", "float64", "no axes", "a Pad alone"),
    ],
)  # fmt: skip
def test_what_is_no_such_shortcut_stays(graphs, body, changed):
    model = shortcut(graphs, body, **changed)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert shortcut_to_conv(model).changed == 0
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_bounds_that_are_inputs_stay(graphs):
    model = graphs.parse(
        f"g (float[N,3,9,8] x, int64[1] step) => (float[N,C,H,W] y) {{ {SLICES} {PAD} }}".replace(
            "(r", "(x"
        ),
        **{
            name: np.asarray(CONSTANTS[name])
            for name in ("start", "end", "rows", "columns", "pads")
        },
    )
    assert shortcut_to_conv(model).changed == 0


@pytest.mark.parametrize(
    ("weight", "picks"),
    [
        (np.eye(3, 2), True),
        (np.eye(2)[::-1], True),
        (np.eye(2, 3), False),  # a channel is lost
        (np.array([[1, 0], [1, 0], [0, 1]]), False),  # one is there twice
        (2 * np.eye(3, 2), False),
        (np.array([[1, 1]]), False),
        (np.zeros((2, 2)), False),
    ],
)
def test_which_convolutions_pick_channels(graphs, weight, picks):
    model = graphs.parse(
        "g (float[N,C,4,4] x) => (float[N,D,4,4] y) { y = Conv(x, w) }",
        w=weight.astype(np.float32)[:, :, None, None],
    )
    assert [picks_channels(node) for node in graph_nodes(model)] == [picks]
