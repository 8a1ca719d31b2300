"""Published checkpoints: from their address into a cache, whole and checked, or not at all.

A transfer grows a hidden partial file beside its place; the file is renamed into place when its
SHA-256 fits. A broken transfer goes on where it stopped if the server says (``If-Range``) that
it still has the same file, else from the start. Neither its size nor its time is without an end.
One process at a time fetches a file; others wait for it, and find it there.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from repr_models.errors import WeightsError
from repr_models.files import CACHE_VARIABLE, cache_folder

if TYPE_CHECKING:
    from hashlib import _Hash

    from repr_models.spec import Published

LARGEST = 8 * 2**30
"""Bytes of a checkpoint at most; the largest published one has 0.6 GB."""
SLOWEST = 1 << 10
"""Bytes a second that a server brings at least, on the whole of ``timeout``, or it is asked anew."""

Progress = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes there so far, and all bytes (None: not known)."""

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # in a row that bring less than _HEADWAY
FIRST_PAUSE = 1.0  # seconds; doubled for each attempt that fails
_BLOCK = 1 << 18
_HEADWAY = 1 << 20
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
_RETRIED_STATUS = (408, 425, 429, 500, 502, 503, 504)


class _NetworkError(Exception):
    """The transfer failed.

    ``lasting`` if another attempt soon would fail too, ``part`` if what is there of the file
    cannot be continued.
    """

    def __init__(self, reason: str, *, lasting: bool = False, part: bool = False) -> None:
        super().__init__(reason)
        self.lasting = lasting
        self.part = part


def cached_path(published: Published) -> Path:
    """Where the checkpoint lies in the cache, or would lie.

    The name is that in the address, led by the digest's first digits unless it holds them:
    many addresses end in ``model.safetensors``. Raises :class:`WeightsError` if there is no place
    for a cache.
    """
    name = urllib.parse.unquote(urllib.parse.urlsplit(published.url).path.rpartition("/")[2])
    name = re.sub(r"[^\w.+-]", "_", name).lstrip(".") or "checkpoint"
    start = published.sha256[:8]
    try:
        folder = cache_folder()
    except RuntimeError as error:
        raise WeightsError(
            f"there is no home for a cache; set {CACHE_VARIABLE} to a folder"
        ) from error
    return folder / "weights" / (name if start in name else f"{start}-{name}")


def fetch(
    published: Published,
    progress: Progress | None = None,
    *,
    timeout: float = TIMEOUT,
    pause: float = FIRST_PAUSE,
) -> Path:
    """The checkpoint's file in the cache, downloaded if it is not there; its digest was checked.

    Of a publisher who states only the first digits of it, the digest of the file that came first
    is kept beside it, and no other will do from then on. ``timeout`` is in seconds without a byte, or
    with hardly any; ``pause`` in seconds before the second attempt.
    Raises :class:`WeightsError` if it cannot be fetched or stored, or is another file.
    """
    tell = progress or (lambda _name, _done, _total: None)
    path = cached_path(published)
    if _fits(path, published.sha256):
        _require_first(path, published)
        return path
    with _disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(path.with_name(f".{path.name}.lock"), lambda: tell(path.name, 0, None))
        with lock as alone:
            if _fits(path, published.sha256):  # by now: another process fetched it
                _require_first(path, published)
                return path
            own = "" if alone else f".{os.getpid()}"
            partial = path.with_name(f".{path.name}{own}.partial")
            _Transfer(published, path, partial, tell, timeout).run(pause)
            _require_first(path, published)
            return path


@contextmanager
def _locked(path: Path, waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock ``path`` between processes; False where the file system knows no locks.

    Calls ``waiting`` once if another process has it, and waits as long as that lives.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, fallback_to_soft=False)
    held = True
    try:
        lock.acquire(blocking=False)
    except Timeout:
        waiting()
        lock.acquire(poll_interval=0.1)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        held = False
    try:
        yield held
    finally:
        lock.release()


def _fits(path: Path, sha256: str) -> bool:
    return path.is_file() and _digest(path).hexdigest().startswith(sha256)


def _require_first(path: Path, published: Published) -> None:
    """Whether the cached file is the one that came first, where its publisher says only some digits."""
    if len(published.sha256) == 64:
        return
    note, digest = path.with_name(f"{path.name}.sha256"), _digest(path).hexdigest()
    try:
        first = note.read_text("ascii", "replace").split()
    except FileNotFoundError:
        with suppress(OSError):  # a cache that others fill may be read alone
            note.write_text(f"{digest}  {path.name}\n", "ascii")  # as sha256sum --check takes it
        return
    if first[:1] != [digest]:
        raise WeightsError(
            f"{path} is another file than the one that came first (SHA-256 {digest}; {note.name} says "
            f"{' '.join(first[:1])!r:.70}), though both begin with {published.sha256}, which is all that its "
            f"publisher states; ask them, and remove both files or give the right one with --weights FILE"
        )


