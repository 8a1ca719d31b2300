"""JSON to dataclasses: every mistake is named by its place and what it held."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pytest

from repr_runtime.decoding import JSON_KEY, DecodingError, decode, read_json


class Pair(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Inner:
    count: int
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    name: str
    inner: tuple[Inner, ...]
    note: str | None
    shape: tuple[int | str, ...]
    size: tuple[int, int]
    pair: Pair
    rest: Mapping[str, Any]
    share: float = field(default=0.5, metadata={JSON_KEY: "part"})


GOOD: dict[str, Any] = {
    "name": "x",
    "inner": [{"count": 1}, {"count": 2, "kind": "b"}],
    "note": None,
    "shape": ["n", 3],
    "size": [4, 5],
    "pair": [1, 2.5],
    "rest": {"any": [1, None]},
    "part": 1,
}


def test_what_is_right_comes_back_as_its_types() -> None:
    made = decode(Outer, GOOD, "it")
    assert made == Outer(
        name="x",
        inner=(Inner(1), Inner(2, "b")),
        note=None,
        shape=("n", 3),
        size=(4, 5),
        pair=Pair(1.0, 2.5),
        rest={"any": [1, None]},
        share=1.0,
    )
    assert type(made.share) is float


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": 3}, "it.name must be str, got 3"),
        ({"inner": [{"count": True}]}, "it.inner[0].count must be int, got True"),
        ({"inner": [{"count": 1}, {"kind": "c", "count": 1}]}, "it.inner[1].kind must be"),
        ({"inner": {}}, "it.inner must be"),
        ({"note": 3}, "it.note must be str, got 3"),
        ({"shape": ["n", 1.5]}, "it.shape[1] must be int, got 1.5"),
        ({"size": [4]}, "it.size must have 2 values, got [4]"),
        ({"pair": [1]}, "it.pair must be Pair, got [1]"),
        ({"part": float("nan")}, "it.part must be float, got nan"),
        ({"part": 10**400}, "it.part must be float, got 1000"),
        ({"rest": []}, "it.rest must be"),
        ({"more": 1, "share": 2}, "it has missing or unknown fields: more, share"),
    ],
)
def test_a_mistake_is_named_by_its_place(change: dict[str, Any], words: str) -> None:
    with pytest.raises(DecodingError) as caught:
        decode(Outer, GOOD | change, "it")
    assert str(caught.value).startswith(words)


def test_what_may_be_missing_or_more() -> None:
    less = {key: value for key, value in GOOD.items() if key not in ("note", "part")}
    with pytest.raises(DecodingError, match="it has missing or unknown fields: note"):
        decode(Outer, less, "it")
    whole = decode(Outer, GOOD, "it")
    assert decode(Outer, GOOD | {"more": 1}, "it", ignored=("more",)) == whole
    assert decode(Outer, less | {"more": 1, "part": 1}, "it", lenient=True) == whole
    with pytest.raises(DecodingError, match="fields: name"):
        decode(Outer, {k: v for k, v in GOOD.items() if k != "name"}, "it", lenient=True)


def test_a_key_that_stands_twice_is_refused() -> None:
    assert read_json(b'{"a": {"b": 1}, "b": 1}') == {"a": {"b": 1}, "b": 1}
    with pytest.raises(DecodingError, match="the key 'b' stands twice in an object"):
        read_json(b'{"a": {"b": 1, "c": 1, "b": 2}}')
