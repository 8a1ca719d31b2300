"""The graph that was timed: where it comes from, how large it is, and what it gets right."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from repr_bench.results.agreement import Agreement, Flips, percent
from repr_bench.results.trials import plain
from repr_bench.statistics.intervals import Figure


@dataclass(frozen=True)
class Accuracy:
    """How many of ``images`` a graph got right; ``top5`` is None for ten classes or fewer."""

    top1: int
    top5: int | None
    images: int
    description: str
    sha256: str


@dataclass(frozen=True)
class Graph:
    """The graph that was timed, and what it got right; ``accuracy_note`` says why not known.

    ``trained_top1`` (0 to 1) is what training recorded of bundled weights on all test images,
    ``bar`` what they should reach; None where there is none. ``flips`` are those from the
    artifact's fp32 graph, None for itself. Of the images, ``skipped`` could not be used, the
    first for ``skip_reason``.
    """

    artifact: str
    network: str
    dataset: str | None
    weights: str
    weights_sha256: str | None
    parameters: int
    multiply_adds: int | None
    bytes: int
    sha256: str
    device: str
    choice: str
    accuracy: Accuracy | None
    accuracy_note: str
    trained_top1: float | None = None
    bar: float | None = None
    agreement: Agreement | None = None
    flips: Flips | None = None
    skipped: int = 0
    skip_reason: str = ""

    @property
    def below_bar(self) -> bool:
        """Whether its weights miss their bar."""
        if self.trained_top1 is None or self.bar is None:
            return False
        return self.trained_top1 < self.bar

    @cached_property
    def figures(self) -> Mapping[str, Figure]:
        """What is known of its answers, by the name in JSON; shares with Wilson's interval."""
        found: dict[str, Figure] = {}
        if right := self.accuracy:
            found["top1_percent"] = percent(right.top1, right.images)
            if right.top5 is not None:
                found["top5_percent"] = percent(right.top5, right.images)
        if self.agreement:
            weighted = Figure(self.agreement.weighted_percent, None)
            found["agreement_percent"] = self.agreement.figure
            found["margin_weighted_agreement_percent"] = weighted
        if self.flips:
            found["flips_p_value"] = Figure(self.flips.p_value, None)
        return found

    def answers(self) -> dict[str, Any]:
        """The figures on what it answers, as they stand in JSON."""
        return {name: plain(figure) for name, figure in self.figures.items()}
