"""Files that appear whole or not at all, and the folder of what can be made again."""

import os
import secrets
import stat
from pathlib import Path

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
