"""Profiles: a recorded trace of ONNX Runtime, medians and shares by hand, fusions, reports."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_queue import World
from onnx import TensorProto, helper
from page_results import said
from page_results import shown as printed

from repr_bench.analysis.fused_nodes import original_nodes
from repr_bench.analysis.profile_session import Turns, filled_in, profile_session
from repr_bench.analysis.timed_graph import TimedGraph
from repr_bench.analysis.trace import read_trace
from repr_bench.errors import BenchError
from repr_bench.report.html import render_page
from repr_bench.results.file import from_json, to_json
from repr_bench.results.profile import Layer, Profile
from repr_bench.results.results import Results
from repr_bench.results.roofline import Peak, Roofline
from repr_runtime import load

TRACE = json.loads(Path(__file__).with_name("ort_trace.json").read_text("utf-8"))
"""Four runs of three nodes, in the format of ONNX Runtime 1.31; the first one is cold."""

ROW = ("tiny", "fp32", 2)
ONES = np.ones((2, 3, 32, 32), np.float32)


def test_the_trace_by_hand() -> None:
    trace = read_trace(TRACE, [1, 2, 3])
    assert trace.runs_us == (120, 130, 110)
    assert [(node.name, node.op, node.samples_us) for node in trace.nodes] == [
        ("relu_nchwc", "Conv", (60, 66, 58)),
        ("ReorderOutput", "ReorderOutput", (5, 4, 5)),
        ("node_linear", "Gemm", (20, 30, 10)),
    ]
    assert read_trace(reversed(TRACE), [1, 2, 3]) == trace  # in time, whatever the file's order


def test_a_trace_of_another_format_is_refused() -> None:
    short = [event for event in TRACE if event["ts"] != 2065]
    without = [event for event in TRACE if event["cat"] != "Node"]
    for trace, keep, why in (
        (TRACE, [4], "has 4 runs"),
        (short, [1, 2], "different nodes"),
        (without, [1], "different nodes"),
    ):
        with pytest.raises(BenchError, match=why):
            read_trace(trace, keep)


@pytest.fixture
def profile() -> Profile:
    turns = Turns()
    turns.plain_ns, turns.profiled_ns = [100_000, 90_000, 110_000], [130_000, 120_000, 125_000]
    return filled_in(
        Profile(label="tiny", precision="fp32", batch=2),
        read_trace(TRACE, [1, 2, 3]),
        {"relu_nchwc": ("conv", "relu"), "ReorderOutput": (), "node_linear": ("linear",)},
        {"conv": 3_000_000, "linear": 500_000, "nowhere": 1},
        turns,
    )


def test_medians_shares_rates_and_sums_by_hand(profile: Profile) -> None:
    conv, reorder, gemm = profile.layers
    assert [layer.microseconds for layer in profile.layers] == [60, 5, 20]
    # the middle one of 120 − 85, 130 − 100, 110 − 73
    assert (profile.run_us, profile.between_us) == (120, 35)
    # 60 + 5 + 20 + 35 make 100 %
    assert profile.share_percent(60) == pytest.approx(50)
    assert conv.gflops == pytest.approx(2 * 3_000_000 / 60_000)
    assert (reorder.gflops, gemm.originals) == (None, ("linear",))
    assert profile.slowest == [conv, gemm, reorder]
    assert profile.unassigned == 1
    assert profile.overhead_percent == pytest.approx(25)
    more = Layer("conv2", "Conv", (), 0, (6, 8, 7))
    both = replace(profile, layers=(*profile.layers, more))
    assert [tuple(share) for share in both.operators] == [
        ("Conv", 2, 67),
        ("Gemm", 1, 20),
        ("ReorderOutput", 1, 5),
    ]


def test_turns_keep_what_is_warm() -> None:
    world = World()
    turns = Turns(world.clock)
    turns.take(world.call("plain", 50), world.call("profiled", 60))
    # five calls a round at 0.05 s each; run 5 of the trace is the first of a round
    assert turns.plain_ns == [50_000_000] * 15
    assert turns.profiled_ns == [60_000_000] * 15
    assert turns.kept == [*range(6, 11), *range(12, 17), *range(18, 23)]
    assert world.times["profiled"] == 23
    quick = Turns(lambda: 0)
    quick.take(lambda: None, lambda: None)
    assert len(quick.plain_ns) == 3 * 20


node = helper.make_node


def graph(*nodes: Any) -> Any:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    return helper.make_graph(
        nodes, "g", [x], [y], [helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])]
    )


def test_fused_and_blocked_nodes_are_led_back() -> None:
    original = graph(
        node("Conv", ["x", "w"], ["c1"], "conv1"),
        node("Relu", ["c1"], ["r1"], "relu1"),
        node("Conv", ["r1", "w"], ["c2"], "conv2"),
        node("Add", ["c2", "r1"], ["a"], "add"),
        node("Relu", ["a"], ["r2"], "relu2"),
        node("Conv", ["r2", "w"], ["c3"], "conv3"),
        node("Sigmoid", ["c3"], ["s"], "sigmoid"),
        node("Mul", ["c3", "s"], ["y"], "mul"),
    )
    blocked = "com.microsoft.nchwc"
    optimized = graph(
        node("Conv", ["x", "k"], ["t0"], "r1_nchwc", domain=blocked, activation="Relu"),
        node("Conv", ["t0", "k", "", "t0"], ["t1"], "c2_nchwc", domain=blocked, activation="Relu"),
        node("Conv", ["t1", "k"], ["t2"], "c3_nchwc", domain=blocked),
        node("ReorderOutput", ["t2"], ["c3"], "ReorderOutput", domain=blocked),
        node("QuickGelu", ["c3"], ["y"], "gelu", domain="com.microsoft"),
    )
    assert original_nodes(original, optimized) == {
        "r1_nchwc": ("conv1", "relu1"),
        "c2_nchwc": ("conv2", "add", "relu2"),
        "c3_nchwc": ("conv3",),
        "ReorderOutput": (),
        "gelu": ("sigmoid", "mul"),
    }


def test_quantized_convolutions_in_another_layout_keep_their_work() -> None:
    original = graph(
        node("QuantizeLinear", ["x", "w"], ["q"], "quantize"),
        node("DequantizeLinear", ["q", "w"], ["d"], "dequantize"),
        node("Conv", ["d", "w"], ["c"], "conv"),
        node("Relu", ["c"], ["r"], "relu"),
        node("QuantizeLinear", ["r", "w"], ["rq"], "requantize"),
        node("DequantizeLinear", ["rq", "w"], ["y"], "last"),
    )
    # as ONNX Runtime 1.31 writes it
    optimized = graph(
        node("QuantizeLinear", ["x", "w"], ["q"], "quantize"),
        node("Transpose", ["q"], ["t"], "Transpose"),
        node("QLinearConv", ["t", "w"], ["u"], "conv_token_1"),
        node("Transpose", ["u"], ["rq"], "Transpose_token_0"),
        node("DequantizeLinear", ["rq", "w"], ["y"], "last"),
    )
    assert original_nodes(original, optimized) == {
        "quantize": ("quantize",),
        "Transpose": (),
        "conv_token_1": ("dequantize", "conv", "relu", "requantize"),
        "Transpose_token_0": (),
        "last": ("last",),
    }


def test_a_real_session_is_profiled(make_artifact: Callable[..., Path]) -> None:
    with load(make_artifact(), device="cpu", threads=1) as session:
        found = profile_session(TimedGraph(*ROW, session, (ONES,)), threads=1)
    assert (found.reason, found.multiply_adds, found.unassigned) == ("", 2 * 30_720, 0)
    assert "MatMul" in {layer.op for layer in found.layers}
    assert len(found.runs_us) == len(found.profiled_ns) == len(found.plain_ns) >= 15
    assert all(len(layer.samples_us) == len(found.runs_us) for layer in found.layers)
    originals = {name for layer in found.layers for name in layer.originals}
    assert "logits" in originals  # a node without a name has its output's


def test_where_there_is_no_trace_the_reason_is_said(make_artifact: Callable[..., Path]) -> None:
    with load(make_artifact(), device="cpu", threads=1) as session:
        timed = TimedGraph(*ROW, session, (ONES,))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TimedGraph, "onnx", b"no model")
            broken = profile_session(timed, threads=1)
        assert (broken.layers, bool(broken.reason)) == ((), True)
        session.device = "cuda"
        elsewhere = profile_session(timed, threads=1)
    assert "it sees launches, not kernels" in elsewhere.reason.replace("on a GPU ", "")


def test_profiles_are_kept_and_shown(results: Results, profile: Profile) -> None:
    failed = Profile(label="other", precision="fp32", batch=1, reason="no <trace>")
    with_profiles = replace(
        results,
        profiles=(profile, failed),
        roofline=Roofline(1, (Peak("float32", "BLAS", 4, 400, (2,)),), ()),
    )
    text = to_json(with_profiles)
    assert from_json(text) == with_profiles
    assert json.loads(text)["profiles"][0]["derived"]["slowest"][0]["name"] == "relu_nchwc"

    text = printed(with_profiles)
    for words in (
        *("Profile of tiny fp32 batch 2", "added by ONNX Runtime", "no <trace>"),
        "0.125 ms, without it 0.100 ms (+25.0 %)",
        "0.00 M multiply-adds are in no layer",
    ):
        assert words in text
    line = next(line for line in text.splitlines() if line.startswith("relu_nchwc"))
    # 100 of 200 GFLOP/s
    assert " ".join(line.split()) == "relu_nchwc Conv 0.060 50.0 3.00 100.0 50 conv + relu"

    page = render_page(with_profiles)
    assert 'aria-label="50.0 %"' in page
    assert "no &lt;trace&gt;" in page
    assert 'id="profiles"' not in render_page(results)


def test_without_a_roofline_there_is_no_share_of_peak(results: Results, profile: Profile) -> None:
    assert "needs --roofline" in said(replace(results, profiles=(profile,)))
    assert "Profile" not in f"{said(results)}{printed(results)}"
