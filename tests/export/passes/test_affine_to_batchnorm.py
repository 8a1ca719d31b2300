"""Products and sums by constants of each channel become one node; what only looks so stays."""

import numpy as np
import pytest

from repr_export.graph.multiply_adds import count_parameters
from repr_export.passes import run_pipeline
from repr_export.passes.affine_to_batchnorm import affine_to_batchnorm

BOTH = "m = Mul(x, s) y = Add(m, t)"


def affine(graphs, nodes, *, data="float[N,6,5,4]", output="float[N,6,5,4] y", **changed):
    drawn = {"s": graphs.draw(6, 1, 1), "t": graphs.draw(1, 6, 1, 1, seed=1)} | changed
    words = nodes.replace("(", " ").replace(")", " ").replace(",", " ").split()
    used = {name: array for name, array in drawn.items() if name in words}
    return graphs.parse(f"g ({data} x) => ({output}) {{ {nodes} }}", **used)


@pytest.mark.parametrize("nodes", [BOTH, "m = Mul(s, x) y = Add(t, m)"])
def test_a_product_and_a_sum_become_one_node_bit_for_bit(graphs, nodes):
    model = affine(graphs, nodes)
    before = count_parameters(model)
    result = graphs.assert_preserves(affine_to_batchnorm, model, tolerance=1e-7)
    assert str(result) == "1 products and sums by constants made one node"
    assert graphs.ops(model) == ["BatchNormalization"]
    assert count_parameters(model) == before == 12
    assert len(model.graph.initializers) == 4


@pytest.mark.parametrize(
    ("nodes", "changed"),
    [
        ("m = Mul(x, s) n = Relu(m) a = Add(m, t) y = Add(a, n)", {}),  # read twice
        ("m = Mul(x, s) y = Sub(m, t)", {}),
        ("m = Add(x, t) y = Mul(m, s)", {}),
        ("m = Mul(x, x) y = Add(m, t)", {}),
        ("m = Mul(x, s) y = Add(m, x)", {}),
        (BOTH, {"s": np.float32(0.5)}),
        (BOTH, {"t": np.ones((1, 6, 5, 4), np.float32)}),
        (BOTH, {"s": np.ones((2, 1, 1, 1), np.float32), "data": "float[2,6,5,4]"}),
        (BOTH, {"data": "float[N,1,5,4]"}),
        (BOTH, {"data": "double[N,6,5,4]", "output": "double[N,6,5,4] y",
                "s": np.ones((6, 1, 1)), "t": np.ones((6, 1, 1))}),
        (BOTH, {"data": "float[N,5,4]", "t": np.ones((6, 1, 1), np.float32)}),
        (BOTH, {"output": "float[N,6,5,4] m, float[N,6,5,4] y"}),
    ],
    ids=["read twice", "a difference", "the other order", "no constant", "no constant sum",
         "one for all", "one for each place", "one for each sample", "wider than the data",
         "float64", "three axes", "an output"],
)  # fmt: skip
def test_whatever_is_no_product_and_sum_of_each_channel_stays(graphs, nodes, changed):
    model = affine(graphs, nodes, **changed)
    before = graphs.ops(model)
    assert affine_to_batchnorm(model).changed == 0
    assert graphs.ops(model) == before


def test_constants_that_others_read_stay(graphs):
    model = affine(graphs, f"{BOTH.replace('y', 'a')} y = Add(a, s)")
    graphs.assert_preserves(affine_to_batchnorm, model, tolerance=1e-7)
    assert graphs.ops(model) == ["BatchNormalization", "Add"]
    assert len(model.graph.initializers) == 5


def test_it_is_no_batchnorm_of_the_network_and_not_rewritten_again(graphs):
    nodes = "p = Relu(x) m = Mul(p, s) y = Add(m, t)"
    model = affine(graphs, nodes)
    report = graphs.assert_preserves(run_pipeline, model, tolerance=1e-7).fold
    assert (report.affines, report.total) == (1, 0)
    report = run_pipeline(model).fold
    assert (report.affines, report.total, report.refused) == (0, 0, ())


def test_a_groupnorm_is_three_steps_without_arithmetic_on_shapes(graphs):
    nodes = (
        "g = Reshape(x, groups) i = InstanceNormalization(g, one, zero) "
        "k = Shape<start=0>(x) b = Reshape(i, k) m = Mul(b, s) y = Add(m, t)"
    )
    constants = {
        "groups": np.array([0, 3, -1]),
        "one": np.ones(3, np.float32),
        "zero": np.zeros(3, np.float32),
    }
    model = affine(graphs, nodes, **constants)
    graphs.assert_preserves(run_pipeline, model)
    assert graphs.ops(model) == [
        "Reshape",
        "InstanceNormalization",
        "Reshape",
        "BatchNormalization",
    ]
