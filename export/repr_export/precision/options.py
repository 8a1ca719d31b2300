"""Which lower precisions an export adds, and what they may cost; checked when made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from repr_export.errors import OptionError

Method = Literal["min-max", "entropy", "percentile"]
METHODS: tuple[Method, ...] = get_args(Method)

MAX_DROP = {"fp16": 0.1, "bf16": 0.1, "int8": 0.5}
"""The percentage points of top-1 that a precision may lose, where none are given."""


@dataclass(frozen=True)
class PrecisionOptions:
    """Which lower precisions to add, and their bounds.

    ``names`` of ``fp16``, ``bf16``, ``int8``. ``io`` ``fp16`` makes the fp16 graph's inputs and
    outputs half too. ``max_drop`` is in percentage points of top-1; None is
    :data:`MAX_DROP`. ``calibration`` is a folder of images for int8 (None: bundled ones),
    ``method`` how ranges are found, ``bisect`` whether to search for the fewest nodes to keep in
    fp32. Raises :class:`OptionError`.
    """

    names: tuple[str, ...] = ()
    io: str = "fp32"
    max_drop: float | None = None
    calibration: Path | None = None
    method: Method = "entropy"
    bisect: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in MAX_DROP]
        if unknown:
            raise OptionError(
                f"there is no precision {unknown[0]!r}; known are {', '.join(MAX_DROP)}"
            )
        if self.io not in ("fp32", "fp16"):
            raise OptionError(f"--io must be fp32 or fp16, got {self.io!r}")
        if self.io == "fp16" and "fp16" not in self.names:
            raise OptionError("--io fp16 is for the fp16 graph; give --fp16 too")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise OptionError(f"--max-drop must lie in 0..100 points, got {self.max_drop:g}")
        if "int8" not in self.names and (self.calibration is not None or self.bisect):
            option = "--bisect" if self.bisect else "--calibration"
            raise OptionError(f"{option} is for int8; give --int8 too")

    def bound(self, name: str) -> float:
        """The percentage points of top-1 that the precision ``name`` may lose."""
        return MAX_DROP[name] if self.max_drop is None else self.max_drop
