"""Half precision is written into the graph: types, Casts, rounding, and what stays in fp32."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repr_export.errors import PrecisionError
from repr_export.passes import fold_batchnorm, run_pipeline
from repr_export.passes._values import remember_float64, unrounded
from repr_export.precision.emulate import emulate_half
from repr_export.precision.formats import FORMATS, round_to
from repr_export.precision.half import HalfReport, to_half
from repr_export.precision.half_rules import largest_window
from repr_export.precision.overflow import find_overflows, largest_values
from repr_export.verify import run_graph

FP16, BF16, FLOAT = ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT


def engine_of(content: bytes) -> bytes | None:
    """What the builder of TensorRT-RTX makes of a graph; it needs no GPU. Fails if it refuses."""
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(content)
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        sizes = [tuple(n if d == -1 else d for d in tensor.shape) for n in (1, 2, 4)]
        profile.set_shape(tensor.name, *sizes)
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)


@pytest.fixture
def halve(graphs: Any) -> Any:
    """``to_half``, after which the graph must be valid, keep its signature, run and build.

    It may be off from the fp32 graph by ``tolerance`` of each output's range.
    """

    def run(
        model: ir.Model,
        precision: Any = "fp16",
        *,
        tolerance: float = 2e-2,
        build: bool = True,
        feeds: Any = None,
        **options: Any,
    ) -> HalfReport:
        before = copy.deepcopy(ir.to_proto(model))
        report = to_half(model, precision, **options)
        after = ir.to_proto(model)
        content = after.SerializeToString()
        onnx.checker.check_model(content, full_check=True)
        for ends in ("input", "output"):
            old, new = (getattr(proto.graph, ends) for proto in (before, after))
            assert [value.name for value in old] == [value.name for value in new]
            if options.get("io", "fp32") == "fp32":
                assert [v.type for v in old] == [v.type for v in new]
        emulated = emulate_half(model)
        onnx.checker.check_model(ir.to_proto(emulated), full_check=True)
        for batch in (1, 4):
            fed = feeds or graphs.feeds(ir.from_proto(before), batch)
            expected = graphs.run(before, fed)
            if options.get("io") == "half":
                fed = {name: array.astype(np.float16) for name, array in fed.items()}
            for runnable in [emulated] if precision == "bf16" else [emulated, model]:
                for want, got in zip(expected, graphs.run(runnable, fed), strict=True):
                    assert got.shape == want.shape
                    difference = np.abs(got.astype(np.float64) - want.astype(np.float64)).max()
                    assert difference <= tolerance * max(float(np.ptp(want)), 1e-3)
        if build:
            assert engine_of(content)
        return report

    return run


def types_of(model: ir.Model, op: str) -> list[ir.DataType | None]:
    """The type of each ``op``'s first output."""
    return [node.outputs[0].dtype for node in model.graph if node.op_type == op]


def reasons(report: HalfReport) -> dict[str, str]:
    """Why each operator was kept."""
    return {kept.op: kept.reason for kept in report.kept}


def folded(graphs: Any, name: str) -> ir.Model:
    model = graphs.capture(name)
    run_pipeline(model)
    return model


# Whole networks.


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_whole_network_becomes_fp16_with_one_cast_at_each_end(
    graphs: Any, halve: Any, name: str
) -> None:
    model = folded(graphs, name)
    floats = [node for node in model.graph if node.outputs[0].dtype == FLOAT]
    report = halve(model, tolerance=2e-3)
    assert (report.kept, report.casts, report.half) == ((), 2, len(floats))
    assert set(types_of(model, "Conv")) == set(types_of(model, "Gemm")) == {FP16}
    assert types_of(model, "Cast") == [FP16, FLOAT]
    for value in model.graph.initializers.values():
        assert value.dtype != FLOAT
    assert report.weights.values > 10_000
    assert report.weights.underflowed == report.weights.overflowed == 0
    assert str(report).startswith(f"{len(floats)} nodes in fp16, 2 casts")
    assert report.as_dict()["weights"]["values"] == report.weights.values


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_bf16_raises_the_opset_and_averages_many_values_in_fp32(
    graphs: Any, halve: Any, name: str
) -> None:
    model = folded(graphs, name)
    report = halve(model, "bf16", tolerance=2e-2)
    assert model.opset_imports[""] == 22
    assert model.ir_version >= 10
    assert set(types_of(model, "Conv")) == {BF16}
    kept = {kept.op: kept.reason for kept in report.kept}
    if name == "resnet20":
        assert kept == {"ReduceMean": "it averages over 64 values; bf16 is left 16 at most"}
        assert report.casts == 4
    else:
        assert (kept, report.casts) == ({}, 2)


