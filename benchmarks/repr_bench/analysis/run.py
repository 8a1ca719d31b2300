"""`--roofline` and `--profile`: what is done for them after the rows were timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from repr_bench.analysis.timed_graph import TimedGraph
from repr_bench.request import Listener, Request
from repr_bench.results.profile import Profile
from repr_bench.results.roofline import Roofline, Work

if TYPE_CHECKING:
    from repr_bench.results.machine import Environment


class Analysis:
    """Fills in ``roofline`` and ``profiles``; an interrupt leaves what was found until then."""

    def __init__(self, request: Request, environment: Environment) -> None:
        self.roofline: Roofline | None = None
        self.profiles: list[Profile] = []
        self._request, self._environment = request, environment

    def run(self, graphs: Sequence[TimedGraph], listener: Listener) -> None:
        """Measure the machine, then profile each of ``graphs``. What fails is its reason."""
        if self._request.roofline:
            self._measure_roofline(graphs, listener)
        if self._request.profile:
            from repr_bench.analysis.profile_session import profile_session

            for timed in graphs:
                where = f"{timed.label} {timed.precision} batch {timed.batch}"
                listener.tell(f"profiling {where}")
                self.profiles.append(profile_session(timed, threads=self._request.threads))

    def _measure_roofline(self, graphs: Sequence[TimedGraph], listener: Listener) -> None:
        from repr_bench.analysis.peaks import measure_peaks

        threads = self._request.threads or default_threads(self._environment)
        listener.tell(f"measuring this machine's peaks with {threads} threads")
        works = tuple(work_of(timed) for timed in graphs)
        peaks, notes = measure_peaks(
            threads,
            memory_bytes=self._environment.memory_bytes,
            int8=any(work.precision == "int8" and not work.reason for work in works),
        )
        self.roofline = Roofline(threads, peaks, works, notes)


def default_threads(environment: Environment) -> int:
    """The threads that ONNX Runtime takes by itself: one a core that the process may use."""
    cores = environment.physical_cores or environment.logical_cores or 1
    return max(1, min(cores, environment.usable_cpus or cores))


def work_of(timed: TimedGraph) -> Work:
    """The work of one call, or the reason why it is not known."""
    from repr_bench.analysis.traffic import layer_traffic

    work = Work(timed.label, timed.precision, timed.batch)
    if timed.emulated:
        return replace(work, reason=f"{timed.precision} is emulated on a CPU")
    if timed.session.device != "cpu":
        reason = f"runs on {timed.session.device}, whose peaks are not measured; with --device cpu"
        return replace(work, reason=reason)
    try:
        layers = layer_traffic(timed.onnx, timed.batch)
    except Exception as error:  # the other rows still have their places
        return replace(work, reason=str(error) or type(error).__name__)
    if not layers:
        return replace(work, reason="its graph has no weighted layer")
    return replace(
        work,
        layers=len(layers),
        multiply_adds=sum(layer.multiply_adds for layer in layers),
        weight_bytes=sum(layer.weight_bytes for layer in layers),
        activation_bytes=sum(layer.activation_bytes for layer in layers),
    )
