"""Settings that were found to be the fastest for a graph on this machine, and where they are kept.

An artifact is sealed, and the same everywhere; what suits it best depends on the machine. So that
lies in a file of the user's cache, one for each graph, precision and machine:
``$REPR_CACHE/tuning/SUBJECT-MACHINE.json`` (else in ``~/.cache/repr-deploy``). A file that is
damaged, or was made on another machine or for another version of a library, is not used, and
is no error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from repr_runtime.artifact.manifest import Manifest
from repr_runtime.decoding import DecodingError, decode, read_json
from repr_runtime.errors import OptionError
from repr_runtime.files import cache_folder, read_bounded, replace_file
from repr_runtime.machine import cpu_name, usable_cores, version_of
from repr_runtime.options import MANY, require_one_of, require_whole

SCHEMA = 2
"""2 has the version of OpenVINO, what is tuned is a precision, and settings are by batch size."""

GOALS = ("latency", "throughput")
LIBRARIES = ("onnxruntime", "openvino")
TARGETS = ("cpu", "tensorrt")
OPTIMIZATIONS = ("all", "extended", "basic")
_LIMIT = 2**20  # bytes; a tuning has some thousand
_HINT = "repr-bench --tune"


@dataclass(frozen=True)
class Setting:
    """How a library runs a graph on the CPU; the defaults are ONNX Runtime's own.

    ``target``: which graph, where the precision has one for each of :data:`TARGETS`, as int8 has.
    ``threads`` (None: one a core) are those of each of ``instances``. Of ONNX Runtime alone:
    ``spinning``, whether its threads wait for work awake, ``arena`` and ``memory_pattern``, whether
    it keeps memory and plans it ahead, ``optimization``, how far it rewrites the graph. ``batch``
    is the batch size that was the fastest with these, for the caller to choose.
    Raises :class:`OptionError` for what none of them may be.
    """

    library: str = "onnxruntime"
    target: str = "cpu"
    threads: int | None = None
    instances: int = 1
    spinning: bool = True
    arena: bool = True
    memory_pattern: bool = True
    optimization: str = "all"
    batch: int | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "instances", "batch"):
            value = getattr(self, name)
            if value is None and name != "instances":
                continue
            require_whole(1, MANY, **{name: value})
        for name in ("spinning", "arena", "memory_pattern"):
            if type(getattr(self, name)) is not bool:
                raise OptionError(f"{name} must be true or false, got {getattr(self, name)!r:.40}")
        require_one_of(OPTIMIZATIONS, optimization=self.optimization)
        require_one_of(LIBRARIES, library=self.library)
        require_one_of(TARGETS, target=self.target)
        usual = self.spinning and self.arena and self.memory_pattern and self.optimization == "all"
        if self.library != "onnxruntime" and not usual:
            raise OptionError(
                f"spinning, arena, memory_pattern and optimization are ONNX Runtime's; leave them "
                f"out with library={self.library!r}"
            )

    def __str__(self) -> str:
        threads = {None: "a thread a core", 1: "1 thread"}.get(
            self.threads, f"{self.threads} threads"
        )
        parts = ["OpenVINO"] if self.library == "openvino" else []
        parts += [f"the graph for {self.target}"] if self.target != "cpu" else []
        parts += [threads if self.instances == 1 else f"{self.instances} instances of {threads}"]
        for name in ("spinning", "arena", "memory_pattern"):
            parts += [] if getattr(self, name) else [f"no {name.replace('_', ' ')}"]
        parts += [f"{self.optimization} optimization"] if self.optimization != "all" else []
        parts += [f"batch {self.batch}"] if self.batch is not None else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Machine:
    """What a tuning holds for: it says nothing of another."""

    cpu: str
    cores: int
    usable_cores: int
    system: str
    onnxruntime: str
    openvino: str

    @property
    def key(self) -> str:
        """A short name of it, for files."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def difference(self, other: Machine) -> str:
        """In what ``other`` is another: ``cpu A, here B``."""
        pairs = ((f.name, getattr(other, f.name), getattr(self, f.name)) for f in fields(self))
        return "; ".join(
            f"{name} {theirs or 'none'}, here {ours or 'none'}"
            for name, theirs, ours in pairs
            if theirs != ours
        )


def this_machine() -> Machine:
    """The machine that this process runs on, with the versions of its libraries ("" for none)."""
    system = f"{platform.system()} {platform.machine()}"
    known = (version_of(name) for name in ("onnxruntime-gpu", "onnxruntime"))
    onnxruntime = next((version for version in known if version != "unknown"), "")
    openvino = version_of("openvino").replace("unknown", "")
    return Machine(
        *(cpu_name(), os.cpu_count() or 1, usable_cores(), system), onnxruntime, openvino
    )