def test_half_inputs_and_outputs_take_no_casts(graphs: Any, halve: Any) -> None:
    model = folded(graphs, "lenet5")
    report = halve(model, io="half", tolerance=2e-3)
    assert report.casts == 0
    assert [model.graph.inputs[0].dtype, model.graph.outputs[0].dtype] == [FP16, FP16]


def test_trained_network_keeps_its_classes() -> None:
    from repr_export.options import ExportOptions
    from repr_export.sources import open_source
    from repr_export.verify import sample_sets
    from repr_runtime.manifest import TensorSpec

    source = open_source("lenet5", ExportOptions())
    model = source.model()
    run_pipeline(model)
    real = sample_sets(
        (TensorSpec("input", "float32", ("batch", 3, 32, 32)),), source.preprocessing, None, None
    )[0]
    assert real.name == "real"
    inputs = {"input": real.inputs["input"][:200]}
    report = to_half(model, "fp16", samples=inputs)
    assert report.overflows == ()
    got = run_graph(ir.to_proto(emulate_half(model)).SerializeToString(), inputs)
    want = source.reference(inputs)
    (name,) = want
    assert np.mean(got[name].argmax(1) == want[name].argmax(1)) >= 0.99


def test_running_twice_changes_nothing_more(graphs: Any) -> None:
    model = folded(graphs, "lenet5")
    to_half(model, "fp16")
    before = ir.to_proto(model).SerializeToString()
    again = to_half(model, "fp16")
    assert (again.casts, again.weights.values) == (0, 0)
    assert ir.to_proto(model).SerializeToString() == before


def test_clone_leaves_the_fp32_graph_and_its_float64_values(graphs: Any) -> None:
    model = folded(graphs, "resnet20")
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    first = model.clone()
    to_half(first, "fp16")
    second = model.clone()
    to_half(second, "bf16")
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    conv = next(node for node in model.graph if node.op_type == "Conv")
    weight = conv.inputs[1]
    assert weight is not None
    assert not np.array_equal(unrounded(weight), unrounded(weight).astype(np.float32))


# Rounding.


def test_fp16_weights_are_rounded_once_from_the_float64_fold(graphs: Any) -> None:
    channels = 96
    weight = graphs.draw(channels, channels, 3, 3, seed=1)
    parameters = graphs.batchnorm(channels, seed=3)
    model = graphs.parse(
        f"g (float[N, {channels}, 4, 4] x) => (float[N, {channels}, 2, 2] y) {{"
        " c = Conv(x, w)  y = BatchNormalization(c, scale, shift, mean, var) }",
        w=weight,
        **parameters,
    )
    fold_batchnorm(model)
    to_half(model, "fp16")
    wide = {name: array.astype(np.float64) for name, array in parameters.items()}
    scale = wide["scale"] / np.sqrt(wide["var"] + float(np.float32(1e-5)))
    exact = weight.astype(np.float64) * scale[:, None, None, None]
    twice = exact.astype(np.float32).astype(np.float16)
    once = exact.astype(np.float16)
    assert (once != twice).any()  # else this test could not fail
    conv = next(node for node in model.graph if node.op_type == "Conv")
    assert conv.inputs[1] is not None
    np.testing.assert_array_equal(conv.inputs[1].const_value.numpy(), once)


