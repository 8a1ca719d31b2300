"""What a stranger's graph may cost: refused before ONNX Runtime sees it, or given up in time."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import costly_graphs as costly
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from peak_memory import CHILD_ENVIRONMENT
from refusals import refuses

from repr_runtime import Limits, load
from repr_runtime.artifact import onnx_file
from repr_runtime.artifact.manifest import TensorSpec
from repr_runtime.artifact.onnx_file import cost_of
from repr_runtime.backends.onnxruntime import OnnxRuntimeBackend
from repr_runtime.errors import LimitError, ModelLoadError, OptionError, RunLimitError

FOUR = {
    "inputs": (TensorSpec("input", "float32", ("n", 4)),),
    "outputs": (TensorSpec("logits", "float32", ("n", 4)),),
    "labels": None,
    "preprocessing": None,
}
X = np.ones((1, 4), np.float32)
RELU = costly.graph([costly.node("Relu", ["input"], ["logits"])])


@pytest.fixture
def write(tiny: Any, tmp_path: Path) -> Any:
    return lambda graph: tiny.write(tmp_path / "a", graph=graph, **FOUR)


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (costly.calling(30, 2), "calls, with functions as often as they are called; the limit is 10,000"),
        (costly.calling(3000, 1), "functions call each other more than 64 deep, or without end"),
        (costly.calling(1, 0), "or without end (Limits.depth); write it with its functions inlined"),
        (costly.sparse(2**30), "dense ones of more bytes than its file has and 536,870,912"),
        (costly.sparse(2**62), "(Limits.constants)"),
        (costly.nested(10_000), "messages lie more than 100 deep"),
        (costly.many_messages(1, costly.field(4, b"Relu"), 500_000), "the limit is 250,000"),
        (costly.of_dimensions(100_000, "operand"), "at most 64 can be run"),
        (costly.of_dimensions(65, "constant"), "at most 64 can be run"),
        (costly.of_dimensions(65, "input"), "a tensor of 67 dimensions"),
    ],
)  # fmt: skip
def test_refused_at_load_within_seconds(write: Any, graph: bytes, words: str) -> None:
    path = write(graph)
    begin = time.monotonic()
    with refuses(LimitError, words):
        load(path, device="cpu")
    assert time.monotonic() - begin < 30


def test_fields_without_end(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "_MOST_FIELDS", 10_000)
    path = write(costly.many_messages(16, b"", 20_000))
    with refuses(LimitError, "more than 10,000 fields of protobuf"):
        load(path, device="cpu")


def test_nodes_that_are_none(write: Any) -> None:
    with refuses(ModelLoadError, "a node without an operator"):
        load(write(costly.many_messages(1, b"", 1000)), device="cpu")
    with refuses(ModelLoadError, "compiled code for one device"):
        load(write(costly.graph([costly.node("EPContext", ["input"], ["logits"])])), device="cpu")


@pytest.mark.parametrize(
    ("limits", "graph", "words"),
    [
        (Limits(size=100), costly.endless(), "the limit is 100 (Limits.size)"),
        (Limits(subgraphs=False), costly.endless(), "and the limits allow none"),
        (Limits(nodes=5), costly.large_constants(2, 2), "has more nodes"),
        (Limits(nodes=20), costly.calling(3, 4), "has 36 or more nodes"),
        (Limits(calls=4), costly.calling(3, 2), "has 6 or more calls"),
        (Limits(depth=2), costly.calling(3, 2), "more than 2 deep"),
    ],
)
def test_as_few_as_a_service_allows(write: Any, limits: Limits, graph: bytes, words: str) -> None:
    path = write(graph)
    with refuses(LimitError, words):
        load(path, device="cpu", limits=limits)
    load(path, device="cpu").close()


CHILD = """
import sys
import repr_runtime, onnxruntime
from peak_memory import peak_memory
with repr_runtime.load(sys.argv[2], device="cpu"):  # what the library itself takes
    before = peak_memory()
