"""What a peer takes of two: the faster one, by a short trial."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from repr_bench.peers.base import Arrays, Prepared, Runner, Workload
from repr_bench.statistics.intervals import percentile

_TRIAL_SECONDS = 0.3
_TRIAL_CALLS = 5


def on_the_faster_graph(open_one: Callable[[Workload], Runner]) -> Callable[[Workload], Runner]:
    """A peer's ``open`` that takes, at each batch size, the faster graph of the precision.

    An int8 artifact has a graph for CPUs and one for TensorRT, and which of them a library is
    faster on is the CPU's matter. Where one fails, or does not answer as ours, the other is taken.
    """

    def opened(workload: Workload) -> Runner:
        if len(workload.graphs) < 2:
            return open_one(workload)
        runners, errors = dict[str, Runner](), list[Exception]()
        for graph in workload.graphs:
            try:
                runners[graph.path] = open_one(replace(workload, graph=graph))
            except Exception as error:  # whatever a library raises
                errors.append(error)
        if not runners:
            raise errors[0]
        return _Faster(runners, workload.right)

    return opened


@dataclass(frozen=True)
class _Faster:
    """Runners of the same peer by the graph that they run."""

    runners: dict[str, Runner]
    right: Callable[[Prepared, int], bool]

    def prepare(self, arrays: Arrays) -> Prepared:
        ready = {path: runner.prepare(arrays) for path, runner in self.runners.items()}
        by_time = sorted(ready, key=lambda path: _seconds(ready[path]))
        right = (path for path in by_time if self.right(ready[path], len(arrays[0])))
        chosen = next(right, by_time[0])
        return replace(ready[chosen], settings=f"{ready[chosen].settings}, {chosen}")

    def close(self) -> None:
        for runner in self.runners.values():
            runner.close()


def _seconds(prepared: Prepared) -> float:
    return median_seconds(partial(prepared.burst, prepared.lanes)) / prepared.lanes


def median_seconds(call: Callable[[], object], seconds: float = _TRIAL_SECONDS) -> float:
    """The median of a few calls, for ``seconds`` at least, after two to warm up."""
    for _ in range(2):
        call()
    samples, begin = list[float](), time.perf_counter()
    while len(samples) < _TRIAL_CALLS or time.perf_counter() - begin < seconds:
        before = time.perf_counter()
        call()
        samples.append(time.perf_counter() - before)
    return percentile(samples, 50)
