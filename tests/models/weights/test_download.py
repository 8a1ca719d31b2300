"""Published checkpoints: fetched whole, resumed, refused and shared, from a server on the loopback."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_server import Behaviour, serving

from repr_models import Published, WeightsError
from repr_models.files import cache_folder
from repr_models.weights import download
from repr_models.weights.download import cached_path, fetch

CONTENT = np.random.Generator(np.random.PCG64(7)).bytes(300_000)
OTHER = np.random.Generator(np.random.PCG64(8)).bytes(300_000)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no proxy between the test and its server."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("REPR_CACHE", str(folder))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return folder


@pytest.fixture
def server() -> Iterator[Behaviour]:
    with serving(Behaviour(CONTENT)) as behaviour:
        yield behaviour


def published(url: str, content: bytes = CONTENT, digits: int = 64) -> Published:
    return Published("test", url, hashlib.sha256(content).hexdigest()[:digits], 0.5)


def get(server: Behaviour, content: bytes = CONTENT, timeout: float = 10.0) -> Path:
    return fetch(published(server.url, content), timeout=timeout, pause=0.01)


def whole_files(cache: Path) -> list[str]:
    """Everything in the cache but the locks and the digests."""
    kinds = (".lock", ".sha256")
    return sorted(p.name for p in (cache / "weights").iterdir() if p.suffix not in kinds)


def asked(server: Behaviour) -> list[tuple[int, str | None, int]]:
    return [(request.status, request.range, request.sent) for request in server.requests]


# --- whole transfers ------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [8, 10, 64])
def test_a_file_is_fetched_once_and_then_taken_from_the_cache(
    digits: int, server: Behaviour, cache: Path
) -> None:
    told: list[tuple[str, int, int | None]] = []
    wanted = published(server.url, digits=digits)
    path = fetch(wanted, lambda *said: told.append(said))
    assert path == cached_path(wanted)
    assert path.read_bytes() == CONTENT
    assert whole_files(cache) == [path.name]
    assert path.name == f"{wanted.sha256[:8]}-net-v1.pth"
    assert told[0] == (path.name, 0, len(CONTENT))
    assert told[-1] == (path.name, len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)

    assert fetch(wanted, lambda *said: told.append(said)) == path
    assert asked(server) == [(200, None, len(CONTENT))]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://a.org/x/model.safetensors?download=true#top", "aaaaaaaa-model.safetensors"),
        ("https://a.org/x/..%2F..%2F.bashrc", "aaaaaaaa-_.._.bashrc"),
        ("https://a.org/x/a%00b%5Cc.pth", "aaaaaaaa-a_b_c.pth"),
        ("https://a.org/m/resnet50-aaaaaaaa.pth", "resnet50-aaaaaaaa.pth"),  # holds the digest
    ],
)
def test_an_address_names_a_file_within_the_cache(url: str, name: str, cache: Path) -> None:
    found = cached_path(Published("t", url, "a" * 64, 0.7))
    assert found == cache / "weights" / name


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    assert cache_folder() == cache
    monkeypatch.delenv("REPR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "repr-deploy"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder() == tmp_path / ".cache" / "repr-deploy"

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(WeightsError, match="set REPR_CACHE to a folder"):
        cached_path(published("https://a.org/x"))


def test_a_redirect_is_followed(server: Behaviour) -> None:
    server.redirects = {"/files/net-v1.pth": "/elsewhere/blob"}
    assert get(server).read_bytes() == CONTENT
    assert [request.path for request in server.requests] == ["/files/net-v1.pth", "/elsewhere/blob"]


def test_a_server_that_says_no_length(server: Behaviour) -> None:
    server.says_length = False
    told: list[int | None] = []
    fetch(published(server.url), lambda _name, _done, total: told.append(total))
    assert set(told) == {None}


# --- broken transfers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("etag", "modified"),
    [('"one"', None), (None, "Sat, 01 Aug 2026 00:00:00 GMT")],
)
def test_a_broken_transfer_goes_on_where_it_stopped(
    etag: str | None, modified: str | None, server: Behaviour, cache: Path
) -> None:
    server.etag, server.last_modified = etag, modified
    server.breaks = [100_000, 50_000]
    assert get(server).read_bytes() == CONTENT
    assert asked(server) == [
        (200, None, 100_000),
        (206, "bytes=100000-", 50_000),
        (206, "bytes=150000-", 150_000),
    ]
    assert [request.if_range for request in server.requests[1:]] == [etag or modified] * 2
    assert len(whole_files(cache)) == 1


def test_another_call_goes_on_where_the_last_one_gave_up(server: Behaviour) -> None:
    server.breaks = [100_000, 0, 0, 0, 0]
    with pytest.raises(WeightsError, match="the connection ended after 100,000 of 300,000 bytes"):
        get(server)
    assert len(server.requests) == download.ATTEMPTS
    assert get(server).read_bytes() == CONTENT
    assert asked(server)[-1] == (206, "bytes=100000-", 200_000)


@pytest.mark.parametrize(
    "change", [{"ranges": False}, {"etag": None}, {"etag": 'W/"weak"'}], ids=str
)
def test_what_cannot_be_resumed_is_fetched_anew(
    change: dict[str, Any], server: Behaviour, cache: Path
) -> None:
    for name, value in change.items():
        setattr(server, name, value)
    server.breaks = [100_000]
    assert get(server).read_bytes() == CONTENT
    assert [(status, sent) for status, _, sent in asked(server)] == [(200, 100_000), (200, 300_000)]
    assert (server.requests[1].range is None) == ("etag" in change)
    assert len(whole_files(cache)) == 1


@pytest.mark.parametrize("honest", [True, False])
def test_a_file_that_changed_on_the_server_is_not_mixed(honest: bool, server: Behaviour) -> None:
    """A server that ignores ``If-Range`` is found out by the digest."""
    server.content, server.breaks = OTHER, [100_000, 0, 0, 0, 0]
    with pytest.raises(WeightsError, match="cannot be fetched"):
        get(server)
    server.content, server.checks_if_range = CONTENT, honest
    server.etag = '"two"'
    assert get(server).read_bytes() == CONTENT
    answers = [(200, 300_000)] if honest else [(206, 200_000), (200, 300_000)]
    assert [(status, sent) for status, _, sent in asked(server)[5:]] == answers


def test_a_part_longer_than_the_file_is_thrown_away(server: Behaviour, cache: Path) -> None:
    server.breaks = [100_000, 0, 0, 0, 0]
    with pytest.raises(WeightsError):
        get(server)
    (partial,) = (cache / "weights").glob(".*.partial")
    partial.write_bytes(bytes(400_000))
    assert get(server).read_bytes() == CONTENT
    assert [status for status, _, _ in asked(server)[5:]] == [416, 200]


def test_a_whole_part_is_only_renamed(server: Behaviour, cache: Path) -> None:
    """Killed between the last byte and the renaming."""
    path = get(server)
    path.rename(path.with_name(f".{path.name}.partial"))
    note = {"url": server.url, "validator": '"one"'}
    path.with_name(f".{path.name}.json").write_text(json.dumps(note))
    assert get(server).read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert whole_files(cache) == [path.name]


def test_a_server_that_stalls_is_left_and_asked_again_but_not_for_ever(server: Behaviour) -> None:
    server.stalls = [0] * download.ATTEMPTS + [65_536]
    with pytest.raises(WeightsError, match="cannot be fetched: no answer in time; fetch it by"):
        get(server, timeout=0.1)
    assert get(server, timeout=0.3).read_bytes() == CONTENT
    assert asked(server)[-1] == (206, "bytes=65536-", 300_000 - 65_536)


def test_a_busy_server_is_asked_again(server: Behaviour) -> None:
    server.statuses = [503, 429]
    assert get(server).read_bytes() == CONTENT
    assert [request.status for request in server.requests] == [503, 429, 200]


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_not_asked_again_and_says_the_ways_out(
    status: int, server: Behaviour, cache: Path
) -> None:
    server.statuses = [status]
    with pytest.raises(WeightsError) as caught:
        get(server)
    assert len(server.requests) == 1
    message = str(caught.value)
    assert message.startswith(f"{server.url} cannot be fetched: HTTP {status} ")
    assert f"put it at {cached_path(published(server.url))} or" in message
    assert "--weights FILE" in message
    assert "--weights random" in message
    assert "\n" not in message
    assert whole_files(cache) == []


def test_without_a_network_the_message_comes_at_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("a second attempt"))
    with serving(Behaviour(CONTENT)) as gone:
        pass
    with pytest.raises(WeightsError, match="cannot be fetched: Connection refused; fetch it by"):
        fetch(published(gone.url))
    (cache / "weights").mkdir(exist_ok=True)
    path = cached_path(published(gone.url))
    path.write_bytes(CONTENT)  # as the message told
    assert fetch(published(gone.url)) == path


def test_a_name_that_is_not_resolved_is_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("a second attempt"))
    with pytest.raises(WeightsError, match=r"nowhere\.invalid/net\.pth cannot be fetched: .+; f"):
        fetch(published("http://nowhere.invalid/net.pth"), timeout=5)


@pytest.mark.parametrize("digits", [8, 64])
def test_another_file_is_an_error_that_states_both_digests(
    digits: int, server: Behaviour, cache: Path
) -> None:
    server.content = OTHER
    wanted = published(server.url, digits=digits)
    with pytest.raises(WeightsError, match="is another file than expected") as caught:
        fetch(wanted)
    assert f"SHA-256 {hashlib.sha256(OTHER).hexdigest()}, " in str(caught.value)
    assert f"expected {wanted.sha256}{'' if digits == 64 else '…'})" in str(caught.value)
    assert len(server.requests) == 1
    assert whole_files(cache) == []


def test_another_file_that_always_breaks_ends(server: Behaviour, cache: Path) -> None:
    server.content = OTHER
    server.breaks = [100_000, 300_000, 100_000, 300_000]
    with pytest.raises(WeightsError, match="another file than expected"):
        get(server)
    assert len(server.requests) == 4
    assert whole_files(cache) == []


def test_a_damaged_cached_file_is_fetched_again(server: Behaviour) -> None:
    path = get(server)
    damaged = bytearray(CONTENT)
    damaged[150_000] ^= 1
    for content in (bytes(damaged), CONTENT[:-1], b""):
        path.write_bytes(content)
        assert get(server).read_bytes() == CONTENT
    assert len(server.requests) == 4


def test_a_damaged_cached_file_is_not_used_without_a_network() -> None:
    with serving(Behaviour(CONTENT)) as gone:
        path = get(gone)
    path.write_bytes(OTHER)
    with pytest.raises(WeightsError, match="the file there now is another one"):
        get(gone)
    assert path.read_bytes() == OTHER  # the user may have put it there


# --- disks ----------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_made(
    server: Behaviour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("REPR_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"file/weights cannot be written: Not a directory; set"):
        get(server)
    assert server.requests == []


CHILD = """
import sys
from repr_models import Published, WeightsError
from repr_models.weights.download import fetch
if len(sys.argv) > 3:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    print(fetch(Published("test", sys.argv[1], sys.argv[2], 0.5), pause=0.01))
except WeightsError as error:
    sys.exit(str(error))