def test_a_chain_of_folds_is_rounded_once(graphs: Any) -> None:
    weight = graphs.draw(96, 96, 1, 1, seed=1)
    before, after = (graphs.batchnorm(96, seed=seed, prefix=f"p{seed}") for seed in (1, 2))
    model = graphs.parse(
        """g (float[N, 96, 4, 4] x) => (float[N, 96, 4, 4] y) {
            b = BatchNormalization(x, p1scale, p1shift, p1mean, p1var)
            c = Conv(b, w)
            y = BatchNormalization(c, p2scale, p2shift, p2mean, p2var)
        }""",
        w=weight,
        **before,
        **after,
    )
    assert len(fold_batchnorm(model).folded) == 2
    wide = {name: array.astype(np.float64) for name, array in {**before, **after}.items()}
    first, second = (
        wide[f"p{n}scale"] / np.sqrt(wide[f"p{n}var"] + float(np.float32(1e-5))) for n in (1, 2)
    )
    exact = weight.astype(np.float64) * first[:, None, None] * second[:, None, None, None]
    (conv,) = model.graph
    assert conv.inputs[1] is not None
    np.testing.assert_allclose(unrounded(conv.inputs[1]), exact, rtol=1e-14)
    np.testing.assert_array_equal(conv.inputs[1].const_value.numpy(), exact.astype(np.float32))


def test_float64_values_that_no_longer_round_to_the_stored_ones_do_not_count() -> None:
    exact = np.array([1 + 2**-11 + 2**-40])
    value = ir.Value(name="w", const_value=ir.tensor(exact.astype(np.float32)))
    remember_float64(value, exact)
    assert unrounded(value) is exact
    assert round_to(unrounded(value), FORMATS["fp16"])[0] == 1 + 2**-10
    value.const_value = ir.tensor(np.array([3.0], np.float32))
    assert unrounded(value).tolist() == [3.0]


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["fp16", "bf16"]))
def test_rounding_is_to_the_nearest_and_to_even(number: float, precision: str) -> None:
    fmt = FORMATS[precision]
    rounded, counts = round_to(np.array([number]), fmt)
    got = float(rounded[0])
    bits = int(rounded.view(np.uint16)[0])
    if np.isinf(got):
        step = Fraction(fmt.largest) / (2**fmt.significant_bits - 1)
        assert abs(Fraction(number)) >= Fraction(fmt.largest) + step / 2
        assert counts.overflowed == 1
        return
    away = np.array([bits - 1, bits + 1], np.int64) & 0xFFFF
    error = abs(Fraction(number) - Fraction(got))
    for neighbour in away.astype(np.uint16).view(rounded.dtype).astype(np.float64):
        if np.isfinite(neighbour):
            other = abs(Fraction(number) - Fraction(float(neighbour)))
            assert error < other or (error == other and bits % 2 == 0)
    assert counts.underflowed == (number != 0 and got == 0)
    assert counts.subnormal == (0 < abs(got) < fmt.smallest_normal)


def test_bf16_rounding_is_not_by_way_of_float32() -> None:
    number = np.float64(1 + 2**-8 + 2**-40)
    assert float(round_to(np.array(number), FORMATS["bf16"])[0]) == 1 + 2**-7
    assert float(number.astype(np.float32).astype(BF16.numpy())) == 1.0


def test_lost_weights_are_counted(graphs: Any) -> None:
    weight = np.array([[1.0, 1e-6], [1e-9, 2.0]], np.float32)
    model = graphs.parse("g (float[N, 2] x) => (float[N, 2] y) { y = Gemm(x, w) }", w=weight)
    report = to_half(model, "fp16")
    assert (report.weights.values, report.weights.subnormal, report.weights.underflowed) == (
        4,
        1,
        1,
    )
    assert "1 of 4 weights became 0" in str(report)


# What stays in fp32.


