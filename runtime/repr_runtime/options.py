"""What an argument may be: a wrong one is found when it is given, before any work."""

import math
import os
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

from repr_runtime.errors import OptionError

MANY = 2**16
"""More threads or instances than any machine has use for."""


def require_whole(least: int, most: float = math.inf, /, **given: object) -> None:
    """Raise :class:`OptionError` unless each is a whole number of ``least`` to ``most``."""
    for name, value in given.items():
        _require(name, value, isinstance(value, Integral), "a whole number", least, most)


def require_seconds(least: float, most: float, /, **given: object) -> None:
    """Raise :class:`OptionError` unless each is a number of seconds in that range."""
    for name, value in given.items():
        _require(name, value, isinstance(value, Real), "seconds", least, most)


def _require(name: str, value: object, is_kind: bool, kind: str, least: float, most: float) -> None:
    number: Any = value
    if is_kind and not isinstance(value, bool) and least <= number <= most:
        return
    bounds = f", {least:g} or more" if math.isfinite(least) else ""
    if math.isfinite(most):
        bounds = f" from {least:,.12g} to {most:,.12g}"
    raise OptionError(f"{name} must be {kind}{bounds}, got {value!r:.60}")


def require_one_of(choices: Collection[str], /, **given: object) -> None:
    """Raise :class:`OptionError` unless each is one of ``choices``."""
    for name, value in given.items():
        if not isinstance(value, str) or value not in choices:
            raise OptionError(f"{name} must be one of {', '.join(choices)}, got {value!r:.60}")


def require_path(**given: object) -> None:
    """Raise :class:`OptionError` unless each is a path."""
    for name, value in given.items():
        if not isinstance(value, str | os.PathLike):
            raise OptionError(f"{name} must be the path of a file or folder, got {value!r:.60}")
