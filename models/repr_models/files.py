"""Files that appear whole or not at all, and the folder of what can be fetched again."""

import os
import secrets
from pathlib import Path

CACHE_VARIABLE = "REPR_CACHE"


def cache_folder() -> Path:
    """``$REPR_CACHE``, else ``$XDG_CACHE_HOME/repr-deploy``, else ``~/.cache/repr-deploy``.

    Raises ``RuntimeError`` where there is neither of these nor a home.
    """
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "repr-deploy"


def replace_file(path: Path, content: bytes) -> None:
    """Write beside ``path``, flush, then rename: whatever breaks leaves the old file whole."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with beside.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
