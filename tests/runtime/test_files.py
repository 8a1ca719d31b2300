"""A file is replaced whole, or what was there stays; the cache folder by its three variables."""

import os
import stat
from pathlib import Path

import pytest

from repr_runtime import files
from repr_runtime.files import cache_folder, read_bounded, replace_file, write_flushed


def test_a_file_is_replaced_whole_or_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    for content in (b"old", b"new"):
        replace_file(path, content)
        assert path.read_bytes() == content
    with pytest.raises(FileExistsError):
        write_flushed(path, b"other")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"other")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_secret_is_never_readable_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []

    def seen(source: Path, target: Path) -> None:
        modes.append(stat.S_IMODE(Path(source).stat().st_mode))
        Path(source).rename(target)

    monkeypatch.setattr(files.os, "replace", seen)
    replace_file(tmp_path / "key", b"secret", mode=0o600)
    assert modes == [0o600]


def test_the_cache_is_where_the_variables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("REPR_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(OSError, match="set REPR_CACHE to a folder"):
        cache_folder()
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert cache_folder() == tmp_path / "home" / ".cache" / "repr-deploy"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert cache_folder() == tmp_path / "shared" / "repr-deploy"
    monkeypatch.setenv("REPR_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX's")
def test_a_file_is_read_within_its_bound_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path, pipe = tmp_path / "f", tmp_path / "pipe"
    path.write_bytes(b"12345")
    os.mkfifo(pipe)
    assert read_bounded(path, 5) == b"12345"
    for wrong, most, words in ((path, 4, "5 bytes, more than 4"), (pipe, 9, "is not a file")):
        with pytest.raises(OSError, match=words):
            read_bounded(wrong, most)
