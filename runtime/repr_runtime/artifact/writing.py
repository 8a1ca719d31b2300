"""Writing an artifact: beside its place, flushed, then exchanged in one step."""

import contextlib
import ctypes
import errno
import glob
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from repr_runtime.artifact.manifest import MANIFEST_NAME, Manifest
from repr_runtime.artifact.parsing import parse_manifest
from repr_runtime.artifact.reading import CACHE_SUFFIX, read_consistently, read_manifest, sha256_of
from repr_runtime.errors import ArtifactNotFoundError, ManifestError, OccupiedError
from repr_runtime.files import flush_folder, write_flushed

_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES)  # a rename onto something says one of them
_RUN = secrets.token_hex(4)  # tells this process from a dead one that had its number


def write_artifact(
    folder: str | os.PathLike[str],
    manifest: Manifest,
    contents: Mapping[str, bytes],
    *,
    check: Callable[[Path], object] = lambda _: None,
) -> Manifest:
    """Write ``contents`` (path within the artifact to bytes) and the manifest to ``folder``.

    The whole artifact is made in a hidden folder beside ``folder``, flushed, and put in
    place by one rename, which swaps it with an artifact that was there before. A process
    that is killed at any moment leaves the old artifact or the new one, whole; where the
    system cannot swap two folders in one step (Windows, some network drives) there may be
    none. Two writers at once leave one of the two, whole.

    ``contents`` must be the files that ``manifest`` lists. ``check`` gets the hidden folder once
    all is in it; what it raises leaves everything as it was. Returns the manifest.
    Raises :class:`OccupiedError` if ``folder`` holds anything but an artifact's own files,
    and ``OSError`` if the system cannot write; what was there before stays then.
    """
    root = Path(os.path.abspath(folder))
    listed = {entry.path: entry for entry in manifest.files}
    if set(listed) != set(contents):
        raise ValueError(
            f"the manifest lists {sorted(listed)}, the contents are {sorted(contents)}"
        )
    for path, content in contents.items():
        expected = replace(listed[path], bytes=len(content), sha256=sha256_of(content))
        if listed[path] != expected:
            raise ValueError(f"the manifest's entry for {path} is not of this content")
    parse_manifest(manifest.to_bytes())  # what is written can be read
    sealed = {**contents, MANIFEST_NAME: manifest.to_bytes()}
    write_folder(root, sealed, free=lambda: check_free(root), check=check)
    return manifest


def write_folder(
    root: Path,
    contents: Mapping[str, bytes],
    *,
    free: Callable[[], object],
    check: Callable[[Path], object] = lambda _: None,
    beside: Path | None = None,
) -> None:
    """Write ``contents`` (path within it to bytes) to the folder ``root``, as a whole or not at all.

    It is made in a hidden folder of ``beside`` (default: where ``root`` is), which must be on the
    same file system. ``free`` raises unless ``root`` may be replaced, ``check`` as for
    :func:`write_artifact`. Raises what they raise, and ``OSError``.
    """
    free()
    root.parent.mkdir(parents=True, exist_ok=True)
    beside = beside or root.parent
    _remove_abandoned(root, beside)
    partial = beside / f"{_partial_prefix(root)}{os.getpid()}.{_RUN}.{secrets.token_hex(8)}"
    partial.mkdir()
    try:
        for path, content in contents.items():
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            write_flushed(partial / path, content)
        for below in (partial, *(entry for entry in partial.rglob("*") if entry.is_dir())):
            flush_folder(below)
        check(partial)
        free()  # writing took a while; what came there since is not ours to remove
        _put_in_place(partial, root)
        flush_folder(root.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(folder: str | os.PathLike[str]) -> None:
    """Raise :class:`OccupiedError` unless ``folder`` may be written: absent, empty or an artifact."""
    read_consistently(folder, lambda: _check_free(Path(folder)))


def _check_free(root: Path) -> None:
    way_out = "choose another place with -o, or move it away"
    if not root.exists() and not root.is_symlink():
        return
    if not root.is_dir() or root.is_symlink():
        raise OccupiedError(f"{root} is there and is not a folder of files; {way_out}")
    found = {p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_dir()}
    if not found:
        return
    try:
        files = read_manifest(root).files
        own = {MANIFEST_NAME, *(entry.path for entry in files)}
        own |= {entry.path + CACHE_SUFFIX for entry in files if entry.role == "engine"}
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


def _put_in_place(partial: Path, root: Path) -> None:
    """Rename ``partial`` to ``root``; what was there takes the name ``partial``."""
    for _ in range(100):  # another writer may come in between any two steps
        try:
            os.rename(partial, root)  # works where there is nothing, or an empty folder
            return
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        if _exchange(partial, root):
            return
        # No atomic exchange on this system: for a moment there is no artifact at all.
        aside = partial.with_name(partial.name + ".old")
        try:
            os.rename(root, aside)
        except FileNotFoundError:
            continue
        try:
            os.rename(partial, root)
            return
        except OSError as error:
            with contextlib.suppress(OSError):  # another writer may have filled the place
                os.rename(aside, root)
            if error.errno not in _TAKEN:
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
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


def _partial_prefix(root: Path) -> str:
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())
    return f".{root.name}.partial.{host}."


def _remove_abandoned(root: Path, beside: Path) -> None:
    """Remove what killed writers of ``root`` on this machine left in the folder ``beside``."""
    if os.name != "posix":  # os.kill(pid, 0) ends the process on Windows
        return
    for path in beside.glob(glob.escape(_partial_prefix(root)) + "*"):
        pid, run = (path.name.removeprefix(_partial_prefix(root)) + ".").split(".")[:2]
        if pid.isdecimal() and not _lives(int(pid), run):
            shutil.rmtree(path, ignore_errors=True)


def _lives(pid: int, run: str) -> bool:
    if pid == os.getpid():
        return run == _RUN
    try:
        with contextlib.suppress(PermissionError):  # another user's
            os.kill(pid, 0)  # asks whether the process lives, sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    return True
