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
        from repr_bench.analysis.gpu_peaks import measure_gpu_peaks
        from repr_bench.analysis.peaks import measure_peaks

        on_gpu = any(timed.session.device != "cpu" for timed in graphs)
        works = tuple(work_of(timed, on_gpu=on_gpu) for timed in graphs)
        if on_gpu:
            listener.tell("measuring the GPU's peaks")
            peaks, notes = measure_gpu_peaks()
            self.roofline = Roofline(0, peaks, works, notes)
            return
        threads = self._request.threads or default_threads(self._environment)
        listener.tell(f"measuring this machine's peaks with {threads} threads")
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


def work_of(timed: TimedGraph, *, on_gpu: bool = False) -> Work:
    """The work of one call, or the reason why it is not known, or has no peak to be held against.

    ``on_gpu``: the peaks are those of the GPU.
    """
    from repr_bench.analysis.traffic import layer_traffic

    work = Work(timed.label, timed.precision, timed.batch)
    if timed.emulated:
        return replace(work, reason=f"{timed.precision} is emulated on a CPU")
    if on_gpu and timed.session.device == "cpu":
        return replace(
            work, reason="runs on the CPU, and the peaks are the GPU's; use --device cpu"
        )
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
