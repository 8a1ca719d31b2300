"""Weights with several users, BatchNorms in a row, and graphs within graphs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from repr_export.passes import fold_batchnorm

BN = "BatchNormalization"
ONE = "scale, shift, mean, var"
TWO = "s_scale, s_shift, s_mean, s_var"


@pytest.fixture
def weights(graphs):
    """Two BatchNorms of 4 channels, a 4-to-4 weight and its bias."""
    return {
        "w": graphs.draw(4, 4, 3, 3),
        "b": graphs.draw(4),
        **graphs.batchnorm(4),
        **graphs.batchnorm(4, seed=5, prefix="s_"),
    }


def used(graphs, text, weights):
    """The graph with those of ``weights`` that it names."""
    return graphs.parse(text, **{key: array for key, array in weights.items() if key in text})


SHARED = "g (float[N,4,9,9] x) => (float[N,A,B,C] y, float[N,D,E,F] z)"


def test_two_convs_share_weight_and_bias_but_not_the_batchnorm(graphs, weights):
    text = f"""{SHARED} {{
        c = Conv(x, w, b) y = {BN}(c, {ONE})
        d = Conv<strides=[2,2]>(x, w, b) z = {BN}(d, {TWO}) }}"""
    model = used(graphs, text, weights)
    report = graphs.assert_preserves(fold_batchnorm, model)
    assert str(report) == "2 of 2 BatchNorms folded"
    first, second = (node.inputs[1] for node in model.graph)
    assert first is not second
    assert len(model.graph.initializers) == 4


def test_the_other_user_of_a_weight_keeps_it(graphs, weights):
    text = f"{SHARED} {{ c = Conv(x, w, b) y = {BN}(c, {ONE}) z = Conv(x, w, b) }}"
    model = used(graphs, text, weights)
    report = graphs.assert_preserves(fold_batchnorm, model)
    assert str(report) == "1 of 1 BatchNorms folded"
    for name in ("w", "b"):
        kept = model.graph.initializers[name].const_value
        np.testing.assert_array_equal(kept.numpy(), weights[name])


def test_a_weight_that_is_an_output_keeps_its_values(graphs, weights):
    text = f"""g (float[N,4,9,9] x) => (float[N,A,B,C] y, float[4,4,3,3] w)
        {{ c = Conv(x, w) y = {BN}(c, {ONE}) }}"""
    model = used(graphs, text, weights)
    graphs.assert_preserves(fold_batchnorm, model)
    np.testing.assert_array_equal(graphs.run(model, graphs.feeds(model))[1], weights["w"])


def test_a_bias_that_is_the_batchnorms_mean_too(graphs, weights):
    text = f"""{SHARED} {{ c = Conv(x, w, mean) y = {BN}(c, {ONE}) z = Conv(x, w) }}"""
    model = used(graphs, text, weights)
    report = graphs.assert_preserves(fold_batchnorm, model)
    assert len(report.folded) == 1
    assert "mean" not in model.graph.initializers


def test_two_batchnorms_share_their_parameters(graphs, weights):
    text = f"""{SHARED} {{
        c = Conv(x, w) y = {BN}(c, {ONE}) d = Conv(x, w, b) z = {BN}(d, {ONE}) }}"""
    report = graphs.assert_preserves(fold_batchnorm, used(graphs, text, weights))
    assert len(report.folded) == 2


def test_batchnorms_in_a_row_all_go(graphs, weights):
    text = f"""g (float[N,4,9,9] x) => (float[N,A,B,C] y) {{
        n = {BN}(x, {TWO}) c = Conv(n, w, b) d = {BN}(c, {ONE}) y = {BN}(d, {TWO}) }}"""
    model = used(graphs, text, weights)
    report = graphs.assert_preserves(fold_batchnorm, model)
    assert [item.case for item in report.folded] == [
        "BatchNorm -> Conv",
        "Conv -> BatchNorm",
        "Conv -> BatchNorm",
    ]
    assert graphs.ops(model) == ["Conv"]


def test_a_refused_one_between_folded_ones_is_still_right(graphs, weights):
    text = f"""g (float[N,4,9,9] x) => (float[N,A,B,C] y) {{
        c = Conv(x, w) d = {BN}(c, {ONE}) r = Relu(d) n = {BN}(r, {TWO})
        e = Conv<pads=[1,1,1,1]>(n, w, b) y = {BN}(e, {ONE}) }}"""
    model = used(graphs, text, weights)
    report = graphs.assert_preserves(fold_batchnorm, model)
    assert (len(report.folded), len(report.refused), report.total) == (2, 1, 3)
    assert "comes from Relu" in report.refused[0].reason
    assert "pads with zeros" in report.refused[0].reason
    assert graphs.ops(model).count(BN) == 1


def test_constant_nodes_and_an_omitted_bias(graphs):
    text = f"""g (float[N,1,9,9] x) => (float[N,A,B,C] y) {{
        k = Constant<value = float[2,1,1,1] {{2.0, -3.0}}>()
        v = Constant<value_floats = [0.5, 2.0]>()
        i = Identity(v)
        c = Conv(x, k, ) y = {BN}(c, v, i, v, v) }}"""
    report = graphs.assert_preserves(fold_batchnorm, graphs.parse(text))
    assert len(report.folded) == 1


BRANCH = """then_branch = then_graph () => (float[N,A,B,C] t) {{ {then} }},
    else_branch = else_graph () => (float[N,D,E,F] e) {{ e = Relu(x) }}"""


def if_graph(then: str, before: str = "", extra_input: str = "bool flag, ") -> str:
    branches = BRANCH.format(then=then)
    return f"""g ({extra_input}float[N,4,9,9] x) => (float[N,G,H,I] y)
        {{ {before} y = If (flag) <{branches}> }}"""


def assert_branch_preserved(graphs, model):
    before = ir.to_proto(model)
    x = graphs.draw(3, 4, 9, 9)
    report = fold_batchnorm(model)
    for flag in (True, False):
        feeds = {"flag": np.array(flag), "x": x}
        np.testing.assert_allclose(
            graphs.run(model, feeds)[0], graphs.run(before, feeds)[0], rtol=1e-4, atol=1e-4
        )
    return report


def test_folds_within_a_body_with_weights_from_outside(graphs, weights):
    text = if_graph(f"c = Conv<pads=[1,1,1,1]>(x, w) t = {BN}(c, {ONE})")
    model = used(graphs, text, weights)
    report = assert_branch_preserved(graphs, model)
    assert str(report) == "1 of 1 BatchNorms folded"


def test_counts_and_refuses_a_body_fed_from_outside(graphs, weights):
    text = if_graph(f"t = {BN}(c, {ONE})", before="c = Conv<pads=[1,1,1,1]>(x, w)")
    report = assert_branch_preserved(graphs, used(graphs, text, weights))
    assert str(report) == "0 of 1 BatchNorms folded"
    assert "outside its own If/Loop body" in report.refused[0].reason


def test_refuses_a_consumer_in_a_body(graphs, weights):
    text = if_graph("t = Conv(n, w)", before=f"n = {BN}(x, {ONE})")
    report = assert_branch_preserved(graphs, used(graphs, text, weights))
    assert "inside another If/Loop body" in report.refused[0].reason


def test_a_body_counts_as_a_reader_of_the_conv(graphs, weights):
    text = f"""g (bool flag, float[N,4,9,9] x) => (float[N,G,H,I] y, float[N,J,K,L] z) {{
        c = Conv<pads=[1,1,1,1]>(x, w) z = {BN}(c, {ONE})
        y = If (flag) <{BRANCH.format(then="t = Relu(c)")}> }}"""
    report = assert_branch_preserved(graphs, used(graphs, text, weights))
    assert "is also read by Relu" in report.refused[0].reason


def test_counts_and_refuses_functions(graphs):
    text = f"""g (float[N,1,9,9] x) => (float[N,A,B,C] y) {{ y = local.block(x) }}
        <domain: "local", opset_import: ["" : 20]>
        block (x) => (y) {{
            k = Constant<value = float[2,1,1,1] {{2.0, -3.0}}>()
            v = Constant<value_floats = [0.5, 2.0]>()
            c = Conv(x, k) y = {BN}(c, v, v, v, v) }}"""
    report = graphs.assert_preserves(fold_batchnorm, graphs.parse(text))
    assert str(report) == "0 of 1 BatchNorms folded"
    assert "inline the functions first" in report.refused[0].reason
