"""A whole run: what was asked for, where it ran, and every row of it."""

from dataclasses import dataclass, field

from repr_bench.results.comparison import Comparison
from repr_bench.results.machine import Environment, ReferenceLoadTimes, RoundState
from repr_bench.results.other_tools import OtherRow
from repr_bench.results.peers import PeerRow
from repr_bench.results.profile import Profile
from repr_bench.results.roofline import Roofline
from repr_bench.results.row import Row
from repr_bench.results.scenarios import ScenarioRow, StageRow
from repr_runtime.decoding import JSON_KEY


@dataclass(frozen=True)
class Settings:
    """What was asked for."""

    seconds: float
    samples: int
    rounds: int
    warmup_seconds: float
    device: str
    threads: int | None
    quick: bool = False


@dataclass(frozen=True)
class Results:
    """A whole run; times are UTC in ISO 8601.

    ``left_out`` says what a run without names skips, ``machine`` what it did in each round.
    """

    started: str
    finished: str
    interrupted: bool
    command: tuple[str, ...]
    settings: Settings
    environment: Environment
    rows: tuple[Row, ...]
    left_out: str = ""
    machine: tuple[RoundState, ...] = ()
    reference_load: ReferenceLoadTimes | None = field(
        default=None, metadata={JSON_KEY: "yardstick"}
    )
    comparison: Comparison | None = None
    roofline: Roofline | None = None
    profiles: tuple[Profile, ...] = ()
    scenarios: tuple[ScenarioRow, ...] = ()
    end_to_end: tuple[StageRow, ...] = ()
    peers: tuple[PeerRow, ...] = ()
    others: tuple[OtherRow, ...] = ()

    @property
    def has_figures(self) -> bool:
        """Whether any row of any kind has something measured, or another tool's run is there."""
        timed = any(row.samples for row in self.rows) or any(row.rounds_ns for row in self.peers)
        asked = any(row.queries for row in self.scenarios)
        return timed or asked or any(row.calls for row in self.end_to_end) or bool(self.others)
