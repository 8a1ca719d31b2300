"""One graph at one batch size: its raw samples, and the figures that they give."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from repr_bench.results.graph import Graph
from repr_bench.results.trials import latencies_ms, per_second_figure, plain
from repr_bench.statistics import verdict
from repr_bench.statistics.intervals import Figure

Status = Literal["measured", "interrupted", "absent", "failed"]
"""``absent``: the artifact has no such graph. ``interrupted``: fewer samples than asked for."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One graph at one batch size: raw samples in ns, a tuple for each round.

    ``reason`` says why a row that is not ``measured`` is not. Where an artifact fails as a
    whole, ``precision`` and ``batch`` are None. ``inputs`` says what was fed.
    ``peak_memory_bytes`` is by how much loading the graph's session and running it once at this
    batch size, the smaller ones before, raised the peak of this process's resident memory: of the
    machine's own, not a GPU's; None where the system (all but Linux) does not say.
    """

    label: str
    precision: str | None
    batch: int | None
    status: Status
    reason: str = ""
    graph: Graph | None = None
    inputs: str = ""
    warmup_ns: tuple[int, ...] = ()
    steady: bool = False
    rounds_ns: tuple[tuple[int, ...], ...] = ()
    peak_memory_bytes: int | None = None

    @property
    def samples(self) -> int:
        """How many calls were timed."""
        return sum(map(len, self.rounds_ns))

    @property
    def emulated(self) -> bool:
        """Whether the device lacks this precision, so that the latency says nothing."""
        on_cpu = self.graph is not None and self.graph.device == "cpu"
        return on_cpu and self.precision == "fp16"  # bf16 runs on those that compute it, or not

    @cached_property
    def latency_ms(self) -> Mapping[int, Figure]:
        """Each of ``PERCENTILES`` of the latency in milliseconds; empty without samples."""
        return latencies_ms(self.rounds_ns)

    @cached_property
    def images_per_second(self) -> Figure | None:
        """Images timed over the time they took; None without samples."""
        return per_second_figure(self.batch, self.rounds_ns) if self.batch else None

    @cached_property
    def resolution_percent(self) -> float | None:
        """The least change that a comparison would show; see ``verdict.resolution_percent``."""
        return verdict.resolution_percent(self.rounds_ns)

    @property
    def noisy(self) -> bool:
        """Whether a change of ``verdict.NOISY_PERCENT`` might not show."""
        return (self.resolution_percent or 0.0) > verdict.NOISY_PERCENT / 2

    def derived(self) -> dict[str, Any]:
        """For a reader of the JSON file."""
        found: dict[str, Any] = {f"p{p}_ms": plain(figure) for p, figure in self.latency_ms.items()}
        if self.images_per_second:
            found["images_per_second"] = plain(self.images_per_second)
        answers = self.graph.answers() if self.graph else {}
        return found | answers | {"resolution_percent": self.resolution_percent}
