"""Spares a capture the sources of 500 functions, which onnxscript parses for a domain that nobody reads."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnxscript.values


@contextmanager
def unparsed() -> Iterator[None]:
    """Parse a function of torchlib when more than its domain is asked for, not before."""
    kind: Any = getattr(onnxscript.values, "TracedOnnxFunction", None)
    parse = getattr(kind, "function_ir", None)
    if not isinstance(parse, property) or parse.fget is None:  # another version's way
        yield
        return
    kind.function_ir = property(lambda function: _Unparsed(function, parse))
    try:
        yield
    finally:
        kind.function_ir = parse


class _Unparsed:
    def __init__(self, function: Any, parse: property) -> None:
        self._function, self._parse = function, parse
        self.domain = function.opset.domain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parse.__get__(self._function), name)