def test_statistics_and_exponentials_stay_in_fp32(graphs: Any, halve: Any) -> None:
    model = graphs.parse(
        """g (float[N, 4, 8, 8] x) => (float[N, 4] y) {
            c = Conv <pads = [1, 1, 1, 1]> (x, w)
            i = InstanceNormalization(c, scale, shift)
            r = Relu(i)
            z = Resize <mode = "nearest"> (r, , scales)
            d = Conv(z, w)
            m = GlobalAveragePool(d)
            f = Flatten(m)
            y = Softmax(f)
        }""",
        w=graphs.draw(4, 4, 3, 3),
        scale=graphs.draw(4, seed=1),
        shift=graphs.draw(4, seed=2),
        scales=np.array([1, 1, 2, 2], np.float32),
    )
    report = halve(model)
    assert reasons(report) == {
        "InstanceNormalization": "normalisation statistics",
        "GlobalAveragePool": "it averages over 196 values; fp16 is left 128 at most",
        "Flatten": "it stands between nodes in fp32",
        "Softmax": "exponentials",
    }
    assert set(types_of(model, "Conv")) == {FP16}
    assert types_of(model, "Resize") == types_of(model, "Relu") == [FP16]
    assert report.casts == 4  # in, around the normalisation twice, before the mean
    resize = next(node for node in model.graph if node.op_type == "Resize")
    assert resize.inputs[2].dtype == FLOAT  # ONNX has no other type for it


def test_hand_made_normalisation_stays_in_fp32_as_a_whole(graphs: Any, halve: Any) -> None:
    model = graphs.parse(
        """g (float[N, 8] x) => (float[N, 4] y) {
            a = Gemm(x, w)
            m = ReduceMean <keepdims = 1> (a, axes)
            d = Sub(a, m)
            q = Pow(d, two)
            v = ReduceMean <keepdims = 1> (q, axes)
            e = Add(v, eps)
            s = Sqrt(e)
            n = Div(d, s)
            y = Gemm(n, u)
        }""",
        w=graphs.draw(8, 300),
        u=graphs.draw(300, 4, seed=5),
        two=np.float32(2),
        eps=np.float32(1e-12),
        axes=np.array([1]),
    )
    report = halve(model)
    assert {"ReduceMean", "Pow", "Add", "Sqrt"} <= set(reasons(report))
    assert set(types_of(model, "Gemm")) == {FP16}
    assert types_of(model, "Add") == [FLOAT]
    assert "would be 0 in fp16" in reasons(report)["Add"]


def test_weight_that_would_be_infinite_keeps_its_node(graphs: Any, halve: Any) -> None:
    weight = graphs.draw(4, 3, 3, 3)
    weight[1, 2, 0, 0] = 1e5
    model = graphs.parse(
        """g (float[N, 3, 8, 8] x) => (float[N, 4, 4, 4] y) {
            c = Conv(x, w)  s = Mul(c, small)  y = Conv(s, u)
        }""",
        w=weight,
        small=np.float32(1e-1),
        u=graphs.draw(4, 4, 3, 3, seed=4),
    )
    report = halve(model, feeds={"x": 1e-3 * graphs.draw(4, 3, 8, 8, seed=5)})
    assert reasons(report) == {"Conv": "its constant 'w' holds 1e+05; fp16 ends at 65504"}
    assert types_of(model, "Conv") == [FLOAT, FP16]


