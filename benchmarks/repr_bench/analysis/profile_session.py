"""Profiles one row: a session of its own with ONNX Runtime's profiler on, in turn with the plain one."""

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_bench.analysis.timed_graph import TimedGraph
from repr_bench.analysis.trace import Trace, read_trace
from repr_bench.errors import BenchError
from repr_bench.measuring.measure import Call, Clock, took
from repr_bench.results.profile import Layer, Profile

WARMUP_CALLS = 5
ROUNDS = 3
LEAST_CALLS, MOST_CALLS = 5, 20
"""Counted calls of each session in a round."""
ROUND_SECONDS = 0.25
_NO_TRACE = (
    "no profile of {choice}: layers are read from ONNX Runtime's profiler on a CPU (on a GPU it "
    "sees launches, not kernels); with --device cpu"
)


class Turns:
    """Plain and profiled calls in turn, and which runs of the trace count.

    Both are warmed up; in each round, the first call of either pays for the change and is not
    counted.
    """

    def __init__(self, clock: Clock = time.perf_counter_ns) -> None:
        self._clock = clock
        self.plain_ns: list[int] = []
        self.profiled_ns: list[int] = []
        self.kept: list[int] = []

    def take(self, plain: Call, profiled: Call) -> None:
        """Make all calls."""
        for _ in range(WARMUP_CALLS):
            profiled()
            last = took(plain, self._clock)
        runs = WARMUP_CALLS
        calls = int(np.clip(ROUND_SECONDS * 1e9 / max(last, 1), LEAST_CALLS, MOST_CALLS))
        for _ in range(ROUNDS):
            plain()
            self.plain_ns += [took(plain, self._clock) for _ in range(calls)]
            profiled()
            self.profiled_ns += [took(profiled, self._clock) for _ in range(calls)]
            self.kept += range(runs + 1, runs + 1 + calls)
            runs += 1 + calls


def profile_session(timed: TimedGraph, *, threads: int | None) -> Profile:
    """The profile of ``timed``; whatever goes wrong is its reason."""
    session = timed.session
    profile = Profile(label=timed.label, precision=timed.precision, batch=timed.batch)
    plain: Any = getattr(session.backend, "session", None)
    if session.backend.name != "onnxruntime" or plain is None or session.device != "cpu":
        return replace(profile, reason=_NO_TRACE.format(choice=session.choice))
    feed = {spec.name: array for spec, array in zip(session.inputs, timed.arrays, strict=True)}
    try:
        graph, turns = timed.onnx, Turns()
        with tempfile.TemporaryDirectory(prefix="repr-bench-") as folder:
            trace, originals = _profiled(graph, threads, plain, feed, turns, Path(folder))
        counts = _multiply_adds(graph, timed.batch)
        return filled_in(profile, trace, originals, counts, turns)
    except Exception as error:  # the other rows still have their profiles
        return replace(profile, reason=" ".join(str(error).split()) or repr(error))


def filled_in(
    profile: Profile,
    trace: Trace,
    originals: Mapping[str, tuple[str, ...]],
    counts: Mapping[str, int],
    turns: Turns,
) -> Profile:
    """``profile`` with a trace, and what its nodes stand for; ``counts`` are multiply-adds by original node."""
    layers = tuple(
        Layer(
            name=node.name,
            op=node.op,
            originals=originals.get(node.name, ()),
            multiply_adds=sum(counts.get(name, 0) for name in originals.get(node.name, ())),
            samples_us=node.samples_us,
        )
        for node in trace.nodes
    )
    return replace(
        profile,
        multiply_adds=sum(counts.values()),
        layers=layers,
        runs_us=trace.runs_us,
        plain_ns=tuple(turns.plain_ns),
        profiled_ns=tuple(turns.profiled_ns),
    )


def _multiply_adds(graph: bytes, batch: int) -> dict[str, int]:
    """By node, for the whole batch; empty where they cannot be counted."""
    from repr_bench.analysis.traffic import layer_traffic
    from repr_export.graph.multiply_adds import UncountableError

    try:
        return {layer.node: layer.multiply_adds for layer in layer_traffic(graph, batch)}
    except UncountableError:
        return {}


def _profiled(
    graph: bytes,
    threads: int | None,
    plain: Any,
    feed: Mapping[str, NDArray[Any]],
    turns: Turns,
    folder: Path,
) -> tuple[Trace, dict[str, tuple[str, ...]]]:
    import onnx
    import onnxruntime as ort

    from repr_bench.analysis.fused_nodes import original_nodes

    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "trace")
    optimized = folder / "optimized.onnx"
    options.optimized_model_filepath = str(optimized)
    # The weights apart: only the nodes are read back.
    for name, value in (("file_name", "weights.bin"), ("min_size_in_bytes", "1024")):
        entry = f"session.optimized_model_external_initializers_{name}"
        options.add_session_config_entry(entry, value)
    graph = _with_names(graph)
    session = ort.InferenceSession(graph, options, providers=plain.get_providers())
    try:
        turns.take(partial(plain.run, None, feed), partial(session.run, None, feed))
    finally:
        path = Path(session.end_profiling())
    try:
        events = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"ONNX Runtime's trace cannot be read: {error}") from error
    original = onnx.load_model_from_string(graph).graph
    seen = onnx.load(optimized, load_external_data=False).graph
    return read_trace(events, turns.kept), original_nodes(original, seen)


def _with_names(graph: bytes) -> bytes:
    """The same model, with every nameless node named after its first output.

    ONNX Runtime's trace calls a nameless one by an index that nothing else knows.
    """
    import onnx

    model = onnx.load_model_from_string(graph)
    nameless = [node for node in model.graph.node if not node.name]
    for node in nameless:
        node.name = node.output[0]
    return model.SerializeToString() if nameless else graph
