"""The clean-up passes one by one, and the whole pipeline over captured and hand-made graphs."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import repr_export.passes as passes
from repr_export.passes import PIPELINE, PassError, fold_batchnorm, run_pipeline
from repr_export.passes.fold_constants import fold_constants
from repr_export.passes.infer_reshape_dim import infer_reshape_dim
from repr_export.passes.matmul_to_gemm import matmul_to_gemm
from repr_export.passes.remove_unused import remove_unused
from repr_export.passes.standard import drop_constant_inputs, inline_functions, lift_constants

BN = "BatchNormalization"


def test_resnet20_becomes_clean(graphs):
    model = graphs.capture("resnet20")
    batchnorms = graphs.ops(model).count(BN)
    report = graphs.assert_preserves(run_pipeline, model)
    assert str(report.fold) == f"{batchnorms} of {batchnorms} BatchNorms folded"
    assert report.fold.total == 19
    assert list(report.results) == [step.__name__ for step in PIPELINE]
    assert report.results["fold_batchnorm"].changed == 19
    ops = Counter(graphs.ops(model))
    assert ops["Conv"] == 19 + 2  # and the shortcuts
    assert report.fold.shortcuts == 2
    allowed = {"Conv", "Relu", "Add", "ReduceMean", "GlobalAveragePool"}
    assert set(ops) <= allowed | {"Reshape", "Flatten", "Gemm"}
    used = {value for node in model.graph for value in node.inputs}
    assert set(model.graph.initializers.values()) <= used
    # once more changes nothing
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not any(done.changed for done in run_pipeline(model).results.values())
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.large
@pytest.mark.slow
def test_resnet50_folds_53_of_53_with_biases_of_the_right_shape(graphs):
    model = graphs.capture("resnet50.imagenet", size=64)
    report = graphs.assert_preserves(run_pipeline, model, batches=(1, 2))
    assert str(report.fold) == "53 of 53 BatchNorms folded"
    ops = Counter(graphs.ops(model))
    assert ops["Conv"] == 53
    assert not set(ops) & {BN, "Shape", "Expand", "Cast", "CastLike", "Constant", "Identity"}
    for node in model.graph:
        if node.op_type == "Conv":
            weight, bias = (value.const_value for value in node.inputs[1:])
            assert tuple(bias.shape) == (weight.shape[0],)


def weights(graphs):
    """A BatchNorm of 6 channels, and weights of layers before it."""
    drawn = {"w": graphs.draw(6, 4, 3, 3), "v": graphs.draw(6, 6, 3, 3), "k": graphs.draw(1, 6)}
    return drawn | {"dense": graphs.draw(5, 6)} | graphs.batchnorm(6)


CONV = "g (float[N,4,9,9] x) => (float[N,C,H,W] y)"
PIPED = {
    # name: (graph, folded of all, operators left); a captured bias is Expand(CastLike, Shape(w))
    "a bias behind arithmetic": (
        CONV
        + """ { s = Shape<start=0, end=1>(w) one = Constant<value_ints=[1]>() e = Expand(s, one)
            z = Constant<value = float {0.0}>() l = CastLike(z, x) b = Expand(l, e)
            c = Conv(x, w, b) y = BN(c) }""",
        *("1 of 1", ["Conv"]),
    ),
    # as a BatchNorm without scale and shift is captured
    "parameters made on the spot": (
        CONV
        + """ { ones = ConstantOfShape<value = float[1] {1.0}>(six)
            zeros = ConstantOfShape<value = float[1] {0.0}>(six)
            c = Conv(x, w) y = BN(c, ones, zeros, mean, var) }""",
        *("1 of 1", ["Conv"]),
    ),
    "a dead reader": (
        CONV + " { c = Conv(x, w) d = Relu(c) e = Shape(d) y = BN(c) }",
        *("1 of 1", ["Conv"]),
    ),
    "what stays": (
        CONV + " { n = BN(x, m, m, m, m) y = Conv<pads=[1,1,1,1]>(n, w) }",
        *("0 of 1", [BN, "Conv"]),
    ),
    "functions": (
        CONV
        + """ { h = local.block(x, w, scale, shift, mean, var)
                y = local.block(h, v, scale, shift, mean, var) }
            <domain: "local", opset_import: ["" : 20]>
            block (x, w, scale, shift, mean, var) => (y) { c = Conv(x, w) y = BN(c) }""",
        *("2 of 2", ["Conv", "Conv"]),
    ),
    "a BatchNorm of constants": (
        "g (float[1,6] x) => (float[1,6] y) { c = BN(k) y = Add(x, c) }",
        *("0 of 1", [BN, "Add"]),
    ),
}


@pytest.mark.parametrize("name", PIPED)
def test_the_pipeline_leaves(graphs, name):
    text, folded, ops = PIPED[name]
    more = {"six": np.array([6]), "m": np.full(4, 0.5, np.float32)}
    model = graphs.using(weights(graphs) | more, text)
    functions = len(model.functions)
    report = graphs.assert_preserves(run_pipeline, model)
    assert str(report.fold) == f"{folded} BatchNorms folded"
    assert graphs.ops(model) == ops
    assert report.results["inline_functions"].changed == functions
    assert inline_functions(model).changed == 0
    if name == "a bias behind arithmetic":
        assert sorted(model.graph.initializers) == ["w", "w.bias"]
    if name == "a BatchNorm of constants":
        assert "is a constant" in report.fold.refused[0].reason


def test_a_large_weight_behind_a_transpose_and_a_cast_is_folded(graphs):
    model = graphs.parse(
        """g (float[N,128] x) => (float[N,C] y) {
            h = Transpose<perm=[1,0]>(w) v = Cast<to=1>(h) c = Gemm(x, v) y = BN(c) }""",
        w=graphs.draw(96, 128, dtype=np.float16),
        **graphs.batchnorm(96),
    )
    report = graphs.assert_preserves(run_pipeline, model, tolerance=1e-5)
    assert len(report.fold.folded) == 1


@pytest.mark.parametrize("opset", [13, 15])
def test_a_batchnorm_in_training_mode_keeps_its_mode(graphs, opset):
    """Removing its unused statistics would turn it into one at inference."""
    mode = "<training_mode=1>" if opset >= 14 else ""
    outputs = "y, rm, rv" if opset >= 14 else "y, rm, rv, sm, sv"
    text = f"{CONV} {{ c = Conv(x, w) {outputs} = BN{mode}(c) }}"
    model = graphs.using(weights(graphs), text, opset=opset)
    (before,) = (node for node in model.graph if node.op_type == BN)
    report = run_pipeline(model)
    assert (len(report.fold.refused), graphs.ops(model)) == (1, ["Conv", BN])
    (after,) = (node for node in model.graph if node.op_type == BN)
    assert after.attributes.get_int("training_mode", 0) == (1 if opset >= 14 else 0)
    assert len(after.outputs) == len(before.outputs) == len(outputs.split(","))


OLD = """g (float[N,4,9,9] x, float[6,4,3,3] w, float[6] scale, float[6] shift, float[6] mean,
    float[6] var) => (float[N,C,H,W] y) { c = Conv(x, w) y = BN(c) }"""


def test_initializers_among_the_inputs_of_an_old_file_are_constants(graphs):
    model = graphs.using(weights(graphs), OLD, opset=9, ir_version=3)
    report = graphs.assert_preserves(run_pipeline, model)
    assert str(report.fold) == "1 of 1 BatchNorms folded"
    assert report.results["drop_constant_inputs"].changed == 5
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert model.ir_version == 4


def test_defaults_of_inputs_stay_overridable_since_ir_version_4(graphs):
    model = graphs.using(weights(graphs), OLD, opset=9, ir_version=4)
    assert drop_constant_inputs(model).changed == 0
    report = graphs.assert_preserves(run_pipeline, model)
    assert str(report.fold) == "0 of 1 BatchNorms folded"
    assert "is not constant" in report.fold.refused[0].reason
    assert len(model.graph.inputs) == 6


def test_an_overridable_default_decides_nothing_in_advance(graphs):
    """A flag and a shape that a caller may override are no constants, though they have values."""
    model = graphs.parse(
        """g (float[N,4] x, bool flag, int64[2] to) => (float[A,B] y, float[C,D] z) {
            y = If (flag) <then_branch = t () => (float[A,B] p) { p = Relu(x) },
                           else_branch = e () => (float[A,B] q) { q = Neg(x) }>
            z = Reshape(x, to) }""",
        flag=np.array(True),
        to=np.array([-1, 4]),
    )
    run_pipeline(model)
    assert sorted(model.graph.initializers) == ["flag", "to"]
    x = graphs.draw(6, 4)
    y, z = graphs.run(model, {"x": x, "flag": np.array(False), "to": np.array([3, 8])})
    np.testing.assert_array_equal(y, -x)
    np.testing.assert_array_equal(z, x.reshape(3, 8))
    np.testing.assert_array_equal(graphs.run(model, {"x": x})[0], np.maximum(x, 0))


def test_identities_go_but_no_output_loses_its_name(graphs):
    model = graphs.parse(
        """g (float[N] x) => (float[N] a, float[N] b, float[N] c, float[N] d) {
            h = Identity(x) r = Relu(h) a = Identity(r) b = Identity(r) s = Neg(r)
            c = Identity(s) d = Identity(x) }"""
    )
    graphs.assert_preserves(run_pipeline, model)
    assert graphs.ops(model).count("Identity") == 2  # b is a, d is the input


def test_constants_become_initializers_but_for_outputs(graphs):
    model = graphs.parse(
        """g (float[2] x) => (float[2] y, float[2] z) {
            k = Constant<value_floats=[1.0, 2.0]>() z = Constant<value_floats=[3.0, 4.0]>()
            y = Add(x, k) }"""
    )
    assert graphs.assert_preserves(lift_constants, model).changed == 1
    assert sorted(graphs.ops(model)) == ["Add", "Constant"]
    assert list(model.graph.initializers) == ["k"]


def test_constant_folding_keeps_quantization(graphs):
    model = graphs.parse(
        "g (float[N] x) => (float[N] y) { q = DequantizeLinear(w, step) y = Add(x, q) }",
        w=np.arange(1, dtype=np.int8),
        step=np.float32(0.5),
    )
    graphs.assert_preserves(fold_constants, model)
    assert graphs.ops(model) == ["DequantizeLinear", "Add"]


FLATTEN = "s = Shape(x) b = Slice(s, zero, one) t = Concat<axis=0>(b, rest)"
TARGETS = {"zero": np.array([0]), "one": np.array([1])}


@pytest.mark.parametrize(
    ("allowzero", "rest", "shape"),
    # 0 means 'as the input has it' and goes together with the inferred dimension
    [(0, [12], "N,12"), (1, [12], "N,12"), (0, [0, 4], "A,B,C")],
)
def test_flattening_needs_no_shape_arithmetic(graphs, allowzero, rest, shape):
    model = graphs.parse(
        f"""g (float[N,3,4] x) => (float[{shape}] y)
            {{ {FLATTEN} y = Reshape<allowzero={allowzero}>(x, t) }}""",
        **(TARGETS | {"rest": np.array(rest)}),
    )
    report = graphs.assert_preserves(run_pipeline, model, tolerance=0)
    assert report.results["infer_reshape_dim"].changed == 1
    assert graphs.ops(model) == ["Reshape"]


@pytest.mark.parametrize(
    ("data", "nodes", "rest"),
    [
        # a dimension that is already inferred, one that is literally zero, two in one part
        ("N,3,4", f"{FLATTEN} y = Reshape(x, t)", [-1]),
        ("N,0,4", f"{FLATTEN} y = Reshape<allowzero=1>(x, t)", [0]),
        (
            "N,M,4",
            "s = Shape(x) b = Slice(s, zero, two) t = Concat<axis=0>(b, rest) y = Reshape(x, t)",
            [2, 2],
        ),
        # two in two parts, a target that is no Concat
        (
            "N,M,4",
            "s = Shape(x) b = Slice(s, zero, one) c = Slice(s, one, two) "
            "t = Concat<axis=0>(b, c, rest) y = Reshape(x, t)",
            [2, 2],
        ),
        ("N,M,4", "s = Shape(x) t = Slice(s, zero, two) y = Reshape(x, t)", 0),
        # of a tensor: two sizes that are not known, one of 0, and a part of its Shape
        ("N,M,4", "t = Shape(x) f = Flatten(x) y = Reshape(f, t)", 0),
        ("N,0,4", "t = Shape(x) f = Flatten(x) y = Reshape(f, t)", 0),
        ("N,3,4", "t = Shape<start=1>(x) f = Flatten(x) y = Reshape(f, t)", 0),
    ],
)
def test_a_reshape_that_needs_its_arithmetic_keeps_it(graphs, data, nodes, rest):
    names = TARGETS | {"rest": np.array(rest), "two": np.array([2])}
    model = graphs.parse(
        f"g (float[{data}] x) => (float y) {{ {nodes} }}",
        **{name: array for name, array in names.items() if name in nodes},
    )
    fold_constants(model)
    assert infer_reshape_dim(model).changed == 0
    assert graphs.ops(model)[-1] == "Reshape"
    assert len(graphs.ops(model)) > 2


def test_unused_nodes_and_initializers_go_in_bodies_too_and_inputs_stay(graphs):
    model = graphs.parse(
        """g (float[2] x, float[2] unread, bool flag) => (float[2] y, float[2] z) {
            d = Add(x, k) e = Relu(d) y = Neg(x)
            f = If (flag) <then_branch = t () => (float[2] p) { p = Add(x, only) },
                           else_branch = u () => (float[2] q) { q = Neg(x) }>
            z = If (flag) <
                then_branch = v () => (float[2] r) <float[2] i = {1.0, 2.0}>
                    { j = Add(x, i) r = Relu(x) },
                else_branch = w () => (float[2] s) { s = Neg(x) }> }""",
        k=graphs.draw(2),
        only=graphs.draw(2),
    )
    assert graphs.assert_preserves(remove_unused, model).changed == 5 + 2
    assert graphs.ops(model) == ["Neg", "If"]
    assert not model.graph.initializers
    assert [value.name for value in model.graph.inputs] == ["x", "unread", "flag"]
    (branch, _) = model.graph[1].attributes.values()
    assert [node.op_type for node in branch.as_graph()] == ["Relu"]
    assert not branch.as_graph().initializers


DENSE = "g (float[N,5] x) => (float[A,B] y)"


@pytest.mark.parametrize("shape", [None, (6,), (1, 6), (1,), ()])
@pytest.mark.parametrize("swapped", [False, True])
def test_dense_layers_of_matmul_and_add_take_a_batchnorm(graphs, shape, swapped):
    add = "Add(b, m)" if swapped else "Add(m, b)"
    middle = "" if shape is None else f"a = {add}"
    bias = {} if shape is None else {"b": graphs.draw(*shape, seed=4)}
    text = f"{DENSE} {{ m = MatMul(x, dense) {middle} y = BN({'a' if middle else 'm'}) }}"
    model = graphs.using(weights(graphs) | bias, text)
    report = graphs.assert_preserves(run_pipeline, model)
    assert report.results["matmul_to_gemm"].changed == 1
    assert graphs.ops(model) == ["Gemm"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # stacks of matrices, a variable weight, a bias for each row, a second reader
        ("g (float[N,6,5] x) => (float y) { m = MatMul(x, dense) y = BN(m) }", "MatMul"),
        (DENSE + " { u = Mul(dense, x) m = MatMul(x, u) y = BN(m) }", "MatMul"),
        (DENSE + " { m = MatMul(x, dense) a = Add(m, rows) y = BN(a) }", "Add"),
        (
            """g (float[N,5] x) => (float[A,B] y, float[A,B] z)
            { m = MatMul(x, dense) y = BN(m) z = Relu(m) }""",
            "MatMul",
        ),
        (
            """g (float[N,5] x) => (float[A,B] y, float[A,B] m)
            { m = MatMul(x, dense) a = Add(m, b) y = BN(a) }""",
            "Add",
        ),
    ],
)
def test_other_matmuls_stay(graphs, text, reason):
    model = graphs.using(weights(graphs) | {"rows": graphs.draw(7, 1), "b": graphs.draw(6)}, text)
    assert matmul_to_gemm(model).changed == 0
    report = run_pipeline(model)
    assert len(report.fold.refused) == 1
    assert f"its input comes from {reason} " in report.fold.refused[0].reason
    assert "MatMul" in graphs.ops(model)


def test_a_failing_pass_is_named_with_those_before_it(graphs, monkeypatch):
    def explode(model: ir.Model) -> int:
        raise ZeroDivisionError(f"no {model.graph.name}")

    monkeypatch.setattr(passes, "PIPELINE", (remove_unused, lift_constants, explode))
    with pytest.raises(PassError, match=r"explode failed after remove_unused, lift_constants: Z"):
        run_pipeline(graphs.parse("g (float[2] x) => (float[2] y) { y = Relu(x) }"))


def test_names_of_the_bodies_do_not_clash(graphs):
    """A new name must be free in every body, since an inner name must not hide an outer one."""
    model = graphs.parse(
        """g (float[N,4,9,9] x, bool flag) => (float[N,C,H,W] y, float[6] z) {
            c = Conv(x, w) y = BN(c)
            z = If (flag) <
                then_branch = t () => (float[6] p) <float[6] k = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}>
                    { p = Relu(k) },
                else_branch = u () => (float[6] q) { q = Relu(e) }> }""",
        w=graphs.draw(6, 4, 3, 3),
        e=graphs.draw(6),
        **graphs.batchnorm(6),
    )
    (branch, _) = model.graph[-1].attributes.values()
    branch.as_graph().initializers["k"].name = "w.bias"
    assert fold_batchnorm(model).folded
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert "w.bias_1" in model.graph.initializers
