"""What is tried: both libraries, the ways to share out the cores, both int8 graphs."""

import pytest

from repr_bench.tuning import ways as module
from repr_bench.tuning.ways import variants, ways
from repr_runtime.backends.tuning import Setting


@pytest.fixture(autouse=True)
def openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is installed, and computes every precision."""
    monkeypatch.setattr(module, "why_not", lambda _: None)


def test_of_latency_the_default_comes_first_and_all_have_one_instance() -> None:
    found = ways("latency", 2, "fp32", ["cpu"])
    assert found == [
        *(Setting(), Setting(threads=1), Setting(threads=2)),
        *(Setting("openvino", threads=1), Setting("openvino", threads=2)),
    ]


def test_of_throughput_the_cores_are_cut_in_all_ways() -> None:
    found = ways("throughput", 4, "fp32", ["cpu"])
    assert found[0] == Setting()
    cuts = [(s.library, s.threads, s.instances) for s in found[1:]]
    assert cuts == [
        *(("onnxruntime", 1, 4), ("onnxruntime", 2, 2)),
        *(("openvino", 1, 4), ("openvino", 2, 2), ("openvino", 4, 1)),
    ]


def test_openvino_tries_both_int8_graphs_and_alone_computes_bf16() -> None:
    both = ways("latency", 1, "int8", ["cpu", "tensorrt"])
    assert [(s.library, s.target) for s in both] == [
        *(("onnxruntime", "cpu"), ("onnxruntime", "cpu")),
        *(("openvino", "cpu"), ("openvino", "tensorrt")),
    ]
    assert {s.library for s in ways("latency", 2, "bf16", ["cpu"])} == {"openvino"}


def test_where_it_is_not_there_onnx_runtime_is_tuned_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "why_not", lambda _: "not installed")
    assert {s.library for s in ways("latency", 2, "fp32", ["cpu"])} == {"onnxruntime"}
    assert ways("latency", 2, "bf16", ["cpu"]) == []


@pytest.mark.parametrize("goal", ["latency", "throughput"])
@pytest.mark.parametrize("cores", [1, 2, 3, 6, 64])
def test_no_more_threads_than_cores(goal: str, cores: int) -> None:
    found = ways(goal, cores, "int8", ["cpu", "tensorrt"])
    assert all((setting.threads or 1) * setting.instances <= cores for setting in found)
    assert len(found) == len(set(found)) <= 20


def test_options_are_those_of_onnx_runtime() -> None:
    assert variants(Setting("openvino")) == []
    assert len(variants(Setting())) == 2
    assert Setting(threads=2, spinning=False) in variants(Setting(threads=2))
    assert Setting(threads=1, spinning=False) not in variants(Setting(threads=1))
