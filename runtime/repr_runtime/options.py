"""What an argument may be: a wrong one is found when it is given, before any work."""

import math
import os
from collections.abc import Collection
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from repr_runtime.errors import OptionError

MANY = 2**16
"""More threads or instances than any machine has use for."""
MOST_BYTES = 2**33
"""What one call makes of its inputs at most, in bytes: a copy of a broadcast array, say."""
_LONGEST_PATH = 4096  # bytes, and 255 of each part: what systems have


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
    raise OptionError(f"{name} must be {kind}{bounds}, got {shown(value)}")


def require_one_of(choices: Collection[str], /, **given: object) -> None:
    """Raise :class:`OptionError` unless each is one of ``choices``."""
    for name, value in given.items():
        if not isinstance(value, str) or value not in choices:
            raise OptionError(f"{name} must be one of {', '.join(choices)}, got {shown(value)}")


def require_path(**given: object) -> None:
    """Raise :class:`OptionError` unless each is a path that the system could have."""
    for name, value in given.items():
        if not isinstance(value, str | os.PathLike):
            raise OptionError(f"{name} must be the path of a file or folder, got {shown(value)}")
        try:
            path = Path(value)
            content = os.fsencode(path)
            short = len(content) <= _LONGEST_PATH and max(map(len, path.parts), default=0) <= 255
            possible = short and b"\0" not in content
        except Exception:  # a surrogate that stands for no byte; or whatever its own method raises
            possible = False
        if not possible:
            raise OptionError(
                f"{name} must be the path of a file or folder, got {shown(value)}, which no file "
                f"can be called"
            )


def shown(value: object) -> str:
    """How ``value`` is written in Python, its first 60 characters, whatever it is."""
    try:
        return f"{value!r:.60}"
    except Exception:  # whole numbers of thousands of digits; objects that raise
        return f"a {type(value).__name__} that cannot be shown"
