"""The JSON file of a run: raw samples with what they belong to, read back checked in every field."""

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from repr_bench.errors import ResultsError
from repr_bench.results import roofline
from repr_bench.results.peers import RATIO_FORMULA
from repr_bench.results.results import Results
from repr_bench.statistics import intervals, verdict
from repr_runtime.decoding import DecodingError, decode, key_of
from repr_runtime.files import replace_file

SCHEMA = 5
ADDED = (
    ("cpu_features",),
    ("answered", "server", "refusals_ns", "recovered_seconds"),
    ("difference", "peak_memory_bytes"),
    (
        *("left_out", "machine", "yardstick", "comparison", "roofline", "profiles", "scenarios"),
        *("end_to_end", "peers", "others", "quick", "trained_top1", "bar", "agreement", "flips"),
        *("skipped", "skip_reason"),
    ),
)
"""What a file of schema 4 may lack, what one of 3 too, of 2, and of 1; all else is in every file."""


def to_json(results: Results) -> str:
    """The results as JSON text; ``derived`` and ``formulae`` are for the reader's ease alone."""
    body: dict[str, Any] = {"schema": SCHEMA, **_encode(results)}
    if results.roofline:
        body["roofline"]["derived"] = roofline.derived(results.roofline, results.rows)
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
    except (ValueError, RecursionError) as error:  # ValueError: of 5,000 digits, too
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
        optional = [name for names in ADDED[: SCHEMA - schema] for name in names]
        results: Results = decode(Results, body, place, ignored=_IGNORED, optional=optional)
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
    """``value`` as JSON has it, each field under its key, and what it derives from them."""
    if is_dataclass(value):
        found = {key_of(one): _encode(getattr(value, one.name)) for one in fields(value)}
        derived = getattr(value, "derived", None)
        return found | {"derived": derived()} if derived else found
    if isinstance(value, Mapping):
        return {key: _encode(one) for key, one in value.items()}
    if isinstance(value, tuple) and not (value and type(value[0]) is int):  # samples are many
        return [_encode(one) for one in value]
    return value


_IGNORED = frozenset({"schema", "derived", "formulae"})
