"""Where a network's time goes: its layers, their medians, and their shares.

ONNX Runtime counts whole microseconds, so that a layer of a few has a median that is no finer.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from repr_bench.statistics.intervals import percentile

TOP = 10
"""Layers that a report shows, the slowest first."""

FORMULA = (
    "Profile: medians over the profiled runs, warm-up excluded, of a session of its own with the "
    "same threads; ONNX Runtime counts whole microseconds. Shares are of the sum of all layers' "
    "medians and the time between them. GFLOP/s = 2 × multiply-adds / time. The profiler's cost: "
    "medians of calls with and without it, made in turn."
)


@dataclass(frozen=True)
class Layer:
    """One node that ONNX Runtime ran; ``samples_us`` hold a value for each profiled run.

    ``originals`` are the nodes of the artifact's graph that it does the work of: none for one
    that ONNX Runtime put in itself. ``multiply_adds`` are theirs, for the whole batch.
    """

    name: str
    op: str
    originals: tuple[str, ...]
    multiply_adds: int
    samples_us: tuple[int, ...]

    @property
    def microseconds(self) -> float:
        """The median."""
        return percentile(self.samples_us, 50)

    @property
    def gflops(self) -> float | None:
        """10⁹ operations a second; None without multiply-adds, or under a microsecond."""
        if not self.multiply_adds or not self.microseconds:
            return None
        return 2 * self.multiply_adds / (1e3 * self.microseconds)


class Share(NamedTuple):
    """All layers of one operator together."""

    op: str
    layers: int
    microseconds: float


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The layers of a row in the order in which they ran; ``reason`` says why there are none.

    ``runs_us`` are whole runs as the profiler saw them, ``plain_ns`` and ``profiled_ns`` calls
    in turn without and with it. ``multiply_adds`` are the graph's, for the whole batch.
    """

    label: str
    precision: str
    batch: int
    multiply_adds: int = 0
    layers: tuple[Layer, ...] = ()
    runs_us: tuple[int, ...] = ()
    plain_ns: tuple[int, ...] = ()
    profiled_ns: tuple[int, ...] = ()
    reason: str = ""

    @property
    def run_us(self) -> float:
        """The median of the whole runs."""
        return percentile(self.runs_us, 50)

    @property
    def overhead_percent(self) -> float:
        """What the profiler adds to a call, in percent of one without it: the medians of both."""
        return 100 * (self.profiled_us / self.plain_us - 1)

    @property
    def plain_us(self) -> float:
        """The median of calls without the profiler."""
        return percentile(self.plain_ns, 50) / 1e3

    @property
    def profiled_us(self) -> float:
        """The median of calls with it."""
        return percentile(self.profiled_ns, 50) / 1e3

    @property
    def slowest(self) -> list[Layer]:
        """The ``TOP`` layers, the slowest first."""
        return sorted(self.layers, key=lambda layer: -layer.microseconds)[:TOP]

    @property
    def operators(self) -> list[Share]:
        """Time by operator type, the most first: the sums of its layers' medians."""
        members: dict[str, list[Layer]] = {}
        for layer in self.layers:
            members.setdefault(layer.op, []).append(layer)
        shares = [
            Share(op, len(layers), sum(layer.microseconds for layer in layers))
            for op, layers in members.items()
        ]
        return sorted(shares, key=lambda share: -share.microseconds)

    @property
    def between_us(self) -> float:
        """The part of a run that is in no layer: calls, memory, and the profiler itself."""
        spent = map(sum, zip(*(layer.samples_us for layer in self.layers), strict=True))
        rest = [run - layers for run, layers in zip(self.runs_us, spent, strict=True)]
        return max(0.0, percentile(rest, 50))

    @property
    def unassigned(self) -> int:
        """Multiply-adds of the graph that no layer was found to do."""
        return self.multiply_adds - sum(layer.multiply_adds for layer in self.layers)

    def share_percent(self, microseconds: float) -> float:
        """In percent of all layers' medians and what lies between them, which make 100 %.

        Not of the median run: on a busy machine a run is disturbed more often than a layer.
        """
        whole = sum(layer.microseconds for layer in self.layers) + self.between_us
        return 100 * microseconds / whole if whole else 0.0

    def derived(self) -> dict[str, Any]:
        """For a reader of the JSON file: medians and shares, the slowest first."""
        if self.reason:
            return {}
        return {
            "run_us": self.run_us,
            "overhead_percent": self.overhead_percent,
            "between_us": self.between_us,
            "operators": [
                {**share._asdict(), "share_percent": self.share_percent(share.microseconds)}
                for share in self.operators
            ],
            "slowest": [
                {
                    "name": layer.name,
                    "us": layer.microseconds,
                    "share_percent": self.share_percent(layer.microseconds),
                    "gflops": layer.gflops,
                }
                for layer in self.slowest
            ],
        }
