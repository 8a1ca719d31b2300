"""The JSON file of a run: raw samples with what they belong to, read back checked in every field."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from repr_bench.errors import ResultsError
from repr_bench.results import profile, roofline
from repr_bench.results.peers import RATIO_FORMULA
from repr_bench.results.results import Results
from repr_bench.results.scenarios import with_derived
from repr_bench.statistics import intervals, verdict
from repr_runtime.decoding import DecodingError, decode, key_of
from repr_runtime.files import replace_file

SCHEMA = 2
"""2 added what has a default in :class:`Results`; a file of schema 1 is read without it."""


def to_json(results: Results) -> str:
    """The results as JSON text; ``derived`` and ``formulae`` are for the reader's ease alone."""
    body: dict[str, Any] = {"schema": SCHEMA, **_encode(results)}
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
    for one, encoded in zip(results.profiles, body["profiles"], strict=True):
        encoded["derived"] = profile.derived(one)
    with_derived(results.scenarios, body["scenarios"])
    with_derived(results.end_to_end, body["end_to_end"])
    body["formulae"] = {
        "percentile": intervals.PERCENTILE_FORMULA,
        "latency_interval": intervals.LATENCY_INTERVAL_FORMULA,
        "accuracy_interval": intervals.ACCURACY_INTERVAL_FORMULA,
        "verdict": verdict.FORMULA,
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
    try:
        results: Results = decode(Results, body, place, ignored=_IGNORED)
    except DecodingError as error:
        raise ResultsError(f"{error}; was the file altered?") from error
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
        else:
            replace_file(path, text.encode(), mode=0o644)
    except OSError as error:
        raise ResultsError(f"{path} cannot be written: {error.strerror or error}") from error


def _encode(value: Any) -> Any:
    """``value`` as JSON has it, each field under its key."""
    if is_dataclass(value):
        return {key_of(one): _encode(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {key: _encode(one) for key, one in value.items()}
    if isinstance(value, tuple) and not (value and type(value[0]) is int):  # samples are many
        return [_encode(one) for one in value]
    return value


_IGNORED = frozenset({"schema", "derived", "formulae"})
