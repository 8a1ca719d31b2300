"""ONNX files of strangers: an export says what is wrong with one, before it costs memory or time."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import costly_graphs as costly
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from peak_memory import CHILD_ENVIRONMENT, forget_peak, peak_memory

from repr_export.errors import ExportError, GraphError
from repr_export.options import ExportOptions
from repr_export.pipeline import export
from repr_export.sources.opening import open_source
from repr_runtime import load, preflight

RELU = costly.graph([costly.node("Relu", ["input"], ["logits"])])


def opened(path: Path) -> None:
    open_source(str(path), ExportOptions())


def of(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "g.onnx"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (costly.calling(30, 2), "the limit is 10,000"),
        (costly.calling(3000, 1), "more than 64 deep, or without end"),
        (costly.sparse(2**34), "sparse tensors would be dense ones of more bytes"),
        (costly.many_messages(1, costly.field(4, b"A"), 300_000), "the limit is 250,000"),
        (costly.nested(10_000), "more than 100 deep"),
        (costly.of_dimensions(100_000, "operand"), "at most 64 can be run"),
        (RELU.replace(b"Relu", b"Re\xff\xfe"), r"no text \(b'Re\\xff\\xfe'\); rename it"),
        (RELU.replace(b"input", b"inp\xfft"), r"no text \(b'inp\\xfft'\)"),
        (b"", "it is empty"),
        (bytes(1000), "a field of number 0"),
        (RELU[:50], "are left"),
    ],
)
def test_refused_when_it_is_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes, words: str
) -> None:
    with pytest.raises(GraphError, match=words) as caught:
        opened(of(tmp_path, content))
    assert len(str(caught.value)) < 600 + len(str(tmp_path))
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="of the peak of memory, and sparse files")
def test_sparse_files_cost_nothing(tmp_path: Path) -> None:
    path = of(tmp_path, b"")
    forget_peak()
    before = peak_memory()
    for size, words in ((2**30, "a field of number 0"), (2**40, "an ONNX file has at most")):
        os.truncate(path, size)
        with pytest.raises(GraphError, match=words):
            opened(path)
    assert peak_memory() - before < 2**26


def with_external(tmp_path: Path, dims: list[int], **entries: str) -> Path:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    model = onnx.ModelProto.FromString(
        costly.graph([costly.node("Add", ["input", "w"], ["logits"])])
    )
    model.graph.initializer.append(tensor)
    return of(tmp_path, model.SerializeToString())


def test_tensors_in_other_files(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(np.float32([1, 2, 3, 4]).tobytes())
    source = open_source(str(with_external(tmp_path, [4], location="w")), ExportOptions())
    x = np.zeros((1, 4), np.float32)
    np.testing.assert_array_equal(source.reference({"input": x})["logits"], [[1, 2, 3, 4]])

    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 2**40)
    os.symlink(__file__, tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    for dims, entries, words in (
        ([4], {"location": "/etc/passwd"}, "outside of its folder"),
        ([4], {"location": "../../../etc/passwd"}, "outside of its folder"),
        ([4], {"location": "link"}, "outside of its folder"),
        ([4], {"location": "pipe"}, "'pipe' has 0 for it"),
        ([4], {"location": "nowhere"}, "'nowhere' has 0 for it"),
        ([4], {"location": "w\0"}, "null"),
        ([5], {"location": "w"}, r"of shape \[5\] has 20 bytes, 'w' has 16"),
        ([4], {"location": "w", "length": "12"}, "'w' has 12"),
        ([4], {"location": "w", "offset": "99999999999999"}, "'w' has -99,999,999,999,983"),
        ([4], {"location": "w", "offset": "-4", "length": "16"}, "must be non-negative"),
        ([4], {"location": "w", "offset": "x"}, "not a valid ONNX file"),
        ([4], {"location": "huge"}, "'huge' has 1,099,511,627,776"),
        ([2**38], {"location": "huge"}, "at most 2,147,483,648 with all of them"),
        ([-4], {"location": "w"}, "write the graph and its tensors again"),
    ):
        with pytest.raises(GraphError, match=words):
            opened(with_external(tmp_path, dims, **entries))


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "folder.onnx").mkdir()
    os.symlink("/dev/zero", tmp_path / "device.onnx")
    for name in ("pipe.onnx", "folder.onnx", "device.onnx", "none.onnx"):
        with pytest.raises(ExportError, match=f"there is no file .*{name}"):
            opened(tmp_path / name)


def test_tensors_that_are_not_as_they_say(tmp_path: Path) -> None:
    for dims, raw in (([4], b"1234567"), ([2**62], b"1234"), ([2**32, 2**32], b""), ([-1], b"")):
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=raw)
        model = onnx.ModelProto.FromString(
            costly.graph([costly.node("Add", ["input", "w"], ["logits"])])
        )
        model.graph.initializer.append(tensor)
        with pytest.raises(GraphError):
            export(str(of(tmp_path, model.SerializeToString())), tmp_path / "o")


def any_graph(node: onnx.NodeProto, x: Any, y: Any, **weights: Any) -> bytes:
    ends = [helper.make_tensor_value_info(*end) for end in (("x", *x), ("y", *y))]
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()]
    made = helper.make_graph([node], "g", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString()


F, INT, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = costly.node


@pytest.mark.parametrize(
    "content",
    [
        any_graph(node("ReduceSum", ["x"], ["y"], keepdims=0), (F, [2, 8]), (F, [])),
        any_graph(node("Mul", ["x", "x"], ["y"]), (F, []), (F, [])),
        any_graph(node("Slice", ["x", "o", "o"], ["y"]), (F, [2, 8]), (F, [0, 8]), o=np.array([0])),
        any_graph(node("IsNaN", ["x"], ["y"]), (F, []), (B, [])),
        any_graph(node("ArgMax", ["x"], ["y"], axis=0, keepdims=0), (F, [8]), (INT, [])),
        any_graph(node("Not", ["x"], ["y"]), (B, ["n", 3]), (B, ["n", 3])),
        any_graph(node("Cast", ["x"], ["y"], to=F), (TensorProto.UINT8, ["n", 3]), (F, ["n", 3])),
    ],
    ids=["scalar", "scalars", "nothing", "bool", "integer", "bools", "bytes"],
)
def test_outputs_of_every_kind_are_proven_again_at_load(tmp_path: Path, content: bytes) -> None:
    path = export(str(of(tmp_path, content)), tmp_path / "o").path
    assert all(check.passed for check in preflight(path, device="cpu", verify=True))
    with load(path, device="cpu") as session:
        assert session.self_test().samples >= 1


@pytest.mark.parametrize("shape", [["n", 2**40], ["n", 2**62, 4], [2**20, 2**14]])
def test_inputs_beyond_all_memory(tmp_path: Path, shape: list[int | str]) -> None:
    content = any_graph(node("ReduceSum", ["x"], ["y"], keepdims=0), (F, shape), (F, []))
    with pytest.raises(ExportError, match=r"of noise, at most 8,589,934,592 are made.*--samples"):
        export(str(of(tmp_path, content)), tmp_path / "o")


CHILD = """
import sys
import onnx_ir as ir
from peak_memory import peak_memory
from repr_export.graph.multiply_adds import activation_bytes
from repr_export.passes import run_pipeline
model = ir.load(sys.argv[1])
before = peak_memory()
run_pipeline(model)
print(activation_bytes(model) >= 2**27, peak_memory() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of the peak of memory")
def test_values_that_might_be_a_shape_are_not_all_looked_at(tmp_path: Path) -> None:
    """Shape inference took 100 bytes for each value of a row: 3.4 GB for these."""
    path = of(tmp_path, costly.large_constants(1, 2**25 + 1))
    command = [sys.executable, "-c", CHILD, str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True, env=CHILD_ENVIRONMENT
    )
    counted, taken = done.stdout.split()
    assert counted == "True"
    assert int(taken) < 2**30