"""


def child(url: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, url, published(url).sha256, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX's")
def test_a_disk_that_takes_no_more_is_said_and_left_free(server: Behaviour, cache: Path) -> None:
    with child(server.url, "100000") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert f"the cache {cache / 'weights'} cannot be written: File too large; set REPR_CACHE" in err
    assert "Traceback" not in err
    assert whole_files(cache) == []


# --- several processes ----------------------------------------------------------------------


def test_two_processes_at_once_fetch_one_file(server: Behaviour, cache: Path) -> None:
    server.block_seconds = 0.05  # about a second for the whole
    children = [child(server.url) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in children]
    assert [process.returncode for process in children] == [0, 0], said
    path = cached_path(published(server.url))
    assert {out.strip() for out, _ in said} == {str(path)}
    assert path.read_bytes() == CONTENT
    assert whole_files(cache) == [path.name]
    assert asked(server) == [(200, None, len(CONTENT))]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_processes_without_locks_do_not_spoil_each_other(
    code: int, server: Behaviour, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network file system that knows none: each fetches for itself."""
    fcntl = pytest.importorskip("fcntl")

    def unknown(_descriptor: int, _how: int) -> None:
        raise OSError(code, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unknown)
    path = cached_path(published(server.url))
    path.parent.mkdir(parents=True)
    theirs = path.with_name(f".{path.name}.partial")
    theirs.write_bytes(b"another process writes here")
    assert get(server).read_bytes() == CONTENT
    assert theirs.read_bytes() == b"another process writes here"
    assert len(whole_files(cache)) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9 there")
def test_a_killed_process_leaves_no_lock_and_its_bytes(server: Behaviour, cache: Path) -> None:
    server.stalls = [98_304]
    process = child(server.url)
    partial = cache / "weights" / f".{cached_path(published(server.url)).name}.partial"
    deadline = time.monotonic() + 30
    while not (partial.exists() and partial.stat().st_size == 98_304):
        assert time.monotonic() < deadline, "the child fetches nothing"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert get(server).read_bytes() == CONTENT
    assert asked(server)[1] == (206, "bytes=98304-", len(CONTENT) - 98_304)
    assert len(whole_files(cache)) == 1
