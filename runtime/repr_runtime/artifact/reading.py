"""An artifact on disk: opened with every hash checked, and written all at once or not at all."""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from repr_runtime import errors
from repr_runtime.artifact.manifest import MANIFEST_NAME, FileEntry, Manifest
from repr_runtime.artifact.parsing import parse_manifest
from repr_runtime.options import require_path

CACHE_SUFFIX = ".runtime-cache"  # beside an engine: what the runtime compiled for this GPU
_MANIFEST_LIMIT = 64 * 2**20
_REPLACED_LIMIT = 20  # times an artifact may be replaced while it is being read
_AGAIN = "copy the artifact again, or export it again"

T = TypeVar("T")


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest of the artifact in ``folder``; the other files are not looked at.

    Raises :class:`ArtifactNotFoundError`, :class:`ManifestError`,
    :class:`SchemaVersionError`, or :class:`OptionError` for what can be no path.
    """
    require_path(folder=folder)
    root = Path(folder)
    path = root / MANIFEST_NAME
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device would be read without end
            raise errors.ManifestError(f"{path} is not a file; export the artifact again")
        if status.st_size > _MANIFEST_LIMIT:
            raise errors.ManifestError(
                f"{path} has {status.st_size:,} bytes, no manifest has; export the artifact again"
            )
        content = path.read_bytes()
    except FileNotFoundError as error:
        what = f"it holds no {MANIFEST_NAME}" if root.is_dir() else "there is no such folder"
        raise errors.ArtifactNotFoundError(
            f"{root} is not an artifact: {what}; make one with repr-export"
        ) from error
    except NotADirectoryError as error:
        raise errors.ArtifactNotFoundError(
            f"{root} is not an artifact: it is not a folder; give the folder that repr-export wrote"
        ) from error
    except OSError as error:
        raise errors.ArtifactNotFoundError(
            f"{path} cannot be read ({error.strerror or error}); give this user the right to read it"
        ) from error
    return parse_manifest(content, str(path))


def read_consistently(folder: str | os.PathLike[str], read: Callable[[], T]) -> T:
    """What ``read`` makes of the artifact in ``folder``, all of it from one and the same export.

    An export may replace the folder between two files that ``read`` reads; what it raises
    then says nothing of either artifact, and it is called again.
    """
    for _ in range(_REPLACED_LIMIT):
        before = identity(Path(folder))
        try:
            return read()
        except (errors.ArtifactError, OSError):
            if identity(Path(folder)) == before:
                raise
    return read()


def identity(folder: Path) -> tuple[int, ...] | None:
    """Differs for each folder that stood at this path; None while there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def check_size(folder: str | os.PathLike[str], entry: FileEntry) -> None:
    """Whether a file of the artifact is there and as long as the manifest says.

    Raises :class:`MissingFileError`, :class:`TruncatedFileError` or
    :class:`AlteredFileError`.
    """
    path = Path(folder) / entry.path
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise errors.MissingFileError(
            f"{path} is listed in {MANIFEST_NAME} but is not there; {_AGAIN}"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise errors.MissingFileError(
            f"{path} is listed in {MANIFEST_NAME} but is not a file; {_AGAIN}"
        )
    _compare_size(path, status.st_size, entry)


def read_file(folder: str | os.PathLike[str], entry: FileEntry) -> bytes:
    """The content of a file of the artifact, which is the one that the manifest lists.

    The bytes returned are the bytes that were hashed: nothing can change in between.
    Raises what :func:`check_size` does.
    """
    check_size(folder, entry)
    path = Path(folder) / entry.path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    _compare_size(path, len(content), entry)
    digest = sha256_of(content)
    if digest != entry.sha256:
        raise errors.AlteredFileError(
            f"{path} was altered: its SHA-256 is {digest}, expected {entry.sha256}; {_AGAIN}"
        )
    return content


def _compare_size(path: Path, size: int, entry: FileEntry) -> None:
    if size != entry.bytes:
        kind = errors.TruncatedFileError if size < entry.bytes else errors.AlteredFileError
        raise kind(f"{path} has {size:,} bytes, expected {entry.bytes:,}; {_AGAIN}")


def _unreadable(path: Path, error: Exception) -> errors.MissingFileError:
    return errors.MissingFileError(f"{path} cannot be read ({error}); {_AGAIN}")


def describe_file(
    path: str, content: bytes, role: str, precision: str | None = None, target: str = "any"
) -> FileEntry:
    """The manifest's entry for a file of this content."""
    return FileEntry(path, role, precision, len(content), sha256_of(content), target)


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
