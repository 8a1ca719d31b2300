"""A command's standard streams; the same as those of `repr_runtime.files`, which is not imported here."""

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any


class _Outlet(io.FileIO):
    """A standard stream that never raises: what it cannot write is dropped, and ``failed`` says why."""

    lost: OSError | None = None
    failed: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            if self.lost is None:
                return super().write(content) or 0
        except OSError as error:
            self.lost = error
        self.failed = self.lost
        return len(content)


def with_streams(prog: str, run: Callable[[], int]) -> int:
    """Run the command ``prog``, whatever its standard streams are: closed, full, or left by a reader.

    What the command does is done all the same. Returns its exit status, or 1 where that is 0 and
    what it said could not be written, which one line on standard error says then; a reader that
    has seen enough, such as ``head``, changes nothing.
    """
    before = sys.stdout, sys.stderr
    if before != (sys.__stdout__, sys.__stderr__) or sys.platform == "win32":
        return run()  # somebody has put others in their places; a console there is no file
    said, told = (_outlet(number, stream) for number, stream in enumerate(before, 1))
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            io.BufferedWriter(outlet),
            encoding=getattr(stream, "encoding", "utf-8"),
            errors="backslashreplace",
            line_buffering=outlet is told or outlet.isatty(),
        )
        for outlet, stream in zip((said, told), before, strict=True)
    )
    try:
        try:
            status = run()
        except SystemExit as end:  # argparse's, say
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        sys.stdout.flush()
        if said.failed is not None and said.failed.errno != errno.EPIPE:
            why = said.failed.strerror
            print(f"{prog}: {why} on standard output; all else was done", file=sys.stderr)
            status = status or 1
        return status
    finally:
        sys.stdout, sys.stderr = before


def _outlet(descriptor: int, stream: Any) -> _Outlet:
    if stream is not None:
        return _Outlet(descriptor, "w", closefd=False)
    while (null := os.open(os.devnull, os.O_RDWR)) < descriptor:
        pass  # it was closed: else the next file to be opened would be the stream
    os.set_inheritable(null, True)
    outlet = _Outlet(null, "w", closefd=False)
    outlet.lost = OSError(errno.EBADF, os.strerror(errno.EBADF))
    return outlet
