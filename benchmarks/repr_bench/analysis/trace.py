"""ONNX Runtime's trace: the runs that are kept, and the nodes that each of them ran."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from repr_bench.errors import BenchError

_SUFFIX = "_kernel_time"
_RUN = "model_run"


class TracedNode(NamedTuple):
    """A node of the trace: its name, operator, and microseconds in each kept run."""

    name: str
    op: str
    samples_us: tuple[int, ...]


class Trace(NamedTuple):
    """The runs that were kept of a trace, and the nodes that all of them ran, in order."""

    runs_us: tuple[int, ...]
    nodes: tuple[TracedNode, ...]


def read_trace(events: Iterable[Mapping[str, Any]], keep: Sequence[int]) -> Trace:
    """The runs numbered ``keep`` (from 0, in time) of a trace of ONNX Runtime.

    Raises :class:`BenchError` for a trace with fewer runs, or runs of different nodes.
    """
    events = list(events)
    runs = sorted((e for e in events if e.get("name") == _RUN), key=lambda e: int(e["ts"]))
    if not keep or max(keep) >= len(runs):
        raise BenchError(
            f"ONNX Runtime's trace has {len(runs)} runs, where number {max(keep, default=0)} was "
            f"asked for; its format may have changed"
        )
    nodes = sorted((e for e in events if e.get("cat") == "Node"), key=lambda e: int(e["ts"]))
    nodes = [e for e in nodes if str(e["name"]).endswith(_SUFFIX)]
    kept = [[e for e in nodes if _within(e, runs[number])] for number in keep]
    names = [[_key(e) for e in run] for run in kept]
    if not names[0] or any(run != names[0] for run in names):
        raise BenchError(
            "ONNX Runtime's trace has runs of different nodes; nothing can be compared"
        )
    return Trace(
        tuple(int(runs[number]["dur"]) for number in keep),
        tuple(
            TracedNode(*key, tuple(int(run[index]["dur"]) for run in kept))
            for index, key in enumerate(names[0])
        ),
    )


def _within(node: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    start = int(run["ts"])
    return start <= int(node["ts"]) <= start + int(run["dur"])


def _key(node: Mapping[str, Any]) -> tuple[str, str]:
    op = node.get("args", {}).get("op_name", "?")
    return str(node["name"]).removesuffix(_SUFFIX), str(op)
