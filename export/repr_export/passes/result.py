"""What a graph pass did, and what became of the BatchNormalizations: the fold receipt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Refused:
    """A BatchNorm that stays, and why."""

    batchnorm: str
    reason: str


@dataclass(frozen=True)
class Folded:
    """A BatchNorm that is gone: its name, the node that took it over, and by which case."""

    batchnorm: str
    into: str
    case: str


@dataclass(frozen=True)
class PassResult:
    """How many of which ``things`` a pass changed, and what it refused, each with the reason."""

    changed: int
    things: str
    refused: tuple[Refused, ...] = ()

    def __str__(self) -> str:
        return f"{self.changed} {self.things}"


@dataclass(frozen=True)
class FoldReport(PassResult):
    """What became of each BatchNormalization of a model: ``total`` is folded plus refused.

    ``scales`` counts the sums and products by constants that were folded likewise, ``shortcuts``
    the parameter-free ones that became convolutions, ``shuffles`` those of channels made Gathers,
    ``affines`` the pairs of a product and a sum that became one node.
    """

    folded: tuple[Folded, ...] = ()
    scales: int = 0
    shortcuts: int = 0
    shuffles: int = 0
    affines: int = 0

    @classmethod
    def of(cls, folded: tuple[Folded, ...], refused: tuple[Refused, ...]) -> FoldReport:
        """The result of a fold, counted."""
        return cls(len(folded), "BatchNorms folded", refused, folded)

    @property
    def total(self) -> int:
        """All BatchNorms that there were."""
        return len(self.folded) + len(self.refused)

    def __str__(self) -> str:
        more = f", {self.scales} sums and products by constants too" if self.scales else ""
        return f"{self.changed} of {self.total} {self.things}{more}"

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data that JSON can hold."""
        return {
            "total": self.total,
            "scales": self.scales,
            "shortcuts": self.shortcuts,
            "shuffles": self.shuffles,
            "affines": self.affines,
            "folded": [asdict(item) for item in self.folded],
            "refused": [asdict(item) for item in self.refused],
        }


def kept_lines(refused: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Why BatchNorms were kept, as :meth:`FoldReport.as_dict` says it: a line for each reason."""
    alike: dict[str, list[Mapping[str, str]]] = {}
    for row in refused:
        alike.setdefault(re.sub(r" '[^']*'", "", row["reason"]), []).append(row)
    for reason, rows in alike.items():
        first, *others = rows
        if not others:
            yield f"{first['batchnorm']} kept: {first['reason']}"
        else:
            yield f"{len(rows)} kept, {first['batchnorm']} and others: {reason}"
