"""What a library compiled for this machine, kept between runs of the process.

It is code that the library will run, and no manifest covers it. So a cache is read only if this
user wrote it for this very graph or engine: the file opens with a keyed hash (HMAC) of that one's
SHA-256 and the content, under a key that stays in the user's own folder. A cache that came from
elsewhere, or is damaged, is as good as none.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from repr_runtime.files import cache_folder, read_bounded, replace_file, write_flushed

_SIZE = hashlib.sha256().digest_size
_MOST = 2**30
"""Bytes of one file, and of a folder of them; those of large networks have 100 million."""


def read_cache(path: Path, sha256: str) -> bytes | None:
    """What was compiled of the file with that SHA-256, or None.

    None is for what is absent, damaged, of another file or another user's.
    """
    try:
        content = memoryview(read_bounded(path, _MOST))
        key = read_bounded(_key_path(), _SIZE)
    except OSError:
        return None
    mark, compiled = content[:_SIZE], content[_SIZE:]
    return bytes(compiled) if hmac.compare_digest(mark, _mark(key, sha256, compiled)) else None


def write_cache(path: Path, sha256: str, compiled: bytes | memoryview) -> bool:
    """Keep ``compiled`` for the file with that SHA-256, in one step; False if it cannot be written."""
    try:
        replace_file(path, b"".join((_mark(_key(), sha256, compiled), compiled)))
    except OSError:  # what cannot be kept is compiled each time
        return False
    return True


def prune(folder: Path, most: int = _MOST) -> None:
    """Delete the files of ``folder`` that were read or written longest ago, until ``most`` bytes are left."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process deletes them, too
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    size = sum(bytes_ for _, bytes_, _ in found)
    for _, bytes_, path in sorted(found):
        if size <= most:
            return
        path.unlink(missing_ok=True)
        size -= bytes_


def _mark(key: bytes, sha256: str, compiled: bytes | memoryview) -> bytes:
    digest = hmac.new(key, sha256.encode(), hashlib.sha256)
    digest.update(compiled)
    return digest.digest()


def _key_path() -> Path:
    return cache_folder() / "runtime-cache.key"


def _key() -> bytes:
    path = _key_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Only the first of several processes may make the key; it is whole once it has its name.
    if not path.exists():
        partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            write_flushed(partial, secrets.token_bytes(_SIZE), mode=0o600)
            with contextlib.suppress(FileExistsError):
                os.link(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return read_bounded(path, _SIZE)
