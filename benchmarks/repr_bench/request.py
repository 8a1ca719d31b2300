"""What a run is asked for, in objects that check themselves; and who hears how far it is."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import urlsplit

from repr_bench.errors import UsageError, above_0
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


_PORTS = {"http": 80, "https": 443, "grpc": None, "grpcs": 443}
_PATH = re.compile(r"(.*?)(?:/v2(?:/models/([^/]+)(?:/versions/([^/]+))?(?:/infer)?)?)?/?")


@dataclass(frozen=True)
class Server:
    """A server of the Open Inference Protocol v2, which the tables call ``name``.

    ``prefix`` is the path before ``/v2``. ``model`` "" is called as the artifact is; ``version``
    "" is the server's choice.
    """

    name: str
    scheme: str
    host: str
    port: int
    prefix: str = ""
    model: str = ""
    version: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """``[NAME=]URL``, as far as ``/v2/models/MODEL`` if need be. Raises :class:`UsageError`."""
        name, _, url = text.partition("=") if "=" in text.partition("://")[0] else ("", "", text)
        parts = urlsplit(url)
        try:
            port = parts.port or _PORTS.get(parts.scheme)
        except ValueError as error:
            raise UsageError(f"{url!r} is no server: {error}") from error
        if parts.scheme not in _PORTS or not parts.hostname or port is None or parts.query:
            raise UsageError(
                f"{text!r} is no server: give [NAME=]http://HOST:PORT, https://…, or grpc://HOST:PORT; "
                f"with /v2/models/MODEL where the model has another name there"
            )
        if "@" in parts.netloc:
            raise UsageError(f"{parts.hostname}: a key goes into --api-key-file, not into the URL")
        found = _PATH.fullmatch(parts.path)
        assert found is not None, "it takes any path"
        prefix, model, version = (part or "" for part in found.groups())
        name = name or f"{parts.scheme}://{parts.netloc}{prefix}"
        return cls(name, parts.scheme, parts.hostname, port, prefix, model, version)

    @property
    def place(self) -> str:
        """Host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def secure(self) -> bool:
        """Whether it is asked by TLS."""
        return self.scheme in ("https", "grpcs")


@dataclass(frozen=True)
class Remote:
    """The servers that are asked beside the artifact itself, by ``callers`` at once, with ``key``."""

    servers: tuple[Server, ...] = ()
    callers: int = 8
    key: str = ""

    def __post_init__(self) -> None:
        above_0(callers=self.callers)
        names = [server.name for server in self.servers]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"two servers are called {name}; give one a name: --url NAME=URL")


@dataclass(frozen=True)
class ScenarioOptions:
    """Which scenarios; ``instances`` None means as many as there are cores, on a CPU.

    ``overload``: offer each server so many times the rate that the artifact itself holds.
    """

    scenarios: tuple[Scenario, ...] = ()
    loadgen: bool = False
    end_to_end: bool = False
    slo_ms: float = DEFAULT_SLO_MS
    instances: int | None = None
    max_batch: int = 32
    seed: int = 0
    overload: float | None = None

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
    A peer that compiles a graph has ``compile_seconds`` for it, for all batch sizes together.
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
    remote: Remote = field(default_factory=Remote)
    compile_seconds: float = 120.0

    def own_for(self, target: str) -> tuple[str, ...]:
        """``own`` for each target that :func:`is_own`, or for all where none is."""
        for_all = not any(map(is_own, self.targets))
        return self.own if for_all or is_own(target) else ()

    def __post_init__(self) -> None:
        for batch in self.batches or ():
            above_0(batch=batch)
        above_0(threads=self.threads, compile_seconds=self.compile_seconds)
