"""Weights with several users, BatchNorms in a row, and graphs within graphs."""

import numpy as np
import onnx_ir as ir
import pytest

from repr_export.passes import fold_batchnorm

BN = "BatchNormalization"
ONE = "g (float[N,4,9,9] x) => (float[N,A,B,C] y)"
SHARED = "g (float[N,4,9,9] x) => (float[N,A,B,C] y, float[N,D,E,F] z)"


@pytest.fixture
def weights(graphs):
    """Two BatchNorms of 4 channels, a 4-to-4 weight and its bias."""
    return {
        "w": graphs.draw(4, 4, 3, 3),
        "b": graphs.draw(4),
        **graphs.batchnorm(4),
        **graphs.batchnorm(4, seed=5, prefix="s_"),
    }


@pytest.fixture
def folded(graphs, weights):
    """Folds the graph of a text, which must stay right: the model, and the report."""

    def fold(text):
        model = graphs.using(weights, text)
        return model, graphs.assert_preserves(fold_batchnorm, model)

    return fold


def test_two_convs_share_weight_and_bias_but_not_the_batchnorm(folded):
    model, report = folded(
        f"""{SHARED} {{ c = Conv(x, w, b) y = BN(c)
        d = Conv<strides=[2,2]>(x, w, b) z = BNs_(d) }}"""
    )
    assert str(report) == "2 of 2 BatchNorms folded"
    first, second = (node.inputs[1] for node in model.graph)
    assert first is not second
    assert len(model.graph.initializers) == 4


def test_the_other_user_of_a_weight_keeps_it(folded, weights):
    model, report = folded(f"{SHARED} {{ c = Conv(x, w, b) y = BN(c) z = Conv(x, w, b) }}")
    assert str(report) == "1 of 1 BatchNorms folded"
    for name in ("w", "b"):
        kept = model.graph.initializers[name].const_value
        np.testing.assert_array_equal(kept.numpy(), weights[name])


def test_a_weight_that_is_an_output_keeps_its_values(graphs, folded, weights):
    text = "g (float[N,4,9,9] x) => (float[N,A,B,C] y, float[4,4,3,3] w)"
    model, _ = folded(f"{text} {{ c = Conv(x, w) y = BN(c) }}")
    np.testing.assert_array_equal(graphs.run(model, graphs.feeds(model))[1], weights["w"])


def test_a_bias_that_is_the_batchnorms_mean_too(folded):
    model, report = folded(f"{SHARED} {{ c = Conv(x, w, mean) y = BN(c) z = Conv(x, w) }}")
    assert len(report.folded) == 1
    assert "mean" not in model.graph.initializers


def test_two_batchnorms_share_their_parameters(folded):
    text = f"{SHARED} {{ c = Conv(x, w) y = BN(c) d = Conv(x, w, b) z = BN(d) }}"
    assert len(folded(text)[1].folded) == 2


def test_batchnorms_in_a_row_all_go(graphs, folded):
    model, report = folded(f"{ONE} {{ n = BNs_(x) c = Conv(n, w, b) d = BN(c) y = BNs_(d) }}")
    cases = ["BatchNorm -> Conv", "Conv -> BatchNorm", "Conv -> BatchNorm"]
    assert [item.case for item in report.folded] == cases
    assert graphs.ops(model) == ["Conv"]


def test_a_refused_one_between_folded_ones_is_still_right(graphs, folded):
    model, report = folded(
        f"""{ONE} {{ c = Conv(x, w) d = BN(c) r = Relu(d) n = BNs_(r)
        e = Conv<pads=[1,1,1,1]>(n, w, b) y = BN(e) }}"""
    )
    assert (len(report.folded), len(report.refused), report.total) == (2, 1, 3)
    assert "comes from Relu" in report.refused[0].reason
    assert "pads with zeros" in report.refused[0].reason
    assert graphs.ops(model).count(BN) == 1


MADE = """k = Constant<value = float[2,1,1,1] {2.0, -3.0}>()
    v = Constant<value_floats = [0.5, 2.0]>() """


def test_constant_nodes_and_an_omitted_bias(folded):
    _, report = folded(
        "g (float[N,1,9,9] x) => (float[N,A,B,C] y) {"
        + MADE
        + "i = Identity(v) c = Conv(x, k, ) y = BN(c, v, i, v, v) }"
    )
    assert len(report.folded) == 1


def test_counts_and_refuses_functions(folded):
    _, report = folded(
        """g (float[N,1,9,9] x) => (float[N,A,B,C] y) { y = local.block(x) }
        <domain: "local", opset_import: ["" : 20]> block (x) => (y) {"""
        + MADE
        + "c = Conv(x, k) y = BN(c, v, v, v, v) }"
    )
    assert str(report) == "0 of 1 BatchNorms folded"
    assert "inline the functions first" in report.refused[0].reason


@pytest.mark.parametrize(
    ("before", "then", "reason"),
    [
        ("", "c = Conv<pads=[1,1,1,1]>(x, w) t = BN(c)", None),  # weights from outside
        ("c = Conv<pads=[1,1,1,1]>(x, w)", "t = BN(c)", "outside its own If/Loop body"),
        ("n = BN(x)", "t = Conv(n, w)", "inside another If/Loop body"),
        ("c = Conv<pads=[1,1,1,1]>(x, w) z = BN(c)", "t = Relu(c)", "is also read by Relu"),
    ],
)
def test_bodies(graphs, weights, before, then, reason):
    second = ", float[N,J,K,L] z" if "z =" in before else ""
    model = graphs.using(
        weights,
        f"""g (bool flag, float[N,4,9,9] x) => (float[N,G,H,I] y{second}) {{ {before} y = If (flag) <
        then_branch = then_graph () => (float[N,A,B,C] t) {{ {then} }},
        else_branch = else_graph () => (float[N,D,E,F] e) {{ e = Relu(x) }}> }}""",
    )
    unfolded = ir.to_proto(model)
    report = fold_batchnorm(model)
    for flag in (True, False):
        feeds = {"flag": np.array(flag), "x": graphs.draw(3, 4, 9, 9)}
        got, expected = graphs.run(model, feeds)[0], graphs.run(unfolded, feeds)[0]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert str(report) == f"{0 if reason else 1} of 1 BatchNorms folded"
    assert all(reason in refused.reason for refused in report.refused)
