"""Fields whose key in the JSON file is another word than their name in the code."""

from __future__ import annotations

from dataclasses import Field
from typing import Any

JSON_KEY = "json"
"""In a field's metadata: what the field is called in JSON, where not by its name."""


def key_of(one: Field[Any]) -> str:
    """What ``one`` is called in JSON."""
    return str(one.metadata.get(JSON_KEY, one.name))
