"""The roofline: what this machine can do at most, what each network asks of it, and the share.

S. Williams, A. Waterman, D. Patterson, "Roofline: An Insightful Visual Performance Model for
Multicore Architectures", CACM 52 (2009): a program with an intensity of I operations a byte
runs at no more than min(peak, I × bandwidth). Both roofs are measured here, not looked up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from repr_bench.results.row import Row
from repr_bench.statistics import intervals
from repr_bench.statistics.intervals import Figure, Interval

Kind = Literal[
    "float32", "int8", "memory", "cache", "tf32", "float16", "bfloat16", "to-gpu", "to-host"
]
"""What a peak is of: operations of a matrix product, or bytes of a copy; the last five of a GPU."""
PRODUCTS: tuple[Kind, ...] = ("float32", "tf32", "float16", "bfloat16", "int8")
KINDS: tuple[Kind, ...] = (*PRODUCTS, "memory", "cache", "to-gpu", "to-host")
_ARITHMETIC: dict[str, Kind] = {"fp16": "float16", "bf16": "bfloat16", "int8": "int8"}

FORMULA = (
    "Roofline: operations = 2 × multiply-adds; bytes = weights and biases of each weighted layer "
    "(Conv, ConvTranspose, Gemm, MatMul) once, and its activations in and out, as they are stored "
    "in the graph; everything else counts as fused. ceiling = min(peak, operations / bytes × memory "
    "bandwidth), peak and bandwidth the best runs on this machine. A share above 100 % is no error: "
    "fast convolutions (Winograd) compute fewer products than are counted, and activations that "
    "stay in a cache never go through memory."
)


@dataclass(frozen=True)
class Peak:
    """Repeated runs of one thing that a machine is good at.

    ``size`` is the side of a square matrix, or the bytes of the array that is copied.
    ``amount`` is what one run takes: operations (2 n³), or bytes read and written (the line
    that a cache fetches before it is overwritten does not count). ``samples_ns`` are the runs.
    """

    kind: Kind
    how: str
    size: int
    amount: int
    samples_ns: tuple[int, ...]

    @property
    def rate(self) -> float:
        """Of the best run: 10⁹ operations or bytes a second."""
        return self.amount / min(self.samples_ns)


@dataclass(frozen=True)
class Work:
    """What one call of a graph asks for, the whole batch; ``reason`` says why it is not known."""

    label: str
    precision: str
    batch: int
    layers: int = 0
    multiply_adds: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0
    reason: str = ""

    @property
    def operations(self) -> int:
        """Two a multiply-add."""
        return 2 * self.multiply_adds

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.operations / (self.weight_bytes + self.activation_bytes)


class Reached(NamedTuple):
    """How near a measured row comes to its ceiling.

    ``gflops`` in 10⁹ operations a second, with the interval that the latency's gives.
    """

    work: Work
    gflops: float
    interval: Interval | None
    ceiling: float
    memory_bound: bool

    @property
    def share_percent(self) -> float:
        """Of the ceiling."""
        return 100 * self.gflops / self.ceiling

    @property
    def share(self) -> str:
        """The share in percent, with the digits that it supports."""
        scale = 100 / self.ceiling
        scaled = self.interval and Interval(*(scale * end for end in self.interval))
        return intervals.figure(self.share_percent, scaled)


@dataclass(frozen=True)
class Roofline:
    """The peaks of the machine with ``threads`` threads, and the work of each row.

    ``threads`` 0: they are the peaks of its GPU. ``notes`` say what could not be measured, or not
    as it should be.
    """

    threads: int
    peaks: tuple[Peak, ...]
    works: tuple[Work, ...]
    notes: tuple[str, ...] = ()

    def best(self, kind: Kind) -> Peak | None:
        """The highest of that kind; None if none was measured."""
        found = [peak for peak in self.peaks if peak.kind == kind]
        return max(found, key=lambda peak: peak.rate, default=None)

    def compute_peak(self, precision: str | None) -> Peak | None:
        """The peak that graphs of ``precision`` are held against; float32's without TF32."""
        return self.best(_ARITHMETIC.get(precision or "", "float32"))

    def missing(self, work: Work) -> str:
        """Why ``work`` has no ceiling; empty if it has one."""
        if work.reason:
            return work.reason
        if self.compute_peak(work.precision) is None:
            return f"no {work.precision} peak was measured here"
        return "" if self.best("memory") else "no memory bandwidth was measured here"

    def reached(self, work: Work, latency_ms: Figure) -> Reached | None:
        """What a row with that latency reaches of its ceiling; None if it has none."""
        if self.missing(work):
            return None
        peak, memory = self.compute_peak(work.precision), self.best("memory")
        assert peak is not None
        assert memory is not None
        sloped = work.intensity * memory.rate
        latency, interval = latency_ms
        if interval:
            low, high = (work.operations / (1e6 * end) for end in interval)
            interval = Interval(high, low)
        gflops = work.operations / (1e6 * latency)
        return Reached(work, gflops, interval, min(peak.rate, sloped), sloped < peak.rate)


def reached_by(roofline: Roofline, rows: Sequence[Row]) -> list[Reached]:
    """What every timed row with a ceiling reaches of it, in the order of the works."""
    timed = {(row.label, row.precision, row.batch): row for row in rows if row.samples}
    found = []
    for work in roofline.works:
        row = timed.get((work.label, work.precision, work.batch))
        if row and (reached := roofline.reached(work, row.latency_ms[50])):
            found.append(reached)
    return found


def derived(roofline: Roofline, rows: Sequence[Row]) -> dict[str, Any]:
    """For a reader of the JSON file: the roofs, and a row's place below them."""
    best = {kind: peak for kind in KINDS if (peak := roofline.best(kind))}
    return {
        "giga_a_second": {
            kind: {"value": peak.rate, "how": peak.how} for kind, peak in best.items()
        },
        "rows": [
            {
                "label": row.work.label,
                "precision": row.work.precision,
                "batch": row.work.batch,
                "operations_a_byte": row.work.intensity,
                "gflops": row.gflops,
                "ceiling_gflops": row.ceiling,
                "memory_bound": row.memory_bound,
                "share_percent": row.share_percent,
            }
            for row in reached_by(roofline, rows)
        ],
    }
