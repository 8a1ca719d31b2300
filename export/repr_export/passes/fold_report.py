"""What became of the BatchNormalizations of a model: the fold receipt."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Folded:
    """A BatchNorm that is gone: its name, the node that took it over, and by which case."""

    batchnorm: str
    into: str
    case: str


@dataclass(frozen=True)
class Refused:
    """A BatchNorm that stays, and why."""

    batchnorm: str
    reason: str


@dataclass(frozen=True)
class FoldReport:
    """What became of each BatchNormalization of a model: ``total`` is folded plus refused."""

    total: int
    folded: tuple[Folded, ...]
    refused: tuple[Refused, ...]

    def __str__(self) -> str:
        return f"{len(self.folded)} of {self.total} BatchNorms folded"

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data that JSON can hold."""
        return {
            "total": self.total,
            "folded": [asdict(item) for item in self.folded],
            "refused": [asdict(item) for item in self.refused],
        }
