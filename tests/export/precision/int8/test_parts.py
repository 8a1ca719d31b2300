"""A scan part by part gives what quantizing the whole graph gives, and runs no more than it must."""

from typing import Any

import numpy as np
import pytest
from int8_graphs import NET, images, weights

from repr_export.precision.int8 import sensitivity
from repr_export.precision.int8.calibration import CalibrationSet
from repr_export.precision.int8.parts import cut
from repr_export.precision.int8.quantizable import TARGETS
from repr_export.precision.int8.quantize import prepare, quantize_alone
from repr_export.precision.int8.ranges import measure_ranges
from repr_export.precision.int8.sensitivity import scan
from repr_export.samples import CpuGraph, run_samples

# A residual addition with a convolved shortcut, a concatenation that is pooled, a grouped layer.
BLOCKS = """g (float[N,3,8,8] x) => (float[N,5] y) {
    [stem] s = Conv <pads=[1,1,1,1]> (x, ws)  h = Relu(s)
    [a] a = Conv <pads=[1,1,1,1]> (h, wa)  ar = Relu(a)
    [b] b = Conv <pads=[1,1,1,1]> (ar, wb)
    [short] c = Conv (h, wc)
    [add] r = Add(b, c)  rr = Relu(r)
    [left] l = Conv (rr, wl)  lr = Relu(l)
    [right] q = Conv <pads=[1,1,1,1], group=2> (rr, wq)  qr = Relu(q)
    j = Concat <axis=1> (lr, qr)
    p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (j)
    [grouped] d = Conv <pads=[1,1,1,1], group=16> (p, wd)
    [add2] e = Add(d, p)  er = Relu(e)
    [last_but] f = Conv (er, wf)  fr = Relu(f)
    g = GlobalAveragePool(fr)  k = Flatten(g)
    [head] y = Gemm(k, wh)
}"""
SHAPES = {
    "ws": (8, 3, 3, 3),
    "wa": (8, 8, 3, 3),
    "wb": (8, 8, 3, 3),
    "wc": (8, 8, 1, 1),
    "wl": (8, 8, 1, 1),
    "wq": (8, 4, 3, 3),
    "wd": (16, 1, 3, 3),
    "wf": (8, 16, 1, 1),
    "wh": (8, 5),
}


def blocks(graphs: Any) -> bytes:
    rng = np.random.default_rng(3)
    drawn = {
        name: (rng.normal(size=shape) / np.sqrt(max(np.prod(shape[1:]), 1))).astype(np.float32)
        for name, shape in SHAPES.items()
    }
    content: bytes = graphs.content(BLOCKS, **drawn)
    return content


def calibration() -> Any:
    values = np.random.default_rng(5).normal(size=(48, 3, 8, 8)).astype(np.float32)
    return CalibrationSet(values, "noise")


def plain(graph: bytes, ranges: Any, images: Any, name: str, target: Any) -> float:
    """The ratio as its definition says: the whole graph with one node in int8."""

    def output(content: bytes) -> Any:
        network = CpuGraph(content)
        made = run_samples(network, images.samples_for(network), 16)
        return next(iter(made.values())).astype(np.float64)

    reference = output(graph)
    alone = output(quantize_alone(graph, ranges, name, target=target))
    return float(10 * np.log10(reference.var() / np.square(alone - reference).mean()))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("which", ["blocks", "net"])
def test_the_ratios_are_those_of_the_whole_graph(graphs: Any, target: Any, which: str) -> None:
    graph = blocks(graphs) if which == "blocks" else graphs.content(NET, **weights())
    given = calibration() if which == "blocks" else images()
    ranges = measure_ranges(graph, given, "min-max")
    rows = scan(graph, ranges, given, target=target)
    assert len(rows) > 3
    for row in rows:
        assert row.images == min(64, len(given))
        expected = plain(graph, ranges, given, row.node, target)
        assert row.sqnr_db == pytest.approx(expected, abs=0.02), row.node
    middle = (rows[1].sqnr_db + rows[2].sqnr_db) / 2
    bounded = scan(graph, ranges, given, target=target, bound=middle)
    below = {row.node for row in bounded if row.sqnr_db < middle}
    assert below == {row.node for row in rows if row.sqnr_db < middle}


def test_it_is_cut_where_one_tensor_goes_on_as_floats(graphs: Any) -> None:
    """Not in front of a ReLU, a pool or a concatenation, which would go on in bytes."""
    parts = cut(prepare(blocks(graphs), "cpu")[0])
    assert [part.model.graph.input[0].name for part in parts] == ["x", "h", "rr", "p", "er", "k"]
    named = {name for part in parts for name in part.nodes}
    assert {"stem", "a", "b", "short", "add", "left", "right", "grouped", "head"} <= named


def test_only_what_is_near_the_bound_sees_all_the_images(
    graphs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each run of the scan is of a part that a change reaches, never of one in front of it."""
    graph, given = blocks(graphs), calibration()
    ranges = measure_ranges(graph, given, "min-max")
    opened: list[int] = []
    ran: list[int] = []

    class Counting(CpuGraph):
        def __init__(self, content: bytes, threads: int) -> None:
            super().__init__(content, threads=threads)
            opened.append(len(content))

        def __call__(self, inputs: Any) -> Any:
            ran.append(len(next(iter(inputs.values()))))
            return super().__call__(inputs)

    monkeypatch.setattr(sensitivity, "CpuGraph", Counting)
    far = scan(graph, ranges, given, target="tensorrt", bound=-40.0)
    assert {row.images for row in far} == {4} == set(ran)
    # 6 parts for the reference and once more on the way; of the nodes 4, 2, 2 and 1 are in the
    # parts from the second on, and each runs with its own part and all that stand behind.
    assert len(far) == 9
    assert len(opened) == 6 + 9
    assert len(ran) == 6 + 6 + 4 * 5 + 2 * 4 + 2 * 3 + 1 * 2
    near = scan(graph, ranges, given, target="tensorrt", bound=far[0].sqnr_db)
    assert near[0].images == len(given)
