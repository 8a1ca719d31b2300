"""Files that appear whole or not at all, the folder of what can be made again, a command's streams."""

import errno
import io
import os
import secrets
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CACHE_VARIABLE = "REPR_CACHE"


def cache_folder() -> Path:
    """``$REPR_CACHE``, else ``$XDG_CACHE_HOME/repr-deploy``, else ``~/.cache/repr-deploy``.

    Raises ``OSError`` where there is none of these, with the way out.
    """
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own)
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise OSError(f"there is no home for a cache; set {CACHE_VARIABLE} to a folder") from error
    return caches / "repr-deploy"


def read_bounded(path: Path, most: int) -> bytes:
    """The file ``path``, of up to ``most`` bytes; a pipe or a device in its place is not waited for.

    Raises ``OSError``, also for what is longer or no file.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))  # Windows has none

    with open(path, "rb", opener=opener) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is not a file")
        if status.st_size > most:
            raise OSError(f"{path} has {status.st_size:,} bytes, more than {most:,}")
        return stream.read(status.st_size)


def replace_file(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write ``content`` beside ``path``, flush it, then rename: at no time is there half a file.

    ``mode`` are the permissions of the new file, less the process's umask. Raises ``OSError``;
    what was there before stays then, and nothing is left beside it.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        write_flushed(beside, content, mode=mode)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    flush_folder(path.parent)


def write_flushed(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Make the file ``path``, which must not be there yet, and see it onto the disk."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def flush_folder(path: Path) -> None:
    """See the names in the folder ``path`` onto the disk, where the system can open a folder."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
