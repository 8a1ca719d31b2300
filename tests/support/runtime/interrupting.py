"""Raises where a signal's handler may: at each place of a call, one after the other.

CPython looks for signals at the start of a function, after each call, and when a loop jumps back.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any


class Interrupt(BaseException):
    """What the handler raises."""


def _is_fake(frame: FrameType | None) -> bool:
    """Whether it stands for a library in C, which nothing interrupts half-way."""
    return frame is not None and Path(frame.f_code.co_filename).name.startswith("fake_")


class _At:
    """Counts the places that are passed, and raises at one of them."""

    def __init__(self, place: int) -> None:
        self.place, self.passed = place, 0
        self._positions: dict[int, int] = {}

    def _pass(self) -> None:
        self.passed += 1
        if self.passed == self.place:
            sys.settrace(None)
            raise Interrupt

    def profile(self, frame: FrameType, event: str, _arg: Any) -> None:
        if event == "call":
            self._positions.pop(id(frame), None)
        inside = frame if event.startswith("c_") else frame.f_back
        if event in ("call", "return", "c_return") and not _is_fake(inside):
            self._pass()

    def trace(self, frame: FrameType, event: str, _arg: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            before = self._positions.get(id(frame), -1)  # the frame itself is not kept alive
            self._positions[id(frame)] = frame.f_lasti
            if frame.f_lasti < before and not _is_fake(frame):  # a loop has jumped back
                self._pass()
        return self.trace


def interrupted_everywhere(
    call: Callable[[], object], before: Callable[[], object] = lambda: None, every: int = 1
) -> Iterator[BaseException | None]:
    """Makes ``call`` again and again, interrupted at its first place, its second, ...

    ``before`` is called before each; ``every`` is 9 for each ninth place. Yields what each raised,
    None where that was swallowed; ends when one has come through.
    """
    for place in count(1, every):
        before()
        at = _At(place)
        raised: list[BaseException | None] = []
        gc.disable()  # it would call what is of others, and ignore what that raises
        sys.settrace(at.trace)
        sys.setprofile(at.profile)
        try:
            call()
            raised.append(None)
        except BaseException as error:
            raised.append(error)
        finally:
            sys.setprofile(None)
            sys.settrace(None)
            gc.enable()
        if at.passed < at.place:
            return
        yield raised.pop()
