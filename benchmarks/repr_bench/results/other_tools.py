"""A run of trtexec or LoadGen, by their own definitions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from repr_bench.results.trials import PERCENTILES, LoadGenSummary
from repr_bench.statistics.intervals import Figure


@dataclass(frozen=True)
class OtherRow:
    """A run of another tool, as it stands in ``file``; nothing of it was measured here.

    Of trtexec ``samples_ns`` are the latencies of its queries, with copies to and from the GPU or
    not; of LoadGen ``loadgen`` is its own account, and it keeps no samples.
    """

    tool: Literal["trtexec", "LoadGen"]
    name: str
    file: str
    samples_ns: tuple[int, ...] = ()
    copies: bool = False
    loadgen: LoadGenSummary | None = None
    precision = None
    """Neither tool writes which it was."""

    @property
    def label(self) -> str:
        """Its name in a table, which begins with the tool's."""
        return f"{self.tool}: {self.name}"

    @property
    def batch(self) -> int | None:
        """Samples of a query, where the file says it."""
        written = self.loadgen.parameters.get("samples_per_query", "") if self.loadgen else ""
        return int(written) if written.isdecimal() else None

    @cached_property
    def latency_ms(self) -> Mapping[int, Figure]:
        """The percentiles that are known, by the tool's formula; without rounds no intervals."""
        if self.loadgen:
            known = self.loadgen.percentiles_ns
            found = {p: known[str(p)] for p in PERCENTILES if str(p) in known}
        else:
            found = {p: trtexec_percentile(self.samples_ns, p) for p in PERCENTILES}
        return {percent: Figure(ns / 1e6, None) for percent, ns in found.items()}

    @property
    def images_per_second(self) -> Figure | None:
        """LoadGen's result where it is samples a second; trtexec's times do not say it."""
        if self.loadgen is None or not self.loadgen.result_name.lower().endswith("per second"):
            return None
        return Figure(self.loadgen.result, None)

    @property
    def meaning(self) -> str:
        """What its figures are, in a sentence."""
        if self.loadgen:
            valid = "valid" if self.loadgen.valid else "NOT valid"
            why = f" ({'; '.join(self.loadgen.reasons)})" if self.loadgen.reasons else ""
            what = (
                f"LoadGen's {self.loadgen.scenario} scenario, {valid} by its rules{why}; latency "
                f"of a query by its clock, percentiles by its formula, sorted[int(n·p)]"
            )
        else:
            copies = "copies to and from the GPU" if self.copies else "WITHOUT copies to the GPU"
            what = (
                f"latency of {len(self.samples_ns):,} queries by trtexec's clock, {copies}; its "
                f"p50 is the mean of both middle samples, its p-th percentile leaves out "
                f"int((1 - p/100)·n) samples at the top"
            )
        return f"{self.label} ({self.file}) is another run, not timed in our rounds: {what}; no accuracy."


def trtexec_percentile(samples: Sequence[int], percent: int) -> float:
    """As trtexec computes it, in its 32-bit floats (samples/common/sampleReporting.cpp).

    50 stands for what it calls the median: of an even number of samples the mean of both middle
    ones. Raises ``ValueError`` for no samples.
    """
    if not samples:
        raise ValueError("a percentile needs at least one sample, got none")
    ordered = sorted(samples)
    count, half = len(ordered), len(ordered) // 2
    if percent == 50:
        return float(ordered[half] if count % 2 else (ordered[half - 1] + ordered[half]) / 2)
    excluded = int((np.float32(1) - np.float32(percent) / np.float32(100)) * np.float32(count))
    return float(ordered[max(count - 1 - excluded, 0)])
