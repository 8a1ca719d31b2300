"""Receipts of precision: shares read from the graph, accuracy read from logits, by hand."""

import json
from typing import Any

import numpy as np
import pytest

from repr_export.errors import PrecisionError
from repr_export.passes import run_pipeline
from repr_export.precision.half.convert import to_half
from repr_export.precision.receipt import (
    compare_accuracy,
    read_precision,
    require_accuracy,
    require_precision,
)

# What a graph computes in.

TWO_LAYERS = "g (float[N, 8] x) => (float[N, 2] y) { [a] h = Gemm(x, w)  [b] y = Gemm(h, u) }"


def two_layers(graphs: Any) -> Any:
    """8x30 = 240 multiply-adds, then 30x2 = 60."""
    return graphs.parse(TWO_LAYERS, w=graphs.draw(8, 30), u=graphs.draw(30, 2))


def test_shares_are_of_multiply_adds_and_come_from_the_graph(graphs: Any) -> None:
    model = two_layers(graphs)
    assert read_precision(model).shares == {"fp32": 1.0}
    to_half(model, "fp16", keep=["b"])
    receipt = read_precision(model)
    assert receipt.shares == {"fp16": 0.8, "fp32": 0.2}
    assert [(node.node, node.precision, node.multiply_adds) for node in receipt.nodes] == [
        ("a", "fp16", 240),
        ("b", "fp32", 60),
    ]
    assert str(receipt) == "multiply-adds 80.0% fp16, 20.0% fp32"
    assert json.loads(json.dumps(receipt.as_dict()))["multiply_adds"] == 300


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_whole_network_is_in_the_precision_asked_for(graphs: Any, precision: Any) -> None:
    model = graphs.capture("lenet5")
    run_pipeline(model)
    to_half(model, precision)
    receipt = read_precision(model)
    assert receipt.shares == {precision: 1.0}
    require_precision(receipt, precision)
    with pytest.raises(PrecisionError, match=r"int8 was asked for, but 0\.0%"):
        require_precision(receipt, "int8")


QUANTIZED = """g (float[N, 4] x) => (float[N, 4] y) {{
    q = QuantizeLinear(x, s{zero})
    d = DequantizeLinear(q, s{zero})
    e = DequantizeLinear(v, s{weight_zero})
    [first] h = Gemm(d, {weight})
    [second] y = Gemm(h, e)
}}"""


@pytest.mark.parametrize(
    ("zero", "weight", "weight_zero", "expected"),
    [
        (np.int8(0), "e", np.int8(0), "int8"),
        (np.uint8(128), "e", np.int8(0), "int8"),  # the graph for CPUs
        (None, "e", None, "int8"),
        (np.int8(0), "w", np.int8(0), "fp32"),  # data alone
    ],
)
def test_operands_that_are_both_dequantized_count_as_int8(
    graphs: Any, zero: Any, weight: str, weight_zero: Any, expected: str
) -> None:
    text = QUANTIZED.format(
        zero="" if zero is None else ", zero",
        weight=weight,
        weight_zero="" if weight_zero is None else ", weight_zero",
    )
    constants = {"v": np.ones((4, 4), np.int8), "w": graphs.draw(4, 4), "s": np.float32(0.1)}
    given = {"zero": zero, "weight_zero": weight_zero}
    constants |= {name: point for name, point in given.items() if point is not None}
    receipt = read_precision(graphs.parse(text, **constants))
    # a quantized weight alone multiplies in float
    assert [node.precision for node in receipt.nodes] == [expected, "fp32"]


def test_precision_that_did_not_come_out_is_refused_by_name_and_many_are_counted(
    graphs: Any,
) -> None:
    model = two_layers(graphs)
    to_half(model, "fp16", keep=["b"])
    receipt = read_precision(model)
    with pytest.raises(PrecisionError) as caught:
        require_precision(receipt, "fp16")
    assert str(caught.value) == (
        "fp16 was asked for, but 80.0% of the multiply-adds came out in it, at least 90% must; "
        "not in it: Gemm 'b' (fp32, 20.0%); leave --fp16 out"
    )

    layers = "".join(f" [n{i}] h{i + 1} = Gemm(h{i}, w)" for i in range(7))
    model = graphs.parse(
        f"g (float[N, 4] h0) => (float[N, 4] h7) {{{layers} }}", w=graphs.draw(4, 4)
    )
    with pytest.raises(PrecisionError, match=r"'n4' \(fp32, 14.3%\) and 2 more"):
        require_precision(read_precision(model), "fp16")


