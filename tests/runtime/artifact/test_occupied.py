"""Where an artifact may be written: never over anything that is not an artifact's own."""

import os
from pathlib import Path
from typing import Any

import pytest
from refusals import refuses

from repr_runtime import load, read_manifest
from repr_runtime.artifact import writing as artifact_module
from repr_runtime.artifact.writing import check_free, write_artifact
from repr_runtime.errors import OccupiedError


@pytest.mark.parametrize("name", ["thesis.txt", "below/notes.md", "other.onnx"])
def test_foreign_files_are_never_touched(tiny: Any, artifact: Path, name: str) -> None:
    foreign = artifact / name
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("years of work")
    with refuses(OccupiedError, str(artifact), name, "choose another place with -o"):
        tiny.write(artifact, seed=1)
    assert foreign.read_text() == "years of work"
    assert read_manifest(artifact).weights.location == "seed 0"
    assert len(os.listdir(artifact.parent)) == 1


def test_a_foreign_file_that_comes_while_writing(
    tiny: Any, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = artifact_module.write_flushed

    def write_and_disturb(path: Path, content: bytes) -> None:
        write(path, content)
        (artifact / "thesis.txt").write_text("years of work")

    monkeypatch.setattr(artifact_module, "write_flushed", write_and_disturb)
    with pytest.raises(OccupiedError, match=r"thesis\.txt"):
        tiny.write(artifact, seed=1)
    assert (artifact / "thesis.txt").read_text() == "years of work"
    assert os.listdir(artifact.parent) == ["tiny"]


def test_occupied_places(tiny: Any, tmp_path: Path) -> None:
    folder, file, link = tmp_path / "folder", tmp_path / "file", tmp_path / "link"
    folder.mkdir()
    (folder / "x").touch()
    file.write_text("x")
    tiny.write(tmp_path / "real")
    link.symlink_to(tmp_path / "real")
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    for place, what in (
        (folder, "holds 1 files and is not an artifact"),
        (file, "is not a folder of files"),
        (link, "is not a folder of files"),
        (dangling, "is not a folder of files"),
    ):
        for act in (tiny.write, check_free):
            with pytest.raises(OccupiedError, match=what):
                act(place)
    assert link.is_symlink()
    assert file.read_text() == "x"


def test_free_places(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "empty" / "below").mkdir(parents=True)
    damaged = tiny.write(tmp_path / "damaged")
    (damaged / "manifest.json").write_bytes(b"{")
    for place in (tmp_path / "a" / "b" / "net", tmp_path / "empty", damaged):
        check_free(place)
        tiny.write(place, seed=2)
        assert read_manifest(place) == tiny.parts(seed=2)[0]
        load(place, device="cpu").close()


def test_a_manifest_of_other_contents_is_refused(tiny: Any, tmp_path: Path) -> None:
    manifest, files = tiny.parts()
    with pytest.raises(ValueError, match="the contents are"):
        write_artifact(tmp_path / "a", manifest, {"model.onnx": files["model.onnx"]})
    with pytest.raises(ValueError, match="npz is not of this content"):
        write_artifact(tmp_path / "a", manifest, {**files, "golden.npz": b""})
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_an_artifact_has_the_permissions_that_the_user_gives(tiny: Any, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = tiny.write(tmp_path / "a")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o750
    assert (path / "model.onnx").stat().st_mode & 0o777 == 0o640
