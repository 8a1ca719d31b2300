"""What only moves values in int8: a shortcut's convolution, a concatenation, a shuffle."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from repr_export.passes.shortcut_to_conv import shortcut_to_conv
from repr_export.precision.int8.quantize import quantizable, quantize
from repr_export.precision.int8.ranges import Range, Ranges
from repr_export.precision.receipt import read_precision

BLOCK = """g (float[N,4,8,8] x) => (float[N,6,1,1] y) {
    f = Conv<pads=[1,1,1,1]>(x, first) r = Relu(f)
    c = Conv<pads=[1,1,1,1], strides=[2,2]>(r, w)
    a = Slice(r, start, end, axes, step) p = Pad(a, pads)
    s = Add(c, p) t = Relu(s) m = GlobalAveragePool(t) y = Conv(m, last) }"""


@pytest.fixture
def block(graphs):
    model = graphs.parse(
        BLOCK,
        first=graphs.draw(4, 4, 3, 3),
        w=graphs.draw(6, 4, 3, 3, seed=1),
        last=graphs.draw(6, 6, 1, 1, seed=2),
        start=np.array([0, 0]),
        end=np.array([2**31, 2**31]),
        axes=np.array([2, 3]),
        step=np.array([2, 2]),
        pads=np.array([0, 1, 0, 0, 0, 1, 0, 0]),
    )
    before = read_precision(model)
    shapes = onnx.shape_inference.infer_shapes(ir.to_proto(model), strict_mode=True)
    model = ir.from_proto(shapes)
    assert shortcut_to_conv(model).changed == 1
    return ir.to_proto(model).SerializeToString(), before


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_it_goes_with_the_bytes_of_the_layer_beside_it(graphs, block, target):
    graph, before = block
    assert quantizable(graph, target).weighted == ("c",)
    assert "p" not in quantizable(graph, target).names
    names = ("x", "f", "r", "c", "p", "s", "t", "m", "y")
    # the shortcut's own range is narrower, as where the largest values are left out
    tensors = {name: Range(0.0 if name in "rtpm" else -4.0, 4.0) for name in names}
    tensors["p"] = Range(0.0, 3.0)
    made = quantize(graph, Ranges(tensors, "min-max", 1, "made up"), target=target)
    assert made.report.quantized == ("c", "s")
    model = ir.from_proto(onnx.load_model_from_string(made.graph))
    shortcut = next(node for node in model.graph if node.name in ("p", "node_p"))
    assert [value.producer().op_type for value in shortcut.inputs] == ["DequantizeLinear"] * 2
    receipt = read_precision(model)
    assert receipt.total == before.total
    assert "p" not in {node.node for node in receipt.nodes}
    # what comes out are the levels that went in
    result, source = shortcut.outputs[0], shortcut.inputs[0]
    if target == "cpu":
        result = result.uses()[0].node.outputs[0].uses()[0].node.outputs[0]
    model.graph.outputs[:] = [result, source]
    shown, read = graphs.run(model, graphs.feeds(model))
    np.testing.assert_allclose(shown[:, 1:5], read[:, :, ::2, ::2], rtol=1e-6)
    assert shown.any()
    assert not shown[:, [0, 5]].any()


def test_a_concatenation_for_cpus_has_one_scale_on_both_sides(graphs):
    model = graphs.parse(
        """g (float[N,4,8,8] x) => (float[N,2,8,8] y) {
            f = Conv(x, first) a = Conv(f, left) b = Conv(f, right) e = Conv(b, more)
            c = Concat<axis=1>(a, b) d = Concat<axis=1>(c, e) y = Conv(d, last) }""",
        **{name: graphs.draw(4, 4, 1, 1) for name in ("first", "left", "right", "more")},
        last=graphs.draw(2, 12, 1, 1),
    )
    graph = ir.to_proto(model).SerializeToString()
    tensors = {name: Range(-1.0, float(n)) for n, name in enumerate("xfabecdy", 1)}
    made = quantize(graph, Ranges(tensors, "min-max", 1, "made up"), target="cpu").graph
    nodes = onnx.load_model_from_string(made).graph
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in nodes.initializer}
    scales = {n.input[0]: weights[n.input[1]] for n in nodes.node if n.op_type == "QuantizeLinear"}
    widths = {name: round(float(scale) * 255 - 1) for name, scale in scales.items()}
    assert {name: widths[name] for name in "aced"} == dict.fromkeys("aced", 7)
    assert widths["b"] == 4  # another layer reads it


def test_a_shuffle_for_cpus_moves_bytes(graphs, tmp_path):
    model = graphs.parse(
        """g (float[N,4,8,8] x) => (float[N,2,8,8] y) {
            f = Conv(x, first) a = Conv(f, left) b = Conv(f, right)
            c = Concat<axis=1>(a, b) s = Gather<axis=1>(c, channels) d = Conv(s, more)
            y = Conv(d, last) }""",
        **{name: graphs.draw(4, 4, 1, 1) for name in ("first", "left", "right", "more")},
        last=graphs.draw(2, 4, 1, 1),
        channels=np.array([0, 4, 1, 5]),
    )
    graph = ir.to_proto(model).SerializeToString()
    tensors = {name: Range(-1.0, 1.0) for name in "xfabcsdy"}
    made = quantize(graph, Ranges(tensors, "min-max", 1, "made up"), target="cpu").graph
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4  # that such a file is for this machine alone
    ort.InferenceSession(made, options)
    kinds = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert kinds.count("Gather") == kinds.count("QLinearConcat") == 1
    between = kinds[kinds.index("QLinearConcat") : kinds.index("Gather") + 1]
    assert set(between) <= {"QLinearConcat", "Transpose", "Gather"}  # no turn to floats
