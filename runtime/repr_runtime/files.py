"""Files that appear whole or not at all, and the folder of what can be made again."""

import os
import secrets
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