def test_graph_without_multiply_adds_is_in_no_precision(graphs: Any) -> None:
    receipt = read_precision(graphs.parse("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"))
    assert (receipt.shares, receipt.total) == ({}, 0)
    assert str(receipt) == "multiply-adds none"
    with pytest.raises(PrecisionError, match="has no multiply-adds"):
        require_precision(receipt, "fp16")


# What it costs in accuracy.

REFERENCE = np.array(
    [[3.0, 1.0, 0.0], [0.0, 2.0, 1.5], [5.0, 0.0, 4.0], [0.0, 0.0, 1.0]], np.float32
)
LOGITS = np.array([[3.0, 1.0, 0.0], [0.0, 1.6, 1.7], [4.0, 0.0, 4.5], [0.0, 0.0, 1.0]], np.float16)
LABELS = np.array([0, 1, 0, 1])


def receipt(**changes: Any) -> Any:
    arguments = {"logits": LOGITS, "reference": REFERENCE, "labels": LABELS} | changes
    return compare_accuracy("fp16", **arguments, description="4 images made by hand")


def test_accuracy_is_counted_image_by_image() -> None:
    got = receipt()
    assert (got.images, got.hits, got.reference_hits) == (4, 1, 3)
    assert got.max_abs == pytest.approx(1.0)
    assert str(got) == (
        "fp16: top-1 25.00%, fp32 torch 75.00%; 2 of 4 images flipped, the widest margin 1 "
        "(4 images made by hand)"
    )
    data = json.loads(json.dumps(got.as_dict()))
    names = ("top1", "reference_top1", "agreement", "drop_points", "flipped", "drop_is")
    assert [data[name] for name in names] == [0.25, 0.75, 0.5, 50.0, 2, "measured"]
    assert data["flips"] == [
        {"index": 2, "label": 0, "before": 0, "after": 2, "margin": 1.0},
        {"index": 1, "label": 1, "before": 1, "after": 2, "margin": 0.5},
    ]


def test_a_manifest_lists_a_hundred_flips_and_counts_them_all() -> None:
    reference = np.tile(np.array([[1.0, 0.0]]), (150, 1))
    reference[:, 0] += np.arange(150)
    got = receipt(logits=-reference, reference=reference, labels=None).as_dict()
    assert (got["flipped"], len(got["flips"])) == (150, 100)
    assert [got["flips"][0]["index"], got["flips"][-1]["index"]] == [149, 50]


def test_without_labels_the_drop_is_at_most_what_flipped() -> None:
    got = receipt(labels=None)
    assert (got.hits, got.reference_hits, got.drop) == (None, None, 50.0)
    assert str(got) == ("fp16: 2 of 4 images flipped, the widest margin 1 (4 images made by hand)")
    data = got.as_dict()
    assert (data["top1"], data["drop_is"]) == (None, "an upper bound: the labels are not known")
    with pytest.raises(PrecisionError, match=r"loses up to 50\.00 percentage points"):
        require_accuracy(got, 49.9)


def test_drop_over_the_bound_fails_and_at_the_bound_does_not() -> None:
    require_accuracy(receipt(), 50.0)
    with pytest.raises(PrecisionError, match=r"loses 50.00 percentage points .* allowed are 0.5"):
        require_accuracy(receipt(), 0.5)
    gain = receipt(logits=REFERENCE, reference=LOGITS)
    assert gain.drop == -50.0
    require_accuracy(gain, 0.0)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_logits_that_are_not_finite_are_an_overflow(value: float) -> None:
    logits = REFERENCE.copy()
    logits[2, 1] = value
    with pytest.raises(PrecisionError, match=r"not finite for 1 of 4 images, .* image 2"):
        receipt(logits=logits)


@pytest.mark.parametrize(
    "changes",
    [
        {"logits": LOGITS[:3]},
        {"labels": LABELS[:3]},
        {"logits": LOGITS[0], "reference": REFERENCE[0]},
        {"logits": LOGITS[:0], "reference": REFERENCE[:0], "labels": LABELS[:0]},
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        receipt(**changes)
