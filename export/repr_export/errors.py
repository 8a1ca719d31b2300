"""What can go wrong between a network and its artifact.

ExportError (repr_runtime.ReproError)
├── TargetError         what was asked to be exported is not there or not usable
├── OptionError         an option's value, or two that do not go together
├── CaptureError        torch could not trace the network into a graph
├── GraphError          a graph that cannot be read, checked or run
├── FoldContractError   not as many BatchNorms folded as the network promises
└── ParityError         the exported graph computes something else than the network
"""

from __future__ import annotations

from repr_runtime.errors import ReproError


class ExportError(ReproError):
    """Base of the errors of this package; the message says the way out."""


class TargetError(ExportError):
    """What was asked to be exported is not there or not usable."""


class OptionError(ExportError):
    """An option's value, or two that do not go together."""


class CaptureError(ExportError):
    """torch could not trace the network into a graph."""


class GraphError(ExportError):
    """A graph that cannot be read, checked or run."""


class FoldContractError(ExportError):
    """Not as many BatchNorms folded as the network promises."""


class ParityError(ExportError):
    """The exported graph computes something else than the network."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__