def test_values_too_large_on_samples_keep_who_makes_and_who_reads_them(
    graphs: Any, halve: Any
) -> None:
    text = """g (float[N, 3, 8, 8] x) => (float[N, 4, 4, 4] y) {
        [first] c = Conv(x, w)
        [relu] r = Relu(c)
        [shrink] s = Mul(r, small)
        [second] y = Conv(s, u)
    }"""
    weights = {
        "w": 5e3 * graphs.draw(4, 3, 3, 3),
        "small": np.float32(1e-4),
        "u": graphs.draw(4, 4, 3, 3, seed=4),
    }
    blind = graphs.parse(text, **weights)
    feeds = graphs.feeds(blind, 40)
    to_half(blind, "fp16")
    assert not np.isfinite(graphs.run(emulate_half(blind), feeds)[0]).all()

    model = graphs.parse(text, **weights)
    expected = graphs.run(model, feeds)[0]
    largest = float(np.abs(graphs.run(_showing(graphs, text, weights, "c"), feeds)[1]).max())
    report = halve(model, samples=feeds)
    assert [kept.node for kept in report.kept] == ["first", "relu", "shrink"]
    assert report.overflows[0].value == "c"
    assert report.overflows[0].nodes == ("first", "relu")
    assert report.overflows[0].largest == pytest.approx(largest)
    assert f"'c' reaches {largest:.4g}; fp16 ends at 65504" in report.kept[0].reason
    got = graphs.run(emulate_half(model), feeds)[0]
    assert np.abs(got - expected).max() < 2e-2 * np.ptp(expected)


def _showing(graphs: Any, text: str, weights: Any, name: str) -> ir.Model:
    model = graphs.parse(text, **weights)
    shown = next(v for node in model.graph for v in node.outputs if v.name == name)
    shown.type, shown.shape = ir.TensorType(FLOAT), ir.Shape(["N", 4, 6, 6])
    model.graph.outputs.append(shown)
    return model


def test_overflow_search_runs_in_batches_and_skips_bf16(graphs: Any) -> None:
    model = graphs.parse(
        "g (float[2, 3] x) => (float[2, 3] y) { y = Mul(x, k) }", k=np.float32(1e4)
    )
    samples = {"x": np.zeros((6, 3), np.float32)}
    samples["x"][5, 1] = -4.0
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.dtype == FLOAT
    assert {v.name: size for v, size in largest_values(model, samples).items()} == {
        "x": 4.0,
        "y": 4e4,
    }
    assert [o.value for o in find_overflows(model, FORMATS["fp16"], samples)] == ["y"]
    assert find_overflows(model, FORMATS["bf16"], samples) == ()


def test_overflow_search_refuses_samples_that_give_no_number(graphs: Any) -> None:
    model = graphs.parse("g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }")
    samples = {"x": np.full((2, 3), np.nan, np.float32)}
    with pytest.raises(PrecisionError, match="'x' is not a number"):
        to_half(model, "fp16", samples=samples)


@pytest.mark.parametrize(("name", "factor"), [("x", 1e5), ("y", 1.0)])
def test_half_ends_refuse_what_would_overflow_in_them(
    graphs: Any, name: str, factor: float
) -> None:
    model = graphs.parse(
        "g (float[N, 2] x) => (float[N, 2] y) { y = Gemm(x, w) }",
        w=np.full((2, 2), 1e-6 if name == "x" else 5e4, np.float32),
    )
    with pytest.raises(PrecisionError, match=f"'{name}' reaches .* in fp32"):
        to_half(model, "fp16", io="half", samples={"x": np.full((1, 2), factor, np.float32)})


def test_named_nodes_stay_and_what_lies_between_them(graphs: Any, halve: Any) -> None:
    model = folded(graphs, "lenet5")
    convs = [node.name for node in model.graph if node.op_type == "Conv"]
    report = halve(model, keep=convs)
    assert types_of(model, "Conv") == [FLOAT, FLOAT]
    assert types_of(model, "Relu")[0] == FLOAT
    assert set(types_of(model, "Gemm")) == {FP16}
    assert [kept.reason for kept in report.kept if kept.node in convs] == ["asked for"] * 2
    assert report.casts == 2  # none before or between the two


def test_name_to_keep_that_nobody_bears_is_refused_with_the_nearest(graphs: Any) -> None:
    model = folded(graphs, "lenet5")
    with pytest.raises(PrecisionError, match=r"'node_conv2' to be kept; did you mean node_conv2d"):
        to_half(model, "fp16", keep=["node_conv2"])


