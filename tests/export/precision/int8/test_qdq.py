"""Int8 graphs of both targets: which nodes become int8, and with which scales."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from half_graphs import engine_of
from int8_graphs import (
    INNER,
    OUTPUTS,
    dequantized,
    images,
    initializers,
    load,
    node,
    run,
    weights,
)

from repr_export.precision.int8 import quantize as quantize_module
from repr_export.precision.int8.qdq import channel_scales, quantize_weights
from repr_export.precision.int8.quantizable import TARGETS
from repr_export.precision.int8.quantize import quantizable, quantize, quantize_alone
from repr_export.precision.int8.ranges import Range, Ranges, measure_ranges

# Scales


def test_channel_scales_by_hand() -> None:
    weights = np.zeros((3, 1, 1, 2))
    weights[0, 0, 0] = [1.27, -0.5]
    weights[1, 0, 0] = [-254.0, 2.0]
    scales = channel_scales(weights, 0)
    assert scales.dtype == np.float32
    np.testing.assert_allclose(scales, [0.01, 2.0, 1.0], rtol=1e-7)
    levels = quantize_weights(weights, scales, 0)
    # -0.5 / 0.01 = -50; 2 / 2 = 1; a channel of zeros stays zeros.
    assert levels.tolist() == [[[[127, -50]]], [[[-127, 1]]], [[[0, 0]]]]

    # The nearest level, ties to even, and never -128.
    values = np.array([[0.5, 1.5, 2.5, -127.0]])
    scales = channel_scales(values, 0)
    assert scales.tolist() == [1.0]
    assert quantize_weights(values, scales, 0).tolist() == [[0, 2, 2, -127]]
    assert quantize_weights(np.array([[-300.0]]), scales, 0).tolist() == [[-127]]
    # A channel of tiny weights keeps a normal scale.
    assert channel_scales(np.array([[1e-44]]), 0)[0] >= np.finfo(np.float32).tiny


@pytest.fixture(scope="module")
def graph(net: bytes, ranges: Ranges) -> onnx.GraphProto:
    """The network for TensorRT."""
    return load(quantize(net, ranges, target="tensorrt").graph)


@pytest.mark.parametrize("name", INNER)
def test_weights_are_int8_with_one_scale_a_channel(graph: onnx.GraphProto, name: str) -> None:
    arrays = initializers(graph)
    made = dequantized(graph, name, 1)
    assert onnx.helper.get_node_attr_value(made, "axis") == 0
    levels, scales, zeros = (arrays[each] for each in made.input)
    original = weights()[f"w_{name}"]
    assert levels.dtype == zeros.dtype == np.int8
    np.testing.assert_allclose(
        scales, np.abs(original).reshape(len(original), -1).max(axis=1) / 127, rtol=1e-6
    )
    assert not zeros.any()
    step = scales.reshape(-1, *[1] * (original.ndim - 1))
    assert (np.abs(levels * step - original) <= step * 0.5 * 1.0001).all()
    assert f"w_{name}" not in arrays  # the floats are gone: the file is smaller for it


def test_a_gemm_without_transposed_weights_has_its_channels_in_the_second_axis(graphs: Any) -> None:
    content = graphs.content(
        """g (float[N,4] x) => (float[N,2] y) {
            [a] h = Gemm(x, w1, b1) [b] i = Gemm(h, w2, b2) [c] y = Gemm(i, w3, b3) }""",
        **{f"w{i}": graphs.draw(*each) for i, each in enumerate([(4, 3), (3, 7), (7, 2)], 1)},
        **{f"b{i}": graphs.draw(each) for i, each in enumerate([3, 7, 2], 1)},
    )
    measured = measure_ranges(content, images(16, (4,)), "min-max")
    graph = load(quantize(content, measured, target="tensorrt").graph)
    made = dequantized(graph, "b", 1)
    assert onnx.helper.get_node_attr_value(made, "axis") == 1
    assert initializers(graph)[made.input[1]].shape == (7,)


def test_an_activation_scale_is_its_largest_value_over_127(graph: onnx.GraphProto) -> None:
    scale = initializers(graph)[dequantized(graph, "left", 0).input[1]]
    assert scale.shape == ()
    # Run by hand: the range is that of the first layer on the same images.
    first = weights()
    padded = np.pad(images().inputs, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    sums = (
        np.einsum("nchwij,ocij->nohw", windows, first["w_stem"])
        + first["b_stem"][None, :, None, None]
    )
    assert float(scale) == pytest.approx(sums.max() / 127, rel=1e-5)


# What becomes int8


@pytest.mark.parametrize("target", TARGETS)
def test_first_and_last_layers_stay_float(net: bytes, ranges: Ranges, target: Any) -> None:
    made = quantize(net, ranges, target=target)
    graph = load(made.graph)
    for name in ("stem", "head"):
        kept = initializers(graph)[node(graph, name).input[1]]
        assert kept.dtype == np.float32
        np.testing.assert_array_equal(kept, weights()[f"w_{name}"])
    for name in INNER:
        assert dequantized(graph, name, 0)
        assert dequantized(graph, name, 1)
    assert target == "cpu" or engine_of(made.graph)
    assert made.report.kept == {"stem": "first layer", "head": "last layer"}
    assert made.report.quantized == (*INNER, "sum")


@pytest.mark.parametrize("target", TARGETS)
def test_excluded_nodes_stay_float(net: bytes, ranges: Ranges, target: Any) -> None:
    made = quantize(net, ranges, target=target, exclude=["left2", "hidden"])
    graph = load(made.graph)
    for name in ("left2", "hidden"):
        np.testing.assert_array_equal(
            initializers(graph)[node(graph, name).input[1]], weights()[f"w_{name}"]
        )
        assert made.report.kept[name] == "excluded"
    assert dequantized(graph, "left", 1)
    assert dequantized(graph, "right", 1)
    # An addition also where no layer beside it is int8.
    for exclude in (["sum"], ["left2", "right"]):
        assert "sum" not in quantize(net, ranges, target=target, exclude=exclude).report.quantized


def test_an_addition_is_quantized_beside_the_layer_that_it_is_fused_with(
    net: bytes, ranges: Ranges
) -> None:
    for excluded, inputs in (
        ([], ["l2", "r_dq"]),
        (["left2"], ["l2_dq", "r"]),
        (["sum"], ["l2", "r"]),
    ):
        graph = load(quantize(net, ranges, target="tensorrt", exclude=excluded).graph)
        assert list(node(graph, "sum").input) == inputs


def test_an_identity_shortcut_shares_the_pair_of_its_block(graphs: Any) -> None:
    content = graphs.content(
        """g (float[N,3,6,6] input) => (float[N,4,6,6] y) {
            [stem] x = Conv(input, w1)
            [block] c = Conv<pads=[1,1,1,1]>(x, w2)
            [sum] t = Add(c, x)
            [head] y = Conv(t, w1b) }""",
        w1=graphs.draw(4, 3, 1, 1),
        w2=graphs.draw(4, 4, 3, 3),
        w1b=graphs.draw(4, 4, 1, 1),
    )
    measured = measure_ranges(content, images(16, (3, 6, 6)), "min-max")
    made = quantize(content, measured, target="tensorrt")
    graph = load(made.graph)
    assert node(graph, "sum").input[1] == node(graph, "block").input[0] == "x_dq"
    assert engine_of(made.graph)


def test_biases_are_float_and_zero_points_0_for_tensorrt(graph: onnx.GraphProto) -> None:
    arrays = initializers(graph)
    for name in INNER:
        np.testing.assert_array_equal(arrays[node(graph, name).input[2]], weights()[f"b_{name}"])
    pairs = [each for each in graph.node if each.op_type in ("QuantizeLinear", "DequantizeLinear")]
    # Q and DQ of x, which left and right share, of lr, f and r; DQ of weights
    assert len(pairs) == 4 + 4 + 4
    for pair in pairs:
        assert arrays[pair.input[2]].dtype == np.int8
        assert not arrays[pair.input[2]].any()
    assert not any(array.dtype in (np.uint8, np.int32) for array in arrays.values())


def test_cpus_get_bytes_from_0_to_255_and_whole_int32_biases(net: bytes, ranges: Ranges) -> None:
    graph = load(quantize(net, ranges, target="cpu").graph)
    arrays = initializers(graph)
    for name in INNER:
        data, weight, bias = (dequantized(graph, name, index) for index in range(3))
        assert arrays[data.input[2]].dtype == np.uint8
        assert arrays[weight.input[0]].dtype == np.int8
        assert arrays[weight.input[1]].shape == (OUTPUTS[name],)
        assert arrays[bias.input[0]].dtype == np.int32
    # Behind the ReLU no value is below 0, so that 0 is the lowest byte and no range is wasted.
    relu = dequantized(graph, "left2", 0)
    assert arrays[relu.input[2]] == 0
    # The operands of the addition go as low as they go up.
    operand = dequantized(graph, "sum", 1)
    assert 0 < arrays[operand.input[2]] < 255


def test_without_vnni_cpus_get_weights_of_7_bits(
    net: bytes, ranges: Ranges, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = {}
    for vnni in (True, False):
        monkeypatch.setattr(quantize_module, "cpu_has_vnni", lambda vnni=vnni: vnni)
        made = quantize(net, ranges, target="cpu")
        assert made.report.reduce_range is not vnni
        graph = load(made.graph)
        weight = dequantized(graph, "left", 1)
        largest[vnni] = np.abs(initializers(graph)[weight.input[0]].astype(int)).max()
    assert largest == {True: 127, False: 64}
    assert quantize(net, ranges, target="tensorrt").report.reduce_range is None


def test_only_the_node_asked_for(net: bytes, ranges: Ranges) -> None:
    for name, op in (("left2", "QuantizeLinear"), ("sum", "DequantizeLinear")):
        graph = load(quantize_alone(net, ranges, name, target="tensorrt"))
        assert dequantized(graph, name, 1)
        assert [each.op_type for each in graph.node].count(op) == 1


def test_layers_that_cannot_be_int8_say_why(graphs: Any) -> None:
    content = graphs.content(
        """g (float[N,4,4] x) => (float[N,4,4] y) {
            [a] h = MatMul(x, w) [b] i = MatMul(h, w) [c] s = MatMul(i, x) [d] y = MatMul(s, w) }""",
        w=graphs.draw(4, 4),
    )
    assert quantizable(content, "tensorrt").kept == {
        "a": "first layer",
        "c": "its weights are not constant float32",
        "d": "last layer",
    }
    made = quantize(content, measure_ranges(content, images(16, (4, 4))), target="tensorrt")
    assert made.report.quantized == ("b",)
    # The layers a and d read the same weights, and still find them in float.
    assert initializers(load(made.graph))["w"].dtype == np.float32
    assert engine_of(made.graph)


def test_transposed_convolutions_are_for_tensorrt_alone(graphs: Any) -> None:
    content = graphs.content(
        """g (float[N,3,6,6] input) => (float[N,2,8,8] y) {
            [stem] x = Conv(input, w1)
            [up] u = ConvTranspose<group=2>(x, w2)
            [body] v = Conv(u, w3)
            [head] y = Conv(v, w4) }""",
        w1=graphs.draw(4, 3, 1, 1),
        w2=graphs.draw(4, 3, 3, 3),
        w3=graphs.draw(2, 6, 1, 1),
        w4=graphs.draw(2, 2, 1, 1),
    )
    measured = measure_ranges(content, images(16, (3, 6, 6)), "min-max")
    made = quantize(content, measured, target="tensorrt")
    weight = dequantized(load(made.graph), "up", 1)
    assert onnx.helper.get_node_attr_value(weight, "axis") == 1
    assert engine_of(made.graph)
    cpu = quantize(content, measured, target="cpu")
    assert cpu.report.kept["up"] == "no int8 kernel on CPUs"
    assert "up" not in cpu.report.quantized
    feed = images(16, (3, 6, 6)).inputs
    for result in (made, cpu):
        np.testing.assert_allclose(run(result.graph, feed), run(content, feed), atol=1.0, rtol=0.1)


def test_nodes_without_a_name_are_called_after_their_output(graphs: Any) -> None:
    model = graphs.parse(
        """g (float[N,4] x) => (float[N,4] y) {
            h = Gemm(x, w, b) i = Gemm(h, w, b) y = Gemm(i, w, b) }""",
        w=graphs.draw(4, 4),
        b=graphs.draw(4),
    )
    for each in model.graph:
        each.name = "i" if each.outputs[0].name == "h" else None
    content = ir.to_proto(model).SerializeToString()
    measured = measure_ranges(content, images(16, (4,)))
    for target in TARGETS:  # "i" is taken
        assert quantize(content, measured, target=target).report.quantized == ("i_",)


def test_dead_channels_and_tensors_lose_nothing(graphs: Any) -> None:
    """A layer whose weights and inputs are all 0, as pruning leaves them, still has its bias."""
    content = graphs.content(
        """g (float[N,4] x) => (float[N,4] y) {
            [a] h = Gemm(x, z) [b] i = Gemm(h, z, b) [c] y = Gemm(i, w) }""",
        w=graphs.draw(4, 4),
        z=np.zeros((4, 4), np.float32),
        b=graphs.draw(4),
    )
    for method in ("min-max", "entropy", "percentile"):
        measured = measure_ranges(content, images(16, (4,)), method)
        assert measured.tensors["h"] == Range(0.0, 0.0)
        for target in TARGETS:
            made = quantize(content, measured, target=target)
            feed = images(16, (4,)).inputs
            np.testing.assert_allclose(run(made.graph, feed), run(content, feed), atol=0.01)