def tuning_subject(manifest: Manifest, precision: str) -> str:
    """What a tuning is of: a digest of the precision and the graphs that it may run as."""
    graphs = (manifest.graph(precision, target) for target in TARGETS)
    words = [precision, *(graph.sha256 for graph in graphs if graph is not None)]
    return hashlib.sha256(" ".join(words).encode()).hexdigest()


def tuning_path(subject: str, machine: Machine) -> Path:
    """Where the tuning of that subject on that machine lies, or would lie, in the user's cache.

    Raises ``OSError`` where there is no home for one.
    """
    return cache_folder() / "tuning" / f"{subject[:16]}-{machine.key}.json"


def resolve(
    tuned: str | Setting | None,
    subject: str,
    batch: int | None = None,
    library: str | None = None,
) -> tuple[Setting | None, str]:
    """The setting that ``load(tuned=…)`` means, and the words about it; None where there is none.

    ``tuned`` is a goal, whose setting for the tried batch size next to ``batch`` (None: the best of
    all) is read from the cache, or a setting; ``library`` is the only one that may be (None: any).
    Never raises for what stands in the cache: the words then say why it is not used.
    """
    if tuned is None:
        return None, ""
    if isinstance(tuned, Setting):
        return tuned, f"with {tuned}"
    try:
        kept = _read(tuned, subject, this_machine())
        able = [each for each in kept if library in (None, each.library)]
        if not able:
            raise ValueError(f"the fastest was {kept[0]}; use device='auto'")
        setting = _nearest(able, batch)
    except (OSError, ValueError) as error:
        return None, f"not tuned for {tuned}: {error}"
    return setting, f"tuned for {tuned}: {setting}"


def store(
    goal: str,
    settings: Sequence[Setting],
    subject: str,
    machine: Machine,
    *,
    search: Mapping[str, Any] | None = None,
) -> Path:
    """Keep ``settings`` for ``goal``, the best first, each for another batch size or library.

    Returns the file. The other goal's stay.
    ``search`` is how it was found, for a reader. Raises ``OSError`` if it cannot be written.
    """
    path = tuning_path(subject, machine)
    goals: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):  # replaced, if damaged
        goals = _load(path, subject)[1]
    goals[goal] = {"settings": [*map(asdict, settings)], "search": dict(search or {})}
    body = {
        "schema": SCHEMA,
        "subject": subject,
        "machine": asdict(machine),
        "goals": goals,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, (json.dumps(body, indent=1, allow_nan=False) + "\n").encode())
    return path


def _nearest(settings: Sequence[Setting], batch: int | None) -> Setting:
    """By the ratio of the sizes; of several equally near the first."""
    if batch is None:
        return settings[0]
    return min(settings, key=lambda each: abs(math.log((each.batch or 1) / batch)))


def _read(goal: str, subject: str, machine: Machine) -> Sequence[Setting]:
    path = tuning_path(subject, machine)
    try:
        made_on, goals = _load(path, subject)
    except FileNotFoundError:
        raise ValueError(_why_none(goal, subject, machine)) from None
    again = f"tune it again: {_HINT} {goal}"
    if made_on != machine:
        raise ValueError(f"{path} is another machine's; {again}")
    if goal not in goals:
        raise ValueError(f"this graph is tuned for {', '.join(goals)} alone; {_HINT} {goal}")
    try:
        kept: Sequence[Setting] = decode(
            tuple[Setting, ...], goals[goal]["settings"], "its settings"
        )
        if not kept:
            raise ValueError("it has no settings")
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); {again}") from error
    return kept


def _why_none(goal: str, subject: str, machine: Machine) -> str:
    """Whether it was tuned elsewhere, or never."""
    for path in sorted((cache_folder() / "tuning").glob(f"{subject[:16]}-*.json")):
        try:
            other, _ = _load(path, subject)
        except (OSError, ValueError):
            continue
        return f"tuned where things are others ({machine.difference(other)}); {_HINT} {goal}"
    return f"this graph was never tuned here; {_HINT} {goal}"


def _load(path: Path, subject: str) -> tuple[Machine, dict[str, Any]]:
    """Of which machine the file is, and what it holds for each goal, unchecked."""
    content = read_bounded(path, _LIMIT)
    again = f"tune it again: {_HINT}"
    try:
        body = read_json(content)
        if not isinstance(body, dict) or body.get("schema") != SCHEMA:
            raise ValueError(f"{path} is of another version; {again}")
        if body.get("subject") != subject:
            raise ValueError(f"{path} is of another graph; {again}")
        goals = decode(Mapping[str, Any], body.get("goals"), "its goals")
        return decode(Machine, body.get("machine"), "its machine"), goals
    except DecodingError as error:
        raise ValueError(f"{path} is damaged ({error}); {again}") from error