def test_bf16_ends_are_refused(graphs: Any) -> None:
    with pytest.raises(PrecisionError, match="NumPy knows no bfloat16"):
        to_half(folded(graphs, "lenet5"), "bf16", io="half")


def test_bf16_refuses_an_opset_too_old_to_convert(graphs: Any) -> None:
    model = graphs.parse("g (float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }", opset=13)
    with pytest.raises(PrecisionError, match="needs opset 22, the graph has 13"):
        to_half(model, "bf16")


def test_types_that_onnx_does_not_admit_keep_the_node(graphs: Any) -> None:
    text = """g (float[N, 3, 4, 4] x) => (float[N, 3, 1, 1] y, float[N, 3] z) {
        a = Relu(x)
        y = local.Strange(a)
        b = Flatten <axis = 1> (a)
        c = Gemm(b, w)
        z = local.Other(c)
    }
    <domain: "elsewhere", opset_import: ["": 20]> unused (p) => (q) { q = Relu(p) }"""
    model = graphs.parse(text, w=graphs.draw(48, 3))
    report = to_half(model, "fp16")
    assert reasons(report)["Strange"] == "local's Strange is not known to take fp16"
    assert types_of(model, "Gemm") == [FP16]
    for node in model.graph:
        if node.domain == "local":
            assert node.inputs[0].dtype == FLOAT


@pytest.mark.parametrize(("precision", "size"), [("fp16", 128), ("bf16", 16)])
def test_windows_up_to_the_bound_are_averaged_in_half(
    graphs: Any, precision: str, size: int
) -> None:
    assert largest_window(FORMATS[precision]) == size
    for over in (0, 1):
        model = graphs.parse(
            f"""g (float[N, 2, {size + over}] x) => (float[N, 2, 1] y) {{
                c = Conv(x, w)  m = GlobalAveragePool(c)  y = Conv(m, w)
            }}""",
            opset=22,
            w=graphs.draw(2, 2, 1),
        )
        kept = reasons(to_half(model, precision))
        assert ("GlobalAveragePool" in kept) == bool(over)


def test_window_that_the_graph_leaves_open_is_averaged_in_fp32(graphs: Any, halve: Any) -> None:
    model = graphs.parse(
        """g (float[N, 2, H, 8] x) => (float[N, 2, 1, 1] y) {
            c = Conv(x, w)  m = ReduceMean(c, axes)  y = Conv(m, w)
        }""",
        w=graphs.draw(2, 2, 1, 1),
        axes=np.array([2, 3]),
    )
    assert "leaves open" in reasons(halve(model, build=False))["ReduceMean"]


# Values, constants and bodies.


def test_a_value_is_cast_once_for_all_who_read_it(graphs: Any, halve: Any) -> None:
    model = graphs.parse(
        """g (float[N, 4] x) => (float[N, 4] y, float[N, 4] h) {
            h = Gemm(x, w)
            a = Exp(h)
            b = Softmax(h)
            c = Gemm(h, w)
            d = Gemm(x, w)
            e = Add(c, d)
            s = Add(a, b)
            t = Gemm(e, w)
            y = Mul(s, t)
        }""",
        w=graphs.draw(4, 4) / 4,
    )
    report = halve(model)
    # x, a and b to fp16; h to fp32 once, for two readers and the output; y to fp32
    assert report.casts == 5
    assert types_of(model, "Cast").count(FP16) == 3


def test_constant_read_in_both_types_is_stored_in_both(graphs: Any, halve: Any) -> None:
    model = graphs.parse(
        """g (float[N, 4] x) => (float[N, 4] y) {
            [a] h = Gemm(x, w)  [b] k = Relu(h)  [c] y = Gemm(k, w)
        }""",
        w=graphs.draw(4, 4),
    )
    halve(model, keep=["a"])
    stored = {name: value.dtype for name, value in model.graph.initializers.items()}
    assert stored == {"w": FLOAT, "w.fp16": FP16}
    assert [node.inputs[1].name for node in model.graph if node.op_type == "Gemm"] == [
        "w",
        "w.fp16",
    ]