with repr_runtime.load(sys.argv[1], device="cpu"):
    print(peak_memory() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of the peak of memory")
def test_constants_are_not_computed_beyond_the_limit(write: Any, artifact: Path) -> None:
    """Four of 512 MB each, in a file of 800 bytes."""
    path = write(costly.large_constants(4, 2**27))
    command = [sys.executable, "-c", CHILD, str(path), str(artifact)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True, env=CHILD_ENVIRONMENT
    )
    assert int(done.stdout) < 2**29 + 2**26


def test_constants_within_the_limit_are_computed_beforehand(write: Any) -> None:
    """However few may be made: the answers stay the same."""
    path = write(costly.large_constants(2, 1000))
    for limits in (Limits(), Limits(constants=0)):
        with load(path, device="cpu", limits=limits) as session:
            np.testing.assert_array_equal(session.run(X)["logits"], X + 3)


def test_an_endless_loop_is_given_up_and_the_session_goes_on(write: Any, capfd: Any) -> None:
    path = write(costly.endless())
    with load(path, device="cpu", limits=Limits(run_seconds=0.2), threads=1) as session:
        for _ in range(2):
            with refuses(RunLimitError, "given up after 0.2 s"):
                session.run(X)
    with load(write(RELU), device="cpu", limits=Limits(run_seconds=30)) as session:
        np.testing.assert_array_equal(session.run(X)["logits"], X)
    assert capfd.readouterr() == ("", "")
    for thread in threading.enumerate():  # nobody waits on for the end of a run that is over
        if isinstance(thread, threading.Timer):
            thread.join(10)
            assert not thread.is_alive()


def test_loading_is_given_up(write: Any) -> None:
    begin = time.monotonic()
    with refuses(LimitError, "not loaded the graph within 0.05 s"):
        load(write(costly.calling(13, 2)), device="cpu", limits=Limits(load_seconds=0.05))
    assert time.monotonic() - begin < 60


def test_a_graph_in_another_format_than_was_looked_into(tmp_path: Path) -> None:
    """ONNX Runtime's own, which it takes by a mark in the bytes."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "own.ort")
    ort.InferenceSession(RELU, options, providers=["CPUExecutionProvider"])
    own = (tmp_path / "own.ort").read_bytes()
    with refuses(ModelLoadError, "refuses the graph"):
        OnnxRuntimeBackend(own, "cpu", 1)


def test_names_that_are_no_text(write: Any, capfd: Any) -> None:
    for name in (b"input", b"Relu"):
        with pytest.raises(ModelLoadError, match=r"name is no text|refuses the graph: .*utf-8"):
            load(write(RELU.replace(name, b"\xff" * len(name))), device="cpu")
    assert capfd.readouterr() == ("", "")


def test_a_large_network_is_within_the_usual_limits() -> None:
    """100,000 nodes, walked in less time than ONNX Runtime takes to load them."""
    nodes = [costly.node("Relu", [f"v{i}"], [f"v{i + 1}"], name=f"n{i}") for i in range(100_000)]
    content = costly.graph(nodes)
    begin = time.monotonic()
    assert cost_of(content).nodes == 100_000
    assert time.monotonic() - begin < 20


def test_what_may_be_constant_is_counted() -> None:
    made = onnx.ModelProto.FromString(costly.large_constants(3, 5))
    assert cost_of(made.SerializeToString()).constant == 3
    backwards = list(reversed(made.graph.node))
    del made.graph.node[:]
    made.graph.node.extend(backwards)  # ONNX Runtime takes these too
    assert cost_of(made.SerializeToString()).constant == len(backwards)
    assert cost_of(costly.calling(3, 2)).constant == 2 + 4 + 4
    made = onnx.ModelProto.FromString(costly.endless())
    assert cost_of(made.SerializeToString()).constant == 0
    helper.set_model_props(made, {"a": "b"})
    assert cost_of(made.SerializeToString()).nodes == 3


def test_limits_check_themselves() -> None:
    for wrong, words in (
        ({"nodes": -1}, "nodes must be a whole number from 0"),
        ({"size": 1.5}, "size must be a whole number"),
        ({"subgraphs": 1}, "subgraphs must be True or False, got 1"),
        ({"run_seconds": 0}, "run_seconds must be seconds from 0.001"),
    ):
        with refuses(OptionError, words):
            Limits(**wrong)  # type: ignore[arg-type]
    assert Limits.parse("") == Limits()
    parsed = Limits.parse("run_seconds=0.5, nodes=10,subgraphs=no")
    assert parsed == Limits(run_seconds=0.5, nodes=10, subgraphs=False)
    for text in ("nodes", "nodes=x", "nodez=1", "subgraphs=maybe", "parse=1"):
        with refuses(OptionError, f"{text!r} is no limit; known are size, constants"):
            Limits.parse(text)
