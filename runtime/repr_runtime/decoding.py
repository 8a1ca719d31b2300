"""JSON to frozen dataclasses, by their annotations; every mistake is named by its place."""

import json
import math
import re
import types
import typing
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, Literal

NESTED = 64
"""Objects and lists within one another, at most; receipts have some six."""
WHOLE = 2**64
"""Whole numbers are less, and not below -WHOLE / 2: what 64 bits hold, and so any program."""

_DIGITS = bytes(ord("0") if chr(byte).isdecimal() else ord(" ") for byte in range(256))
_MANY = b"0" * 19  # digits, of which numbers above 64 bits have more
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

JSON_KEY = "json"
"""In a field's metadata: its key in JSON, where that is another word than its name."""


class DecodingError(ValueError):
    """A field is missing, unknown or of another type; the text says which, and what it held."""


def read_json(content: bytes) -> Any:
    """What the JSON ``content``, in UTF-8, says, if any program can read and write it again.

    Its numbers are finite and whole ones have 64 bits, its text can be encoded, no key stands twice
    in an object, and it is nested at most ``NESTED`` deep. How long it may be is the caller's to
    check. Raises :class:`DecodingError`.
    """
    try:
        text = content.decode("utf-8")
        found = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unambiguous)
        if _SURROGATE.search(content):
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DecodingError("it holds half a surrogate pair, which is no text") from error
    except (ValueError, RecursionError) as error:
        raise DecodingError(str(error)) from error
    digits = _MANY in content.translate(_DIGITS)  # in a number, or in text
    level: list[Any] = [found]
    for _ in range(NESTED + 1):
        if math.inf in level or -math.inf in level:  # as 1e999 is read
            raise DecodingError("it holds a number that is not finite")
        if digits and any(type(v) is int and not -WHOLE // 2 <= v < WHOLE for v in level):
            raise DecodingError("it holds a whole number of more than 64 bits")
        level = [one for one in level if type(one) in (dict, list)]
        if not level:
            return found
        level = [v for one in level for v in (one if type(one) is list else one.values())]
    raise DecodingError(f"it is nested more than {NESTED} deep")


def _refuse_constant(name: str) -> None:
    raise DecodingError(f"{name} is not JSON")


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise DecodingError(f"the key {twice!r:.80} stands twice in an object")
    return found


def decode(
    kind: Any,
    value: object,
    place: str,
    *,
    ignored: Collection[str] = (),
    optional: Collection[str] | None = None,
    lenient: bool = False,
) -> Any:
    """``value``, out of JSON, as the annotated type ``kind``; ``place`` is its name in errors.

    Takes dataclasses, named tuples, tuples, mappings from text, literals, unions, numbers (which
    must be finite), text, truth values and ``Any``. Keys that are ``ignored`` may stand in any
    object; where it is ``lenient``, others may as well, and what may be None may be missing.
    Of what has a default, the ``optional`` keys may be missing, by default all.
    Raises :class:`DecodingError`.
    """
    return _Decoder(ignored, optional, lenient).decode(kind, value, place)


@dataclass(frozen=True)
class _Decoder:
    ignored: Collection[str]
    optional: Collection[str] | None
    lenient: bool

    def decode(self, kind: Any, value: object, place: str) -> Any:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            if value is None and type(None) in arguments:
                return None
            some = [a for a in arguments if a is not type(None)]
            return self.decode(next((a for a in some if a is type(value)), some[0]), value, place)
        if kind is Any or (origin is Literal and value in arguments):
            return value
        if origin is tuple and isinstance(value, list):
            return self._tuple(arguments, value, place)
        if isinstance(kind, type) and hasattr(kind, "_fields") and isinstance(value, list):
            hints = tuple(typing.get_type_hints(kind).values())
            if len(hints) == len(value):
                return kind(*self._tuple(hints, value, place))
        if origin is Mapping and isinstance(value, dict):
            return {k: self.decode(arguments[1], v, f"{place}.{k}") for k, v in value.items()}
        if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
            return self._dataclass(kind, value, place)
        if kind is float and type(value) in (int, float) and _is_finite(value):
            return float(typing.cast("float", value))
        if kind in (int, str, bool) and type(value) is kind:
            return value
        wanted = getattr(kind, "__name__", str(kind))
        raise DecodingError(f"{place} must be {wanted}, got {value!r:.60}")

    def _tuple(self, kinds: tuple[Any, ...], value: list[Any], place: str) -> tuple[Any, ...]:
        if kinds[-1] is Ellipsis:
            if kinds[0] is int and all(type(v) is int for v in value):  # samples are many
                return tuple(value)
            kinds = kinds[:1] * len(value)
        if len(kinds) != len(value):
            raise DecodingError(f"{place} must have {len(kinds)} values, got {value!r:.60}")
        parts = enumerate(zip(kinds, value, strict=True))
        return tuple(self.decode(kind, v, f"{place}[{i}]") for i, (kind, v) in parts)

    def _dataclass(self, kind: type, value: Mapping[str, object], place: str) -> Any:
        hints = typing.get_type_hints(kind)
        known = {key_of(field): field for field in fields(typing.cast("Any", kind))}
        given = set(value)
        needed = {
            key
            for key, field in known.items()
            if field.default is MISSING or (self.optional is not None and key not in self.optional)
        }
        missing = needed - given
        unknown = given - set(known)
        if self.lenient:
            absent = {k for k in missing if type(None) in typing.get_args(hints[known[k].name])}
            value, missing, unknown = {**dict.fromkeys(absent), **value}, missing - absent, set()
        if wrong := (missing | unknown) - set(self.ignored):
            raise DecodingError(
                f"{place} has missing or unknown fields: {', '.join(sorted(wrong))}"
            )
        return kind(
            **{
                field.name: self.decode(hints[field.name], value[key], f"{place}.{key}")
                for key, field in known.items()
                if key in value
            }
        )


def key_of(field: Field[Any]) -> str:
    """What ``field`` of a dataclass is called in JSON."""
    return str(field.metadata.get(JSON_KEY, field.name))


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # JSON's whole numbers may be too large for float
        return False
