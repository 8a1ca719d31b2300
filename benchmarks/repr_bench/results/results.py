"""What a benchmark found: raw samples with what they belong to, and the JSON file of them."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from repr_bench.analysis import trace as profile_layers
from repr_bench.analysis.trace import Profile
from repr_bench.errors import ResultsError
from repr_bench.measuring.environment import Environment
from repr_bench.measuring.machine_watch import RoundState
from repr_bench.measuring.reference_load import YardstickTimes
from repr_bench.other_tools import OtherRow
from repr_bench.results import roofline
from repr_bench.results.graph import Graph
from repr_bench.results.peers import RATIO_FORMULA, PeerRow
from repr_bench.results.roofline import Roofline, Timed
from repr_bench.results.scenarios import ScenarioRow, StageRow, with_derived
from repr_bench.statistics import intervals as statistics
from repr_bench.statistics import verdict as verdicts
from repr_bench.statistics.intervals import Figure, Interval
from repr_bench.statistics.verdict import Comparison

SCHEMA = 2
"""2 added what has a default in :class:`Results`; a file of schema 1 is read without it."""
PERCENTILES = (50, 90, 99)
UNIT_NS = 1e6
"""Nanoseconds in the unit of shown latencies, the millisecond."""

Status = Literal["measured", "interrupted", "absent", "failed"]
"""``absent``: the artifact has no such graph. ``interrupted``: fewer samples than asked for."""


@dataclass(frozen=True)
class Row:
    """One graph at one batch size: raw samples in ns, a tuple for each round.

    ``reason`` says why a row that is not ``measured`` is not. Where an artifact fails as a
    whole, ``precision`` and ``batch`` are None. ``inputs`` says what was fed.
    """

    label: str
    precision: str | None
    batch: int | None
    status: Status
    reason: str
    graph: Graph | None
    inputs: str
    warmup_ns: tuple[int, ...]
    steady: bool
    rounds_ns: tuple[tuple[int, ...], ...]

    @property
    def samples(self) -> int:
        """How many calls were timed."""
        return sum(map(len, self.rounds_ns))

    @property
    def emulated(self) -> bool:
        """Whether the device lacks this precision, so that the latency says nothing."""
        on_cpu = self.graph is not None and self.graph.device == "cpu"
        return on_cpu and self.precision in ("fp16", "bf16")

    @cached_property
    def latency_ms(self) -> Mapping[int, Figure]:
        """Each of ``PERCENTILES`` of the latency in milliseconds; empty without samples."""
        if not self.samples:
            return {}
        pooled = [sample for samples in self.rounds_ns for sample in samples]
        found = {}
        for percent in PERCENTILES:
            interval = statistics.percentile_interval(self.rounds_ns, percent)
            found[percent] = Figure(
                statistics.percentile(pooled, percent) / UNIT_NS,
                interval and Interval(interval.low / UNIT_NS, interval.high / UNIT_NS),
            )
        return found

    @cached_property
    def images_per_second(self) -> Figure | None:
        """Images timed over the time they took; None without samples."""
        if not self.batch or not self.samples:
            return None
        images = [self.batch * len(samples) for samples in self.rounds_ns]
        seconds = [sum(samples) / 1e9 for samples in self.rounds_ns]
        interval = statistics.ratio_interval(images, seconds)
        return Figure(sum(images) / sum(seconds), interval)

    @cached_property
    def resolution_percent(self) -> float | None:
        """The least change that a comparison would show; see ``verdicts.resolution_percent``."""
        return verdicts.resolution_percent(self.rounds_ns)

    @property
    def noisy(self) -> bool:
        """Whether a change of ``verdicts.NOISY_PERCENT`` might not show."""
        return (self.resolution_percent or 0.0) > verdicts.NOISY_PERCENT / 2


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
    yardstick: YardstickTimes | None = None
    comparison: Comparison | None = None
    roofline: Roofline | None = None
    profiles: tuple[Profile, ...] = ()
    scenarios: tuple[ScenarioRow, ...] = ()
    end_to_end: tuple[StageRow, ...] = ()
    peers: tuple[PeerRow, ...] = ()
    others: tuple[OtherRow, ...] = ()

    def timed(self) -> list[Timed]:
        """Median latencies of the rows that have any, as the roofline takes them."""
        return [
            Timed((row.label, row.precision, row.batch), *row.latency_ms[50])
            for row in self.rows
            if row.samples
        ]


def to_json(results: Results) -> str:
    """The results as JSON text; ``derived`` and ``formulae`` are for the reader's ease alone."""
    body: dict[str, Any] = {"schema": SCHEMA, **asdict(results)}
    for row, encoded in zip(results.rows, body["rows"], strict=True):
        derived = {f"p{percent}_ms": found for percent, found in row.latency_ms.items()}
        if row.images_per_second:
            derived["images_per_second"] = row.images_per_second
        if row.graph:
            derived |= row.graph.answers()
        encoded["derived"] = {name: found._asdict() for name, found in derived.items()}
        encoded["derived"]["resolution_percent"] = row.resolution_percent
    if results.roofline:
        body["roofline"]["derived"] = roofline.derived(results.roofline, results.timed())
    for profile, encoded in zip(results.profiles, body["profiles"], strict=True):
        encoded["derived"] = profile_layers.derived(profile)
    with_derived(results.scenarios, body["scenarios"])
    with_derived(results.end_to_end, body["end_to_end"])
    body["formulae"] = {
        "percentile": statistics.PERCENTILE_FORMULA,
        "latency_interval": statistics.LATENCY_INTERVAL_FORMULA,
        "accuracy_interval": statistics.ACCURACY_INTERVAL_FORMULA,
        "verdict": verdicts.FORMULA,
        "peer_ratio": RATIO_FORMULA,
    }
    text = json.dumps(body, indent=1, allow_nan=False)
    # A round's samples on one line; a raw line break never stands inside a JSON string.
    return re.sub(r"\[\n[\d,\s]+\]", lambda m: re.sub(r"\s+", "", m[0]), text) + "\n"


