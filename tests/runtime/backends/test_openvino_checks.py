"""What OpenVINO would give wrong numbers for, and says nothing of, is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_bytes import model_of
from refusals import refuses

from repr_runtime import load
from repr_runtime.artifact.manifest import TensorSpec
from repr_runtime.errors import ModelLoadError, UnrunnableInputError
from repr_runtime.machine import cpu_has_vnni


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPR_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("float64", "input 'x' is float64, which OpenVINO computes in float32"),
        ("int64", "input 'x' is int64, which OpenVINO computes in int32"),
    ],
)
def test_numbers_that_it_would_narrow_are_refused(
    tiny: Any, tmp_path: Path, dtype: str, words: str
) -> None:
    kind = {"float64": TensorProto.DOUBLE, "int64": TensorProto.INT64}[dtype]
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    model = helper.make_model(
        helper.make_graph(
            nodes, "g", *([helper.make_tensor_value_info(n, kind, ["N", 2])] for n in "xy")
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    specs = [(TensorSpec(name, dtype, ("N", 2)),) for name in "xy"]
    path = tiny.write(
        tmp_path / "a",
        graph=model.SerializeToString(),
        inputs=specs[0],
        outputs=specs[1],
        labels=None,
        preprocessing=None,
    )
    with refuses(ModelLoadError, words):
        load(path, device="openvino")
    with load(path, device="cpu") as session:
        assert session.run(np.array([[2**40, 1]], dtype))["y"].tolist() == [[2**41, 2]]


@pytest.mark.parametrize(
    ("inputs", "nodes", "right", "wrong"),
    [
        # kernels that read what lies behind an operand that is too small
        ({"x": ("N", "K")}, ["MatMul x five y"], [(3, 5)], [(3, 4)]),
        ({"x": ("N", "A", 2)}, ["Flatten x flat", "Gemm flat ten y"], [(3, 5, 2)], [(3, 4, 2)]),
        # one that does nothing
        (
            {"x": ("N", 2), "z": ("M", 2)},
            ["Shape z sizes", "Reshape x sizes y"],
            [(3, 2), (3, 2)],
            [(3, 2), (5, 2)],
        ),
    ],
)
def test_sizes_that_do_not_fit_one_another_are_refused_at_each_run(
    tiny: Any, tmp_path: Path, inputs: Any, nodes: list[str], right: Any, wrong: Any
) -> None:
    with load(_model(tiny, tmp_path, nodes, inputs), device="openvino") as session:
        for _ in range(2):
            session.run(*[np.ones(shape, np.float32) for shape in right])
            with pytest.raises(UnrunnableInputError):
                session.run(*[np.ones(shape, np.float32) for shape in wrong])


def _model(tiny: Any, tmp_path: Path, nodes: list[str], inputs: Any) -> Path:
    made = [helper.make_node(op, names[:-1], names[-1:]) for op, *names in map(str.split, nodes)]
    parameters = {"five": np.ones((5, 2), np.float32), "ten": np.ones((10, 2), np.float32)}
    used = {name: parameters[name] for node in made for name in node.input if name in parameters}
    graph = model_of(made, inputs, {"y": ("N", "Y")}, used)
    specs = tuple(TensorSpec(name, "float32", shape) for name, shape in inputs.items())
    return tiny.write(
        tmp_path / "m",
        graph=graph,
        inputs=specs,
        outputs=(TensorSpec("y", "float32", ("N", "Y")),),
        labels=None,
        preprocessing=None,
    )


def test_a_graph_that_fits_one_batch_size_alone_is_refused(tiny: Any, tmp_path: Path) -> None:
    shape = helper.make_tensor("value", 7, [2], [5, 2])
    nodes = [
        helper.make_node("Constant", [], ["shape"], value=shape),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    path = tiny.write_model(tmp_path / "a", nodes, {"x": ("n", 2)}, {"y": (5, 2)})
    with refuses(
        ModelLoadError, "refuses the graph: ", "[5,2] is incompatible", "use device='cpu'"
    ):
        load(path, device="openvino")


def test_indices_that_nobody_checks_are_refused(tiny: Any, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ArgMax", ["z"], ["at"], axis=1, keepdims=0),
        helper.make_node("Gather", ["x", "at"], ["y"]),
    ]
    path = tiny.write_model(tmp_path / "a", nodes, {"x": ("n", 2), "z": ("n", 9)}, {"y": ("n", 2)})
    with refuses(ModelLoadError, "(Gather) has indices that are computed"):
        load(path, device="openvino")


def test_channels_in_another_order_are_refused_and_some_of_them_are_not(
    tiny: Any, tmp_path: Path
) -> None:
    for name, channels in (("all", [1, 0, 2]), ("some", [2, 0])):
        value = helper.make_tensor("value", 7, [len(channels)], channels)
        nodes = [
            helper.make_node("Constant", [], ["channels"], value=value),
            helper.make_node("Gather", ["x", "channels"], ["y"], axis=1),
        ]
        path = tiny.write_model(
            tmp_path / name, nodes, {"x": ("n", 3, 2, 2)}, {"y": ("n", len(channels), 2, 2)}
        )
        x = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
        if name == "all":
            with refuses(ModelLoadError, "(Gather) puts all channels in another order"):
                load(path, device="openvino")
            continue
        with load(path, device="openvino") as session:
            np.testing.assert_array_equal(session.run(x)["y"], x[:, channels])


@pytest.mark.skipif(not cpu_has_vnni(), reason="int8 is refused here")
@pytest.mark.parametrize("zero_point", [0, 3])
@pytest.mark.parametrize("pairs", ["behind", "in front"])
def test_signed_levels_next_to_a_concat_keep_their_scale(
    tiny: Any, tmp_path: Path, pairs: str, zero_point: int
) -> None:
    nodes = ["Relu x r", "Concat x r c", "Quantize c q", "Dequantize q d", "Conv d w y"]
    if pairs == "in front":
        nodes = ["Relu x r", "Quantize x q", "Dequantize q d", "Quantize r p", "Dequantize p e"]
        nodes += ["Concat d e c", "Conv c w y"]
    made = [helper.make_node("DequantizeLinear", ["levels", "step"], ["w"])]
    for op, *names, result in map(str.split, nodes):
        kind = f"{op}Linear" if op.endswith("uantize") else op
        given = names + (["scale", "zero"] if kind != op else [])
        axis = {"axis": 1} if op == "Concat" else {}
        made.append(helper.make_node(kind, given, [result], **axis))
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, (2, 4, 6, 6)).astype(np.float32)
    levels = rng.integers(-127, 128, (3, 8, 1, 1)).astype(np.int8)
    scale, zero = np.float32(0.04), np.int8(zero_point)
    weights = {"levels": levels, "step": np.float32(0.01), "scale": scale, "zero": zero}
    graph = model_of(made, {"x": ("N", 4, 6, 6)}, {"y": ("N", 3, 6, 6)}, weights)
    path = tiny.write(
        tmp_path / "a",
        graph=graph,
        more={"model.int8.onnx": (graph, "graph", "int8")},
        inputs=(TensorSpec("x", "float32", ("N", 4, 6, 6)),),
        outputs=(TensorSpec("y", "float32", ("N", 3, 6, 6)),),
        labels=None,
        preprocessing=None,
    )
    joined = np.concatenate([x, np.maximum(x, 0)], 1)
    rounded = np.clip(np.rint(joined / scale), -128 - zero_point, 127 - zero_point) * scale
    expected = np.einsum("oc,nchw->nohw", 0.01 * levels[:, :, 0, 0], rounded)
    with load(path, device="openvino", precision="int8") as session:
        np.testing.assert_allclose(session.run(x)["y"], expected, atol=1e-3)
