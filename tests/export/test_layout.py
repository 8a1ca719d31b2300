"""Where each input of a graph has its batch, and what it takes to fill it."""

from typing import Any

import numpy as np
import pytest

from repr_export.errors import ExportError
from repr_export.layout import Layout, lay_out
from repr_runtime.artifact.manifest import TensorSpec

STATE = (("input", ("N", "T")), ("state", (2, "N", 8)), ("rate", ()))


def specs(*inputs: tuple[str, tuple[Any, ...]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, "float32", shape) for name, shape in inputs)


@pytest.mark.parametrize(
    ("inputs", "given", "axes", "size", "shapes"),
    [
        ((("x", ("N", 3, 8)),), {}, {"x": 0}, None, {"x": (3, 8)}),
        (
            (("x", (4, 3)), ("m", (4, 4)), ("w", (3, 4))),
            {},
            {"x": 0, "m": 0, "w": 1},
            4,
            {"w": (3,)},
        ),
        (
            (("x", ("N", "h", "w")), ("y", ("N", "h"))),
            {"x": (5, 6)},
            {"x": 0, "y": 0},
            None,
            {"y": (5,)},
        ),
        (
            STATE,
            {"input": (16,)},
            {"input": 0, "state": 1, "rate": None},
            None,
            {"state": (2, 8), "rate": ()},
        ),
        ((("x", ("x_0", 4)), ("h", (2, "h_1", 8))), {}, {"x": 0, "h": 1}, None, {"h": (2, 8)}),
        ((("x", ("t", "b", 4)),), {"x": (7, "N", 4)}, {"x": 1}, None, {"x": (7, 4)}),
        (
            (("x", ("N", 4)), ("k", ("rows", 4))),
            {"k": (6, 4)},
            {"x": 0, "k": None},
            None,
            {"k": (6, 4)},
        ),
        ((("k", ()), ("x", (3, 4))), {}, {"k": None, "x": 0}, 3, {"x": (4,)}),
    ],
)
def test_the_batch_is_found(
    inputs: Any, given: Any, axes: dict[str, int | None], size: int | None, shapes: Any
) -> None:
    layout, found = lay_out(specs(*inputs), given)
    assert (layout.axes, layout.size) == (axes, size)
    assert {name: found[name] for name in shapes} == shapes


@pytest.mark.parametrize(
    ("inputs", "given", "message"),
    [
        ((("x", ("N", 3, "h", "w")),), {}, "leaves h, w free; .* --input 3x224x224"),
        ((("x", ("N", 3)), ("y", ("N", "t"))), {}, "leaves t free; .* --input y=16"),
        ((("x", ("N", 3, "h")),), {"x": (1, 3, 8)}, "1x3x8 does not fit .* without the batch"),
        ((("x", ("N", 3, "h")),), {"x": (4, 8)}, "4x8 does not fit"),
        (
            (("x", ("N", "s")), ("y", ("N", "s"))),
            {"x": (3,), "y": (4,)},
            "as 4 and as 3; it is one",
        ),
        ((("x", ("N", 3)),), {"z": (3,)}, "--input names 'z'"),
        ((("x", (0, 3)),), {}, "fixed to 0"),
    ],
)
def test_what_does_not_fit_is_said(inputs: Any, given: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        lay_out(specs(*inputs), given)


def test_samples_become_runs() -> None:
    layout = Layout({"x": 1, "k": None}, 2)
    assert [rows.tolist() for rows in layout.parts(5)] == [[0, 1], [2, 3], [4, 0]]
    assert [len(rows) for rows in Layout({}, None, at_once=4).parts(9, 100)] == [4, 4, 1]
    samples = {"x": np.arange(15).reshape(5, 3), "k": np.arange(5)}
    run = layout.run_of(samples, [3, 4])
    assert run["x"].tolist() == [[9, 12], [10, 13], [11, 14]]
    assert run["k"] == 3