def test_bodies_go_on_reading_fp32(graphs: Any, halve: Any) -> None:
    model = graphs.parse(
        """g (float[N, 4] x, bool flag) => (float[N, 4] y) {
            h = Gemm(x, w)
            b = If(flag) <
                then_branch = then () => (float[N, 4] p) { q = Mul(h, h)  p = Add(q, w0) },
                else_branch = els () => (float[N, 4] r) { r = Neg(h) }
            >
            y = Gemm(b, w)
        }""",
        w=graphs.draw(4, 4),
        w0=graphs.draw(4),
    )
    for flag in (True, False):
        feeds = {"x": graphs.draw(4, 4, seed=3), "flag": np.array(flag)}
        report = halve(model.clone(), feeds=feeds, build=False)
        assert reasons(report) == {"If": "the body of an If is left as it is"}
        assert report.casts == 4


def test_default_of_an_input_stays_a_default(graphs: Any) -> None:
    text = "g (float[N, 4] x, float[4] k) => (float[N, 4] y) { h = Gemm(x, w)  y = Mul(h, k) }"
    default = graphs.draw(4, seed=2)
    for io, dtype in (("fp32", FLOAT), ("half", FP16)):
        model = graphs.parse(text, w=graphs.draw(4, 4), k=default)
        to_half(model, "fp16", io=io)
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
        assert model.graph.initializers["k"].dtype == dtype
        assert model.graph.inputs[1].dtype == dtype
        np.testing.assert_allclose(
            model.graph.initializers["k"].const_value.numpy(), default, rtol=1e-3
        )


def test_arithmetic_on_shapes_stays_exact(graphs: Any) -> None:
    model = graphs.parse(
        """g (float[N, 1, L] x) => (float[N, 1, M] y, int64[1] m) {
            c = Conv(x, w)
            s = Shape <start = 2> (c)
            f = Cast <to = 1> (s)
            h = Mul(f, two)
            m = Cast <to = 7> (h)
            sizes = Concat <axis = 0> (minus, m)
            t = Concat <axis = 2> (c, c)
            y = Reshape(t, sizes)
        }""",
        w=graphs.draw(1, 1, 1),
        two=np.float32(2),
        minus=np.array([-1, 1]),  # N, then the one channel
    )
    report = to_half(model, "fp16")
    assert report.kept == ()
    assert types_of(model, "Mul") == [FLOAT]
    x = graphs.draw(1, 1, 2049)
    y, m = graphs.run(model, {"x": x})
    assert m.tolist() == [4098]  # 2049 is no fp16 number
    assert y.shape == (1, 1, 4098)


def test_images_of_bytes_become_half_at_once(graphs: Any) -> None:
    model = graphs.parse(
        "g (uint8[N, 4] x, int64[N, 4] i) => (float[N, 4] y, float[N, 4] z) {"
        " f = Cast <to = 1> (x)  y = Gemm(f, w)  j = Cast <to = 1> (i)  z = Gemm(j, w) }",
        w=np.eye(4, dtype=np.float32),
    )
    report = to_half(model, "fp16")
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    x = np.array([[0, 1, 254, 255]], np.uint8)
    assert graphs.run(model, {"x": x, "i": x.astype(np.int64)})[0].tolist() == x.tolist()
    assert [kept.op for kept in report.kept] == ["Cast"]  # of int64


