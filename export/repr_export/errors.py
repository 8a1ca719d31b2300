"""What can go wrong between a network and its artifact; each is an :class:`ExportError`."""

import re
from dataclasses import dataclass

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


class RunError(GraphError):
    """A graph that ONNX Runtime opens, and cannot run on the inputs that it got."""


class FoldContractError(ExportError):
    """Not as many BatchNorms folded as the network promises."""


class ParityError(ExportError):
    """The exported graph computes something else than the network."""


class PrecisionError(ExportError):
    """A lower precision that cannot be had, or costs more than was allowed."""


class CalibrationError(ExportError):
    """Images to measure int8 ranges on that are missing, damaged or too few."""


class TritonError(ExportError):
    """A model that cannot be put into a Triton model repository."""


class EngineBuildError(ExportError):
    """TensorRT could not build an engine."""


@dataclass(frozen=True)
class ParserIssue:
    """One reason for which a graph is refused, and the way out of it.

    ``node`` is the node's name in the ONNX graph, or its number and first output where it has
    none; ``operator`` its operator. Both are empty for what concerns no node.
    """

    node: str
    operator: str
    reason: str
    hint: str

    def __str__(self) -> str:
        where = f"node {self.node} ({self.operator}): " if self.node else ""
        return f"{where}{self.reason}; {self.hint}"


class ParserError(EngineBuildError):
    """TensorRT's parser refuses the graph; ``issues`` has each node, the reason, the way out."""

    def __init__(self, message: str, issues: tuple[ParserIssue, ...] = ()) -> None:
        super().__init__(message)
        self.issues = issues


def innermost(error: BaseException) -> BaseException:
    """The error at the bottom of a chain of those that were raised from another."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def in_one_line(error: BaseException) -> str:
    """What an error of a library says, on one line of 300 characters, without its place in C++."""
    place = r"\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+:\d+ .* was false\. "
    said = re.sub(place, "", " ".join(str(error).split()))
    return said if len(said) <= 300 else f"{said[:299]}…"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__
