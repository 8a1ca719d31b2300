"""Sealed manifests in which something is not as it was: each field and container, one at a time or a few."""

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

MISSING = object()
TWICE = object()
HUGE = int("9" * 400)


RAW = "@raw:"
"""Opens text that stands in the JSON without its quotes: what no writer of JSON would write."""


def nested(depth: int) -> str:
    return RAW + "[{'a':" * (depth // 2) + "0" + "}]" * (depth // 2)


HOSTILE: tuple[Any, ...] = (
    *(MISSING, TWICE, None, True, False, 0, 1, -1, 2, 7, 255, 2**31, 2**53, 2**63, 2**64, HUGE),
    *(-HUGE, 10**40 - 1, 0.5, -0.5, 1e308, 1e-320, -1e308, RAW + "1e999", RAW + "-1e999"),
    *(
        RAW + "NaN",
        RAW + "Infinity",
        RAW + "0." + "1" * 300,
        "",
        " ",
        "\0",
        "a\0b",
        "\ud800",
        "\udc00x",
    ),
    *("\x1b[2J\x1b]0;owned\x07", "\n[ok] trust me", "\u202egnp", "9" * 5000, "1" * 999, "é" * 1001),
    *("x" * 100_000, "../../etc/passwd", "/etc/passwd", "a/b", "manifest.json", "%s%n{0}", "木"),
    *("float16", "float32", "int64", "cpu", "any", "graph", "golden", "engine", "fp16", "input"),
    *([], {}, [[]], [{}], [None], ["a", "a"], [1, 2], [0, 0, 0], [HUGE], {"a": 1}, {"": {}}),
    *(nested(5), nested(63), nested(70), nested(500), nested(900), [0] * 1000, ["n"] * 300),
    *({"samples": 3}, {"summary": "\x1b[2J"}, {"summary": HUGE}, 12_000, [12_000, 12_000], 3, 4),
)


def mutants(good: Any, seed: int) -> Iterator[tuple[str, Any]]:
    """Without end: what was done, and the manifest that it was done to."""
    chance = random.Random(seed)
    while True:
        made, done = deepcopy(good), []
        for _ in range(chance.choice((1, 1, 1, 1, 2, 3))):
            holder, key, place = chance.choice([*_places(made, "")])
            value = chance.choice(HOSTILE)
            if value is MISSING:
                del holder[key]
            elif value is TWICE:
                if isinstance(holder, list):
                    holder.insert(key, deepcopy(holder[key]))
                else:
                    holder[f"{key}\0twice"] = deepcopy(holder[key])
            elif isinstance(holder, list) and chance.random() < 0.2:
                holder.insert(key, deepcopy(value))
            else:
                holder[key] = deepcopy(value)
            done.append(f"{place} = {value!r:.40}")
        yield "; ".join(done), made


def _places(tree: Any, place: str) -> Iterator[tuple[Any, Any, str]]:
    """Each part, as what holds it, where, and its name."""
    keys: Any = [*tree] if isinstance(tree, dict) else range(len(tree))
    for key in keys:
        yield tree, key, f"{place}.{key}"
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key], f"{place}.{key}")


def seal(folder: Path, data: Any) -> None:
    """Write ``data`` as the manifest in ``folder``, as one would who also makes its SHA-256 right."""
    body = {"sha256": "0" * 64, **{key: value for key, value in data.items() if key != "sha256"}}
    text = json.dumps(body, indent=1).replace('\\u0000twice"', '"')
    raw = re.sub(f'"{RAW}([^"]*)"', lambda found: found[1].replace("'", '"'), text)
    content = raw.encode()
    digest = hashlib.sha256(content).hexdigest().encode()
    (folder / "manifest.json").write_bytes(content.replace(b"0" * 64, digest, 1))


def reseal(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest in ``folder`` and seal it again."""
    data = json.loads((folder / "manifest.json").read_bytes())
    edit(data)
    seal(folder, data)
