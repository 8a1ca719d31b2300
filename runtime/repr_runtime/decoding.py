"""JSON to frozen dataclasses, by their annotations; every mistake is named by its place."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal

JSON_KEY = "json"
"""In a field's metadata: its key in JSON, where that is another word than its name."""


class DecodingError(ValueError):
    """A field is missing, unknown or of another type; the text says which, and what it held."""


def decode(kind: Any, value: object, place: str, *, ignored: Collection[str] = ()) -> Any:
    """``value``, out of JSON, as the annotated type ``kind``; ``place`` is its name in errors.

    Takes dataclasses, named tuples, tuples of one type, mappings from text, literals, optional
    types, numbers (which must be finite), text and truth values. Keys that are ``ignored`` may stand in any
    object. Raises :class:`DecodingError`.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kind = next(a for a in arguments if a is not type(None))
        return decode(kind, value, place, ignored=ignored)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        item = arguments[0]
        if item is int and all(type(v) is int for v in value):  # samples are many
            return tuple(value)
        return tuple(decode(item, v, f"{place}[{i}]", ignored=ignored) for i, v in enumerate(value))
    if isinstance(kind, type) and hasattr(kind, "_fields") and isinstance(value, list):
        hints = list(typing.get_type_hints(kind).values())
        if len(hints) == len(value):
            parts = zip(hints, value, strict=True)
            return kind(*(decode(k, v, f"{place}[{i}]") for i, (k, v) in enumerate(parts)))
    if origin is Mapping and isinstance(value, dict):
        return {
            key: decode(arguments[1], v, f"{place}.{key}", ignored=ignored)
            for key, v in value.items()
        }
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        return _dataclass(kind, value, place, ignored)
    if kind is float and type(value) in (int, float) and math.isfinite(typing.cast("float", value)):
        return float(typing.cast("float", value))
    if kind in (int, str, bool) and type(value) is kind:
        return value
    wanted = getattr(kind, "__name__", str(kind))
    raise DecodingError(f"{place} must be {wanted}, got {value!r:.60}")


def key_of(field: Field[Any]) -> str:
    """What ``field`` of a dataclass is called in JSON."""
    return str(field.metadata.get(JSON_KEY, field.name))


def _dataclass(
    kind: type, value: Mapping[str, object], place: str, ignored: Collection[str]
) -> Any:
    hints = typing.get_type_hints(kind)
    known = {key_of(field): field for field in fields(typing.cast("Any", kind))}
    missing = {key for key, field in known.items() if field.default is MISSING} - set(value)
    if wrong := (missing | set(value) - set(known)) - set(ignored):
        raise DecodingError(f"{place} has missing or unknown fields: {', '.join(sorted(wrong))}")
    return kind(
        **{
            field.name: decode(hints[field.name], value[key], f"{place}.{key}", ignored=ignored)
            for key, field in known.items()
            if key in value
        }
    )
