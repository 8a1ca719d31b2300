"""What can go wrong in a benchmark through no fault of an artifact.

BenchError (ValueError)
├── UsageError       a command line that cannot be carried out
└── ResultsError     a results file that cannot be read or written
"""

import difflib
from collections.abc import Collection

from repr_runtime import ReproError


class BenchError(ValueError):
    """Base of the errors of this package; the message says the way out."""


class UsageError(BenchError):
    """A command line that cannot be carried out."""


class ResultsError(BenchError):
    """A results file that cannot be read or written."""


def sentence(error: Exception) -> str:
    """What ``error`` says, on one line; with its type, if it was not written for users."""
    text = " ".join(str(error).split())
    written_for_users = isinstance(error, ReproError | ValueError | OSError) and text
    return text if written_for_users else f"{type(error).__name__}: {text}"


def did_you_mean(text: str, known: Collection[str]) -> str:
    """``; did you mean …?`` with the three of ``known`` that are nearest; empty if none is near."""
    near = difflib.get_close_matches(text.strip().lower(), known, n=3, cutoff=0.5)
    return f"; did you mean {', '.join(near)}?" if near else ""


def above_0(**numbers: float | None) -> None:
    """Raise :class:`UsageError` for the first of ``numbers`` that is known and not above 0."""
    for name, value in numbers.items():
        if value is not None and not value > 0:
            raise UsageError(f"{name} must be above 0, got {value}")
