"""GroupNorm stays in OpenVINO's layout, with the same numbers; other normalizations stay as they are."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx_bytes import model_of

from repr_runtime.backends.openvino.compiling import core, require_precision
from repr_runtime.backends.openvino.group_norm import keep_layout


def normalized(
    to: list[int], given: tuple[int | str, ...], *, int8: bool = False
) -> tuple[Any, Any]:
    """The model of a Reshape of ``given`` and its InstanceNormalization, before and after."""
    nodes = [
        helper.make_node("Reshape", ["x", "to"], ["g"]),
        helper.make_node("InstanceNormalization", ["g", "one", "zero"], ["i"], epsilon=1e-3),
    ]
    if int8:
        nodes.insert(0, helper.make_node("QuantizeLinear", ["x", "scale", "level"], ["q"]))
        nodes.insert(1, helper.make_node("DequantizeLinear", ["q", "scale", "level"], ["d"]))
        nodes[2].input[0] = "d"
    weights = {
        **({"scale": np.float32(0.1), "level": np.int8(0)} if int8 else {}),
        "to": np.array(to),
        "one": np.ones(to[1], np.float32),
        "zero": np.zeros(to[1], np.float32),
    }
    graph = model_of(nodes, {"x": given}, {"i": ("N", *"ABC"[: len(to) - 1])}, weights)
    before, after = core().read_model(graph), core().read_model(graph)
    keep_layout(after)
    return before, after


def kinds(model: Any) -> Counter[str]:
    return Counter(op.get_type_name() for op in model.get_ops())


def test_the_same_numbers_without_a_turn() -> None:
    _, model = normalized([0, 3, -1], ("N", 12, 5, 4))
    assert kinds(model)["MVN"] == 0
    x = np.random.default_rng(0).normal(100, 2, (2, 12, 5, 4)).astype(np.float32)
    groups = x.astype(np.float64).reshape(2, 3, -1)
    groups = groups - groups.mean(2, keepdims=True)
    expected = groups / np.sqrt((groups**2).mean(2, keepdims=True) + 1e-3)
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core().compile_model(model, "CPU", config)
    assert require_precision("fp32", compiled) == "0 of 0 layers in fp32"  # of the network's
    got = compiled(x)[0]
    np.testing.assert_allclose(got.reshape(expected.shape), expected, atol=2e-4)


@pytest.mark.parametrize(
    ("to", "given"),
    [
        ([0, 8, -1], ("N", 12, 5, 4)),  # parts of channels
        ([0, 3, -1], ("N", 12, 20)),
        ([0, 3, 20, 4], ("N", 12, 5, 4)),
        ([0, 3, -1], ("N", 12, "H", 4)),
    ],
)
def test_another_normalization_stays(to: list[int], given: tuple[int | str, ...]) -> None:
    before, after = normalized(to, given)
    assert kinds(after) == kinds(before)
    assert kinds(after)["MVN"] == 1


def test_it_stays_next_to_int8() -> None:
    before, after = normalized([0, 3, -1], ("N", 12, 5, 4), int8=True)
    assert kinds(after) == kinds(before)
