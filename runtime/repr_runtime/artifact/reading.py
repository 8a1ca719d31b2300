"""An artifact on disk: opened with every hash checked, and written all at once or not at all."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, TypeVar

from repr_runtime import errors
from repr_runtime.artifact import bounds
from repr_runtime.artifact.manifest import MANIFEST_NAME, FileEntry, Manifest
from repr_runtime.artifact.parsing import parse_manifest
from repr_runtime.options import require_path

CACHE_SUFFIX = ".runtime-cache"  # beside an engine: what the runtime compiled for this GPU
_PIECE = 2**20  # bytes that are read, and then hashed while the cache still holds them
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
        with open_file(root, MANIFEST_NAME) as (stream, size):
            if size > bounds.MANIFEST_BYTES:
                raise errors.ManifestError(
                    f"{path} has {size:,} bytes, a manifest has {bounds.MANIFEST_BYTES:,} at most; "
                    f"export the artifact again"
                )
            content = _read(stream, size)
    except errors.MissingFileError as error:
        raise errors.ManifestError(str(error)) from error
    except FileNotFoundError as error:
        what = f"it holds no {MANIFEST_NAME}" if root.is_dir() else "there is no such folder"
        raise errors.ArtifactNotFoundError(
            f"{root} is not an artifact: {what}; make one with repr-export"
        ) from error
    except NotADirectoryError as error:
        raise errors.ArtifactNotFoundError(
            f"{root} is not an artifact: it is not a folder; give the folder that repr-export wrote"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise errors.ArtifactNotFoundError(
            f"{path} cannot be read ({reason}); give this user the right to read it"
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
    except (OSError, ValueError):  # ValueError: a name that no folder can have
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


@contextmanager
def open_file(root: Path, name: str) -> Iterator[tuple[FileIO, int]]:
    """The file ``name`` of the folder ``root``, unread, and its size: opened once, so it stays this one.

    Symbolic links may lead from file to file within the folder, which may be one itself. Those that
    lead out of it are refused: what they show is not the artifact's, and a stranger's artifact
    could ask for any file. Hard links are files like others: stores and layers of containers are made
    of them, the bytes that are used are the bytes that were hashed, and nothing here writes into
    a file that is there. Raises :class:`MissingFileError` for a link out of it and for what is no
    file, ``OSError``, and ``ValueError`` for a name that no file can have.
    """
    os.stat(root)  # which is quick to say that a name is too long
    home = os.path.realpath(root)
    real = os.path.realpath(os.path.join(home, name))
    if os.path.commonpath((home, real)) != home:
        raise errors.MissingFileError(
            f"{root / name} is a link to {real}, out of the artifact; copy the artifact with its "
            f"files in place of links: cp -RL"
        )
    not_a_file = errors.MissingFileError(f"{root / name} is not a file; {_AGAIN}")
    try:
        stream = open(real, "rb", buffering=0, opener=_open_once)  # noqa: SIM115  below
    except IsADirectoryError as error:
        raise not_a_file from error
    with stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device would be read without end
            raise not_a_file
        yield stream, status.st_size


def _open_once(path: str, flags: int) -> int:
    """Neither a link that came there since nor, at a pipe, a wait for its writer. Windows has neither."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _read(stream: FileIO, size: int, digest: Any = None) -> bytes:
    """Up to ``size`` bytes of ``stream``, in memory once, hashed on the way."""
    kept, done = BytesIO(), 0
    if size:
        kept.seek(size - 1)
        kept.write(b"\0")
        with kept.getbuffer() as buffer:
            while count := stream.readinto(buffer[done : done + _PIECE]):
                if digest is not None:
                    digest.update(buffer[done : done + count])
                done += count
        kept.truncate(done)
    return kept.getvalue()


@contextmanager
def _listed(folder: str | os.PathLike[str], entry: FileEntry) -> Iterator[FileIO]:
    """A file of the artifact, unread, which is as long as the manifest says."""
    path = Path(folder) / entry.path
    try:
        with open_file(Path(folder), entry.path) as (stream, size):
            _compare_size(path, size, entry)
            yield stream
    except (FileNotFoundError, NotADirectoryError) as error:
        raise errors.MissingFileError(
            f"{path} is listed in {MANIFEST_NAME} but is not there; {_AGAIN}"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise errors.MissingFileError(f"{path} cannot be read ({reason}); {_AGAIN}") from error


def check_size(folder: str | os.PathLike[str], entry: FileEntry) -> None:
    """Whether a file of the artifact is there and as long as the manifest says.

    Raises :class:`MissingFileError`, :class:`TruncatedFileError` or
    :class:`AlteredFileError`.
    """
    with _listed(folder, entry):
        pass


def read_file(folder: str | os.PathLike[str], entry: FileEntry) -> bytes:
    """The content of a file of the artifact, which is the one that the manifest lists.

    The bytes returned are the bytes that were hashed: nothing can change in between.
    Raises what :func:`check_size` does, and :class:`ArtifactError` where there is no memory for it.
    """
    path, digest = Path(folder) / entry.path, hashlib.sha256()
    with _listed(folder, entry) as stream:
        try:
            content = _read(stream, entry.bytes, digest)
        except MemoryError as error:
            raise errors.ArtifactError(
                f"there is no memory for the {entry.bytes:,} bytes of {path}; free some"
            ) from error
    _compare_size(path, len(content), entry)
    if digest.hexdigest() != entry.sha256:
        raise errors.AlteredFileError(
            f"{path} was altered: its SHA-256 is {digest.hexdigest()}, expected {entry.sha256}; "
            f"{_AGAIN}"
        )
    return content


def _compare_size(path: Path, size: int, entry: FileEntry) -> None:
    if size != entry.bytes:
        kind = errors.TruncatedFileError if size < entry.bytes else errors.AlteredFileError
        raise kind(f"{path} has {size:,} bytes, expected {entry.bytes:,}; {_AGAIN}")


def describe_file(
    path: str, content: bytes, role: str, precision: str | None = None, target: str = "any"
) -> FileEntry:
    """The manifest's entry for a file of this content."""
    return FileEntry(path, role, precision, len(content), sha256_of(content), target)


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
