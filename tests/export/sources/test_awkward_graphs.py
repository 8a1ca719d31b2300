"""ONNX files of any age, and those that cannot be proven: exported, or refused in a sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from repr_export.errors import GraphError, OptionError, ParityError
from repr_export.options import ExportOptions
from repr_export.pipeline import export
from repr_export.sources.opening import open_source


@pytest.fixture
def write(graphs: Any, tmp_path: Path) -> Any:
    def write(opset: int, end: str = "y = Gemm(f, w, b)") -> str:
        content = graphs.content(
            f"""g (float[n,3,8,8] x) => (float[n,6] y) {{
                c = Conv <pads=[1,1,1,1]> (x, k) n = BN<epsilon=0.01>(c) r = Relu(n)
                p = GlobalAveragePool(r) f = Flatten(p) {end} }}""",
            opset=opset,
            ir_version=8,
            k=graphs.draw(4, 3, 3, 3),
            w=graphs.draw(4, 6),
            b=graphs.draw(6),
            **graphs.batchnorm(4),
        )
        path = tmp_path / f"opset{opset}.onnx"
        path.write_bytes(content)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("opset", "asked", "folded"),
    [
        *((n, None, n > 8) for n in (7, 8, 9, 13, 14, 26)),
        (7, 9, True),
        (8, 26, True),
        (26, 15, True),
    ],
)
def test_opsets_of_every_age(
    write: Any, tmp_path: Path, opset: int, asked: int | None, folded: bool
) -> None:
    receipts = export(write(opset), tmp_path / "o", ExportOptions(opset=asked)).manifest.receipts
    assert receipts["fold"]["summary"] == f"{int(folded)} of 1 BatchNorms folded"
    if not folded:
        assert f"opset {opset} defines" in receipts["fold"]["refused"][0]["reason"]
        assert "--opset 20" in receipts["fold"]["refused"][0]["reason"]


def test_opsets_that_nothing_runs_or_converts(write: Any) -> None:
    for opset, nearest in ((6, 20), (27, 26)):
        with pytest.raises(GraphError, match=f"of opset {opset}, and 7 to 26 .*--opset {nearest}"):
            open_source(write(opset), ExportOptions())
    with pytest.raises(GraphError, match=r"from opset 12 to 9: No Adapter .*; leave --opset out$"):
        open_source(write(12), ExportOptions(opset=9))


def test_labels_are_counted_in_the_file(write: Any, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")
    with pytest.raises(OptionError, match="2 labels, the network has 6 classes"):
        open_source(write(13), ExportOptions(labels=tmp_path / "labels.txt"))


def test_maps_and_sequences_are_no_outputs(tmp_path: Path) -> None:
    value = helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    )
    kind = helper.make_sequence_type_proto(value)
    node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_value_info("y", kind)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 1)])
    onnx.save(model, tmp_path / "iris.onnx")
    with pytest.raises(GraphError, match=r"'y' is no tensor.*zipmap=False"):
        open_source(str(tmp_path / "iris.onnx"), ExportOptions())


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (
            "m = Neg(f) l = Log(m) y = Gemm(l, w, b)",
            "nothing can be proven of output 'y': it is infinite or undefined",
        ),
        ("y = local.MyOp(f)", r"cannot run the graph: .*local.*MyOp"),
        (
            "y = Gemm(f, absent, b)",
            "not a valid .*'absent' of node: name: OpType: Gemm is not output of",
        ),
    ],
)
def test_libraries_say_nothing_themselves(
    write: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], end: str, message: str
) -> None:
    target = write(20, end)
    with pytest.raises((GraphError, ParityError), match=message) as caught:
        export(target, tmp_path / "o")
    assert "\n" not in str(caught.value)
    assert "onnxruntime_src" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_reshapes_that_do_not_fit_are_said_without_their_place_in_cpp(
    graphs: Any, tmp_path: Path
) -> None:
    text = "g (float[n,4] x) => (float[n,3] y) { y = Reshape(x, s) }"
    (tmp_path / "r.onnx").write_bytes(graphs.content(text, s=np.array([-1, 3])))
    with pytest.raises(GraphError, match=r"Reshape node.* Message: The input tensor cannot be"):
        export(str(tmp_path / "r.onnx"), tmp_path / "o")