def from_json(text: str, place: str = "results") -> Results:
    """The results in ``text``, checked in every field.

    Raises :class:`ResultsError`, which names the field, or the newer version that wrote it.
    """
    try:
        body = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ResultsError(
            f"{place} is not readable JSON ({error}); run repr-bench again"
        ) from error
    schema = body.get("schema") if isinstance(body, dict) else None
    if type(schema) is not int or schema < 1:
        raise ResultsError(f"{place} is not a file of repr-bench: its schema is {schema!r:.40}")
    if schema > SCHEMA:
        raise ResultsError(
            f"{place} has schema {schema}, and this repr-bench reads up to {SCHEMA}; update it: "
            f"pip install -U repr-deploy"
        )
    results: Results = _decode(Results, body, place)
    return results


def write_results(results: Results, path: Path) -> None:
    """Write ``results`` as JSON to ``path``, all at once. Raises :class:`ResultsError`."""
    write_text(path, to_json(results))


def read_results(path: Path) -> Results:
    """The results in the file ``path``. Raises :class:`ResultsError`."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path} cannot be read: {error}; give a file of --json") from error
    return from_json(text, str(path))


def write_text(path: Path, text: str) -> None:
    """Write beside ``path``, then rename: an interrupted write leaves the old file whole.

    A device or pipe is written to as it is. Raises :class:`ResultsError`.
    """
    try:
        path = path.resolve()  # what a link leads to is written, the link stays
        if path.exists() and not path.is_file():
            path.write_text(text, "utf-8")
            return
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as stream:
            try:
                stream.write(text)
                stream.close()
                os.chmod(stream.name, 0o644)  # a temporary file is private, a report is not
                os.replace(stream.name, path)
            finally:
                Path(stream.name).unlink(missing_ok=True)
    except OSError as error:
        raise ResultsError(f"{path} cannot be written: {error.strerror or error}") from error


_IGNORED = frozenset({"schema", "derived", "formulae"})


def _decode(kind: Any, value: Any, place: str) -> Any:
    """``value``, out of JSON, as the annotated type ``kind``."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _decode(next(a for a in arguments if a is not type(None)), value, place)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        item = arguments[0]
        if item is int and all(type(v) is int for v in value):  # samples are many
            return tuple(value)
        return tuple(_decode(item, v, f"{place}[{i}]") for i, v in enumerate(value))
    if kind is Interval and isinstance(value, list) and len(value) == 2:
        return Interval(*(_decode(float, v, f"{place}[{i}]") for i, v in enumerate(value)))
    if origin is Mapping and isinstance(value, dict):
        return {key: _decode(arguments[1], v, f"{place}.{key}") for key, v in value.items()}
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        hints = typing.get_type_hints(kind)
        names = {field.name for field in fields(kind)}
        missing = names - set(value) - {f.name for f in fields(kind) if f.default is not MISSING}
        if wrong := (missing | set(value) - names) - _IGNORED:
            raise ResultsError(f"{place} has missing or unknown fields: {', '.join(sorted(wrong))}")
        return kind(
            **{
                name: _decode(hints[name], value[name], f"{place}.{name}")
                for name in names & set(value)
            }
        )
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    wanted = getattr(kind, "__name__", str(kind))
    raise ResultsError(f"{place} must be {wanted}, got {value!r:.60}; was the file altered?")
