"""What a run is asked for, in objects that check themselves; and who hears how far it is."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from repr_bench.errors import above_0
from repr_bench.inputs import EvaluationImages
from repr_bench.measuring.measure import Plan
from repr_bench.results.trials import Scenario

LOWER = ("fp16", "bf16", "int8")
"""What an export adds to fp32 where it is asked for."""
PRECISIONS = ("fp32", *LOWER)


def is_own(target: str) -> bool:
    """Whether ``target`` is spelled as a network of the user's own: a file or a factory."""
    return (target.endswith(".onnx") or ":" in target) and not Path(target).is_dir()


DEFAULT_SLO_MS = 15.0
"""MLPerf's bound for ResNet-50 in the server scenario (inference rules, "server")."""


class Listener(Protocol):
    """Hears how far the run is."""

    def tell(self, text: str) -> None:
        """A sentence about what is done now."""

    def advance(self, what: str, done: float, total: float) -> None:
        """``done`` of ``total`` seconds or images of ``what``."""


@dataclass(frozen=True)
class ScenarioOptions:
    """Which scenarios; ``instances`` None means as many as there are cores, on a CPU."""

    scenarios: tuple[Scenario, ...] = ()
    loadgen: bool = False
    end_to_end: bool = False
    slo_ms: float = DEFAULT_SLO_MS
    instances: int | None = None
    max_batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        above_0(slo_ms=self.slo_ms, instances=self.instances, max_batch=self.max_batch)


@dataclass(frozen=True)
class Tolerance:
    """An output may differ from the original network's by ``atol + rtol * abs(original)``."""

    atol: float = 0.0
    rtol: float = 0.0


@dataclass(frozen=True)
class Request:
    """What to measure; ``batches`` None means 1 and 8, or what a graph is fixed to.

    ``own`` are options of `repr-export` as on its command line (``--input=3x224x224``) for what is
    exported to the cache. ``tolerance`` None is each artifact's own, that of its golden samples.
    """

    targets: tuple[str, ...]
    artifacts: Path = Path("artifacts")
    batches: tuple[int, ...] | None = None
    precisions: tuple[str, ...] = ("fp32",)
    device: str = "auto"
    threads: int | None = None
    plan: Plan = field(default_factory=Plan)
    images: EvaluationImages = field(default_factory=EvaluationImages)
    command: tuple[str, ...] = ()
    roofline: bool = False
    profile: bool = False
    own: tuple[str, ...] = ()
    tolerance: Tolerance | None = None

    def own_for(self, target: str) -> tuple[str, ...]:
        """``own`` for each target that :func:`is_own`, or for all where none is."""
        for_all = not any(map(is_own, self.targets))
        return self.own if for_all or is_own(target) else ()

    def __post_init__(self) -> None:
        for batch in self.batches or ():
            above_0(batch=batch)
        above_0(threads=self.threads)