def test_floats_made_of_integers_become_half_by_a_cast(graphs: Any) -> None:
    model = graphs.parse(
        "g (float[N, 4] x, int64[2] n) => (float[M, 4] y) {"
        " c = ConstantOfShape <value = float[1] {2.5}> (n)  h = Gemm(x, w)  y = MatMul(c, h) }",
        w=np.eye(4, dtype=np.float32),
    )
    report = to_half(model, "fp16")
    assert reasons(report) == {"ConstantOfShape": "its output's type is not that of its inputs"}
    assert types_of(model, "MatMul") == [FP16]
    feeds = {"x": np.ones((3, 4), np.float32), "n": np.array([2, 3])}
    assert graphs.run(model, feeds)[0].tolist() == [[7.5] * 4] * 2


def test_quantized_nodes_stay_and_the_rest_becomes_half(graphs: Any, halve: Any) -> None:
    model = graphs.parse(
        """g (float[N, 3, 6, 6] x) => (float[N, 4, 2, 2] y) {
            c = Conv(x, w)
            r = Relu(c)
            q = QuantizeLinear(r, s, zero)
            d = DequantizeLinear(q, s, zero)
            e = DequantizeLinear(v, t, zero)
            y = Conv(d, e)
        }""",
        w=graphs.draw(4, 3, 3, 3),
        v=np.random.default_rng(0).integers(-127, 128, (4, 4, 3, 3)).astype(np.int8),
        s=np.float32(0.05),
        t=np.float32(1e-6),
        zero=np.int8(0),
    )
    report = halve(model, tolerance=5e-2)
    assert types_of(model, "Conv") == [FP16, FLOAT]
    assert model.graph.initializers["s"].dtype == model.graph.initializers["t"].dtype == FLOAT
    assert reasons(report)["Conv"] == "it reads quantized values"
    assert report.casts == 2


# What a CPU makes of it.


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_emulation_is_half_arithmetic(graphs: Any, precision: Any) -> None:
    weight, x = graphs.draw(64, 5), graphs.draw(3, 64, seed=9)
    model = graphs.parse(
        "g (float[N, 64] x) => (float[N, 5] y) { h = Gemm(x, w)  y = Add(h, h) }", w=weight
    )
    to_half(model, precision)
    kind = FORMATS[precision].dtype
    emulated = emulate_half(model)
    half = kind.numpy()
    exact = x.astype(half).astype(np.float64) @ weight.astype(half).astype(np.float64)
    h = exact.astype(np.float32).astype(half).astype(np.float32)
    expected = (h + h).astype(half).astype(np.float32)
    np.testing.assert_array_equal(graphs.run(emulated, {"x": x})[0], expected)
    assert types_of(model, "Gemm") == [kind]  # the original is left


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("optimize", [True, False])
def test_rounding_survives_the_optimizer(graphs: Any, precision: Any, optimize: bool) -> None:
    model = graphs.parse(
        "g (float[N, 64] x) => (float[N, 64] y) { a = Mul(x, k)  b = Add(a, x)  y = Gemm(b, one) }",
        k=np.float32(1.25),
        one=np.eye(64, dtype=np.float32),
    )
    to_half(model, precision)
    x = graphs.draw(1, 64)
    half = FORMATS[precision].dtype.numpy()
    start = x.astype(half).astype(np.float32)
    product = (start * np.float32(1.25)).astype(half).astype(np.float32)
    expected = (product + start).astype(half).astype(np.float32)
    assert (expected != (start * np.float32(2.25)).astype(half).astype(np.float32)).any()
    content = ir.to_proto(emulate_half(model)).SerializeToString()
    (y,) = run_graph(content, {"x": x}, optimize=optimize).values()
    np.testing.assert_array_equal(y, expected)


def test_emulation_keeps_half_ends(graphs: Any) -> None:
    model = folded(graphs, "lenet5")
    x = graphs.feeds(model, 2)["input"]
    wide = model.clone()
    to_half(wide, "fp16")
    to_half(model, "fp16", io="half")
    emulated = emulate_half(model)
    assert [v.name for v in emulated.graph.outputs] == [v.name for v in model.graph.outputs]
    (got,) = graphs.run(emulated, {"input": x.astype(np.float16)})
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, graphs.run(emulate_half(wide), {"input": x})[0])