def _digest(path: Path) -> _Hash:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256")
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Say of a failure of the disk what can be done about it."""
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"the cache {path.parent} cannot be written: {error.strerror or error}; set "
            f"{CACHE_VARIABLE} to another folder, or give the checkpoint with --weights FILE"
        ) from error


@dataclass
class _Transfer:
    """One file on its way from ``published.url`` to ``path``, by way of ``partial``."""

    published: Published
    path: Path
    partial: Path
    tell: Progress
    timeout: float

    def run(self, pause: float) -> None:
        """Fetch, check and rename. Raises :class:`WeightsError` and ``OSError`` of the disk."""
        failures = best = 0
        restarted = False
        while True:
            begun = self._size()
            try:
                digest = self._attempt()
            except _NetworkError as error:
                if error.part:
                    self._discard()
                reached = self._size()
                failures = 1 if reached >= best + _HEADWAY else failures + 1
                best = max(best, reached)
                if error.lasting or failures >= ATTEMPTS:
                    raise self._unreachable(str(error)) from error
                time.sleep(pause * 2 ** (failures - 1))
                continue
            if digest.startswith(self.published.sha256):
                self._note_path.unlink(missing_ok=True)
                os.replace(self.partial, self.path)
                return
            self._discard()
            if restarted or not begun:
                rest = "" if len(self.published.sha256) == 64 else "…"
                raise WeightsError(
                    f"{self.published.url} is another file than expected (SHA-256 {digest}, "
                    f"expected {self.published.sha256}{rest}), and was thrown away; "
                    f"give the right one with --weights FILE"
                )
            restarted = True  # what was there before may have been damaged: once more, from nothing

    def _attempt(self) -> str:
        """One request, its bytes appended or written anew; returns the digest of the whole."""
        validator = self._validator()
        if validator is None:
            self._discard()
        begin = self._size()
        digest = _digest(self.partial) if begin else hashlib.sha256()
        if begin and digest.hexdigest().startswith(self.published.sha256):
            return digest.hexdigest()  # whole already: only the renaming was missing
        headers = {"User-Agent": "repr-deploy", "Accept-Encoding": "identity"}
        if begin and validator is not None:
            headers |= {"Range": f"bytes={begin}-", "If-Range": validator}
        with _network():
            request = urllib.request.Request(self.published.url, headers=headers)
            response = _OPENER.open(request, timeout=self.timeout)
        with response:
            if response.status != 206:
                begin, digest = 0, hashlib.sha256()
                self._discard()
                self._note(response.headers)
            elif not re.match(rf"bytes {begin}-", response.headers.get("Content-Range") or ""):
                raise _NetworkError("the server sent another part than was asked for", part=True)
            length = response.headers.get("Content-Length")
            total = begin + int(length) if length and re.fullmatch("[0-9]{1,18}", length) else None
            self._require_bounded(total or 0)
            with self.partial.open("ab", buffering=0) as stream:
                done = self._receive(response, stream, digest, begin, total)
            if total is not None and done < total:
                raise _NetworkError(f"the connection ended after {done:,} of {total:,} bytes")
            return digest.hexdigest()

    def _receive(
        self,
        response: http.client.HTTPResponse,
        stream: BinaryIO,
        digest: _Hash,
        done: int,
        total: int | None,
    ) -> int:
        self.tell(self.path.name, done, total)
        since, before = time.monotonic(), done
        while True:
            with _network():
                block = response.read1(_BLOCK)
            if not block:
                break
            self._require_bounded(done + len(block))
            if (passed := time.monotonic() - since) > self.timeout:
                if done - before < passed * SLOWEST:
                    raise _NetworkError(
                        f"hardly anything came, {done - before:,} bytes in {passed:.0f} s"
                    )
                since, before = time.monotonic(), done
            try:
                rest = memoryview(block)
                while rest:
                    rest = rest[stream.write(rest) :]
            except OSError:
                self._discard()  # a full disk is not left full
                raise
            digest.update(block)
            done += len(block)
            self.tell(self.path.name, done, total)
        os.fsync(stream.fileno())
        return done

    def _require_bounded(self, size: int) -> None:
        if size > LARGEST:
            self._discard()
            raise _NetworkError(
                f"it has more than {LARGEST:,} bytes, which no checkpoint has", lasting=True
            )

    @property
    def _note_path(self) -> Path:
        return self.partial.with_suffix(".json")

    def _note(self, headers: http.client.HTTPMessage) -> None:
        """Keep what tells this version of the file from others, for ``If-Range``."""
        etag = headers.get("ETag", "")
        validator = etag if etag.startswith('"') else headers.get("Last-Modified")  # W/ is weak
        if validator:
            note = {"url": self.published.url, "validator": validator}
            self._note_path.write_text(json.dumps(note), "utf-8")

    def _validator(self) -> str | None:
        try:
            note = json.loads(self._note_path.read_text("utf-8"))
            return str(note["validator"]) if note["url"] == self.published.url else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def _size(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _discard(self) -> None:
        self.partial.unlink(missing_ok=True)
        self._note_path.unlink(missing_ok=True)

    def _unreachable(self, reason: str) -> WeightsError:
        there = " (the file there now is another one)" if self.path.is_file() else ""
        return WeightsError(
            f"{self.published.url} cannot be fetched: {reason}; fetch it by other means and put "
            f"it at {self.path}{there} or give it with --weights FILE, or take --weights random "
            f"for latency alone"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """To HTTP alone, and never from an encrypted connection to one that is not."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme != "https" and (scheme != "http" or req.type == "https"):
            raise _NetworkError(f"it leads to {newurl!r:.100}, which is not followed", lasting=True)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_Redirects)


@contextmanager
def _network() -> Iterator[None]:
    """Every way a connection fails, as :class:`_NetworkError`: none of them is the disk's."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        part = error.code == 416  # the range does not lie within the file
        lasting = not part and error.code not in _RETRIED_STATUS
        said = f"HTTP {error.code} {error.reason}"
        raise _NetworkError(said, lasting=lasting, part=part) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        lasting = isinstance(
            cause, socket.gaierror | ConnectionRefusedError | ssl.SSLCertVerificationError
        )
        said = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        if isinstance(cause, TimeoutError):
            said = "no answer in time"
        raise _NetworkError(" ".join(said.split()), lasting=lasting) from error
