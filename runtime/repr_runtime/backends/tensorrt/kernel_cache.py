"""The kernels that TensorRT-RTX compiled for this GPU, kept beside the engine between runs.

They are code that the library will run, and no manifest covers them. So a cache is read
only if this user wrote it for this very engine: the file opens with a keyed hash (HMAC) of
the engine's SHA-256 and the content, under a key that stays in the user's own folder. A
cache that came with an artifact from elsewhere is as good as none.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from repr_runtime.artifact.reading import CACHE_SUFFIX
from repr_runtime.files import cache_folder, read_bounded, replace_file, write_flushed

_SIZE = hashlib.sha256().digest_size
_MOST = 2**30  # bytes; those of large networks have some tens of millions


def read_cache(engine: Path, engine_sha256: str) -> bytes | None:
    """The cache of the engine file, or None: absent, damaged, another engine's or another user's."""
    try:
        content = read_bounded(_path(engine), _MOST)
        key = read_bounded(_key_path(), _SIZE)
    except OSError:
        return None
    mark, kernels = content[:_SIZE], content[_SIZE:]
    return kernels if hmac.compare_digest(mark, _mark(key, engine_sha256, kernels)) else None


def write_cache(engine: Path, engine_sha256: str, kernels: bytes) -> bool:
    """Keep ``kernels`` for the engine, in one step; False where nothing can be written."""
    try:
        replace_file(_path(engine), _mark(_key(), engine_sha256, kernels) + kernels)
    except OSError:  # a read-only artifact runs as well, its kernels are compiled each time
        return False
    return True


def _path(engine: Path) -> Path:
    return engine.with_name(engine.name + CACHE_SUFFIX)


def _mark(key: bytes, engine_sha256: str, kernels: bytes) -> bytes:
    return hmac.new(key, engine_sha256.encode() + kernels, hashlib.sha256).digest()


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
