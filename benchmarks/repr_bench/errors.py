"""What can go wrong in a benchmark through no fault of an artifact.

BenchError (ValueError)
├── UsageError       a command line that cannot be carried out
└── ResultsError     a results file that cannot be read or written
"""


class BenchError(ValueError):
    """Base of the errors of this package; the message says the way out."""


class UsageError(BenchError):
    """A command line that cannot be carried out."""


class ResultsError(BenchError):
    """A results file that cannot be read or written."""
