"""An artifact on disk: opened with every hash checked, and written all at once or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from repr_runtime.errors import (
    AlteredFileError,
    ArtifactNotFoundError,
    ManifestError,
    MissingFileError,
    OccupiedError,
    TruncatedFileError,
)
from repr_runtime.manifest import MANIFEST_NAME, FileEntry, Manifest, parse_manifest

_MANIFEST_LIMIT = 64 * 2**20


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest of the artifact in ``folder``; the other files are not looked at.

    Raises :class:`ArtifactNotFoundError`, :class:`ManifestError` or
    :class:`SchemaVersionError`.
    """
    root = Path(folder)
    path = root / MANIFEST_NAME
    try:
        size = path.stat().st_size
        if size > _MANIFEST_LIMIT:
            raise ManifestError(
                f"{path} has {size:,} bytes, no manifest has; export the artifact again"
            )
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "there is no such folder" if not root.exists() else f"it holds no {MANIFEST_NAME}"
        raise ArtifactNotFoundError(
            f"{root} is not an artifact: {what}; make one with repr-export"
        ) from error
    except OSError as error:
        raise ArtifactNotFoundError(f"{path} cannot be read: {error.strerror or error}") from error
    return parse_manifest(content)


def read_file(folder: str | os.PathLike[str], entry: FileEntry) -> bytes:
    """The content of a file of the artifact, which is the one that the manifest lists.

    The bytes returned are the bytes that were hashed: nothing can change in between.
    Raises :class:`MissingFileError`, :class:`TruncatedFileError` or
    :class:`AlteredFileError`.
    """
    path = Path(folder) / entry.path
    again = "copy the artifact again, or export it again"
    if not path.is_file():
        raise MissingFileError(f"{path} is listed in {MANIFEST_NAME} but is not there; {again}")
    try:
        size = path.stat().st_size
        if size == entry.bytes:
            content = path.read_bytes()
            size = len(content)
    except OSError as error:
        raise MissingFileError(
            f"{path} cannot be read: {error.strerror or error}; {again}"
        ) from error
    if size < entry.bytes:
        raise TruncatedFileError(f"{path} has {size:,} bytes, expected {entry.bytes:,}; {again}")
    if size > entry.bytes:
        raise AlteredFileError(f"{path} has {size:,} bytes, expected {entry.bytes:,}; {again}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry.sha256:
        raise AlteredFileError(
            f"{path} was altered: its SHA-256 is {digest}, expected {entry.sha256}; {again}"
        )
    return content


def describe_file(path: str, content: bytes, role: str, precision: str | None = None) -> FileEntry:
    """The manifest's entry for a file of this content."""
    return FileEntry(path, role, precision, len(content), hashlib.sha256(content).hexdigest())


def write_artifact(
    folder: str | os.PathLike[str], manifest: Manifest, contents: Mapping[str, bytes]
) -> Manifest:
    """Write ``contents`` (path within the artifact to bytes) and the manifest to ``folder``.

    The whole artifact is made in a hidden folder beside ``folder``, flushed, and put in
    place by one rename, which swaps it with an artifact that was there before. A process
    that is killed at any moment leaves the old artifact or the new one, whole. Two writers
    at once leave one of the two, whole.

    ``contents`` must be the files that ``manifest`` lists. Returns the manifest.
    Raises :class:`OccupiedError` if ``folder`` holds anything but an artifact's own files.
    """
    root = Path(os.path.abspath(folder))
    listed = {entry.path: entry for entry in manifest.files}
    if set(listed) != set(contents):
        raise ValueError(
            f"the manifest lists {sorted(listed)}, the contents are {sorted(contents)}"
        )
    for path, content in contents.items():
        expected = replace(listed[path], bytes=len(content), sha256=_digest(content))
        if listed[path] != expected:
            raise ValueError(f"the manifest's entry for {path} is not of this content")
    parse_manifest(manifest.to_bytes())  # what is written can be read
    check_free(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(root)
    partial = Path(tempfile.mkdtemp(prefix=_partial_prefix(root, os.getpid()), dir=root.parent))
    try:
        for path, content in contents.items():
            _write_flushed(partial / path, content)
        _write_flushed(partial / MANIFEST_NAME, manifest.to_bytes())
        partial.chmod(0o755)  # mkdtemp's folder is private, an artifact is not
        _flush_folder(partial)
        _put_in_place(partial, root)
        _flush_folder(root.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def check_free(folder: str | os.PathLike[str]) -> None:
    """Raise :class:`OccupiedError` unless ``folder`` may be written: absent, empty or an artifact."""
    root = Path(folder)
    way_out = "choose another place with -o, or move it away"
    if not root.exists() and not root.is_symlink():
        return
    if not root.is_dir() or root.is_symlink():
        raise OccupiedError(f"{root} is there and is not a folder of files; {way_out}")
    found = {p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_dir()}
    if not found:
        return
    try:
        own = {MANIFEST_NAME, *(entry.path for entry in read_manifest(root).files)}
    except ArtifactNotFoundError as error:
        raise OccupiedError(
            f"{root} holds {len(found)} files and is not an artifact; {way_out}"
        ) from error
    except ManifestError:
        own = {MANIFEST_NAME, *(p for p in found if p.endswith((".onnx", "golden.npz")))}
    foreign = sorted(found - own)
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise OccupiedError(
            f"{root} holds files that are not the artifact's: {', '.join(foreign[:3])}{more}; {way_out}"
        )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_flushed(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _flush_folder(path: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _put_in_place(partial: Path, root: Path) -> None:
    """Rename ``partial`` to ``root``; what was there takes the name ``partial``."""
    for _ in range(100):  # another writer may come in between any two steps
        try:
            os.rename(partial, root)  # works where there is nothing, or an empty folder
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES):
                raise
        if _exchange(partial, root):
            return
        # No atomic exchange on this system: for a moment there is no artifact at all.
        aside = partial.with_name(partial.name + ".old")
        with contextlib.suppress(FileNotFoundError):
            os.rename(root, aside)
        try:
            os.rename(partial, root)
        except OSError:
            if not root.exists():
                os.rename(aside, root)
            continue
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return
    raise OccupiedError(f"{root} is being written by others without end; try again")


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders in one step, where the system can (Linux: renameat2, macOS: renamex_np)."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        source, target = os.fsencode(a), os.fsencode(b)
        if sys.platform == "linux":
            at_cwd, exchange = -100, 2
            result = libc.renameat2(at_cwd, source, at_cwd, target, exchange)
        elif sys.platform == "darwin":
            swap = 2
            result = libc.renamex_np(source, target, swap)
        else:
            return False
    except (AttributeError, OSError, TypeError):
        return False
    return bool(result == 0)


def _partial_prefix(root: Path, pid: int) -> str:
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())
    return f".{root.name}.partial.{host}.{pid}."


def _remove_abandoned(root: Path) -> None:
    """Remove what killed writers of this machine left beside ``root``."""
    for path, pid in _partials(root):
        try:
            os.kill(pid, 0)  # asks whether the process lives, sends nothing
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue


def _partials(root: Path) -> Iterator[tuple[Path, int]]:
    prefix = _partial_prefix(root, 0).removesuffix("0.")
    if os.name != "posix":  # os.kill(pid, 0) ends the process on Windows
        return
    for path in root.parent.glob(f"{_escape(prefix)}*"):
        pid = path.name.removeprefix(prefix).split(".")[0]
        if pid.isdigit():
            yield path, int(pid)


def _escape(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)
