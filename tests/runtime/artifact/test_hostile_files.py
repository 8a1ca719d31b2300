"""In the place of an artifact's file, anything: a typed error, at once, before memory is taken for it."""

import os
import time
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutants import reseal
from refusals import refuses

from repr_runtime import errors, load, preflight, preprocess
from repr_runtime.artifact import bounds, npz, reading

NAMES = ("manifest.json", "model.onnx", "golden.npz", "engines/a.engine")
TIMES = int(os.environ.get("REPR_HOSTILE_FILES", "1"))
posix = pytest.mark.skipif(os.name != "posix", reason="pipes and links are POSIX's")


def linked_out(file: Path) -> None:
    outside = file.parents[2] / f"outside-{file.name}"
    outside.write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(outside)


def sparse(file: Path) -> None:
    os.truncate(file, 2**40)


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        file.unlink()
        make(file)

    return damage


def shorter(file: Path) -> None:
    os.truncate(file, np.random.default_rng().integers(file.stat().st_size))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": shorter,
    "empty": lambda file: os.truncate(file, 0),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "noise": lambda file: file.write_bytes(os.urandom(file.stat().st_size)),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "sparse": sparse,
    "pipe": instead(os.mkfifo),
    "folder": instead(os.mkdir),
    "gone": instead(lambda _: None),
    "device": instead(lambda file: file.symlink_to("/dev/zero")),
    "link out of it": linked_out,
    "link to itself": instead(lambda file: file.symlink_to(file.name)),
    "link to nothing": instead(lambda file: file.symlink_to("nothing")),
}


@posix
def test_a_file_that_is_no_file(tiny: Any, tmp_path: Path) -> None:
    more = {"engines/a.engine": (b"engine" * 100, "engine")}
    for turn in range(TIMES):
        for what, damage in DAMAGES.items():
            for name in NAMES:
                path = tiny.write(tmp_path / f"{turn}-{what}-{name[:3]}", more=more)
                damage(path / name)
                started = time.monotonic()
                checks = preflight(path, device="cpu", verify=True)
                assert not checks[-1].passed, (what, name)
                if name in NAMES[:2]:
                    with pytest.raises(errors.ArtifactError):
                        load(path, device="cpu")
                assert time.monotonic() - started < 30, (what, name)


@posix
def test_a_file_that_is_replaced_after_its_check(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a pipe, a link or other bytes, after its name was looked at, or once it is open."""
    opened = os.open
    target = artifact / "model.onnx"
    good = target.read_bytes()

    def then(act: Callable[[], object]) -> None:
        def opening(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            if str(path).endswith("model.onnx") and flags & os.O_NONBLOCK:
                act()
            return opened(path, flags, *rest, **named)

        monkeypatch.setattr(os, "open", opening)

    for make in (os.mkfifo, lambda file: file.symlink_to("/dev/zero")):
        then(lambda make=make: (target.unlink(), make(target)))
        with pytest.raises(errors.MissingFileError):
            load(artifact, device="cpu")
        monkeypatch.setattr(os, "open", opened)
        target.unlink()
        target.write_bytes(good)
    read = reading._read

    def grown(*given: Any) -> bytes:
        target.write_bytes(bytes(len(good) * 2))  # the same file, under our hands
        return read(*given)

    monkeypatch.setattr(reading, "_read", grown)
    with pytest.raises(errors.ArtifactError):
        load(artifact, device="cpu")


@posix
def test_links_within_it_and_to_it_and_hard_links_are_files_like_others(
    tiny: Any, artifact: Path, tmp_path: Path
) -> None:
    """As Kubernetes mounts a folder, `cp -l` copies it, and stores keep what is the same once."""
    data = artifact / "..2026"
    data.mkdir()
    for name in ("manifest.json", "model.onnx", "golden.npz"):
        (artifact / name).rename(data / name)
        (artifact / name).symlink_to(Path("..data") / name)
    (artifact / "..data").symlink_to("..2026")
    current, copy = tmp_path / "current", tmp_path / "copy"
    current.symlink_to(artifact)
    copy.mkdir()
    for name in ("manifest.json", "model.onnx", "golden.npz"):
        os.link(data / name, copy / name)
    for path in (artifact, current, copy):
        assert all(check.passed for check in preflight(path, device="cpu", verify=True))
    tiny.write(copy, seed=1)  # a new export writes through no link
    assert all(check.passed for check in preflight(artifact, device="cpu", verify=True))
    with (data / "model.onnx").open("r+b") as stream:
        stream.write(b"changed")
    os.link(data / "model.onnx", copy / "linked")
    (copy / "model.onnx").unlink()
    (copy / "linked").rename(copy / "model.onnx")
    with refuses(errors.AlteredFileError, "model.onnx"):
        load(copy, device="cpu")


def test_words_that_quote_what_is_long_are_shortened(tmp_path: Path) -> None:
    for name in ("x" * 100_000, "a/" * 50_000, "\x1b[2J" * 10_000, "\0", "\ud800"):
        with pytest.raises(errors.ReproError) as caught:
            load(tmp_path / name)
        words = str(caught.value)
        assert len(words) < 6000
        assert words.isprintable()


def golden_of(arrays: Mapping[str, Any]) -> bytes:
    stream = BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def test_what_golden_samples_must_be_is_known_before_they_are_unpacked(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tiny.golden()
    x, y = good["input.input"], good["output.logits"]
    count = 50_000
    bomb = {
        "input.input": np.zeros((count, 3, 4, 4), "f4"),
        "output.logits": np.zeros((count, 5), "f4"),
    }
    monkeypatch.setattr(bounds, "GOLDEN_FREE", 2**20)
    monkeypatch.setattr(npz, "_read", pytest.fail)
    cases: tuple[tuple[Mapping[str, Any], str, Any], ...] = (
        ({**good, "zz": np.zeros(10)}, "it holds", 3),
        ({"input.input": x}, "it holds", 3),
        ({**good, "input.input": x.astype("f8")}, "is float64", 3),
        ({**good, "input.input": x.astype("f2")}, "is float16", 3),
        ({**good, "input.input": x.view("i4")}, "is int32", 3),
        ({**good, "input.input": x[:2]}, "expected float32[3, 3, 4, 4]", 3),
        ({**good, "output.logits": y[:, :0]}, "float32[3, 0]", 3),
        ({**good, "output.logits": y[:, 0]}, "float32[3]", 3),
        (good, "expected float32[4, 3, 4, 4]", 4),
        *((good, "samples", wrong) for wrong in (0, -1, True, 3.0, "3", None)),
        (bomb, "it unpacks to", count),
    )
    for arrays, part, samples in cases:
        receipts = {"golden": {"samples": samples, "tolerance": {"logits": 1e-4}}}
        path = tiny.write(tmp_path / "a", golden=golden_of(arrays), receipts=receipts)
        with load(path, device="cpu") as session, refuses(errors.ArtifactError, part):
            session.self_test()


def test_a_golden_file_whose_own_sizes_lie(tiny: Any, tmp_path: Path) -> None:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in tiny.golden().items():
            member = BytesIO()
            np.save(member, array)
            archive.writestr(f"{name}.npy", member.getvalue() + bytes(100))
    longer = stream.getvalue()
    shorter = golden_of(tiny.golden())
    head = shorter.index(b"PK\1\2")  # the sizes in the directory at the end
    lying = shorter[: head + 24] + (2**31).to_bytes(4, "little") + shorter[head + 28 :]
    later = longer.replace(b"NUMPY\1\0", b"NUMPY\2\0")
    for content in (longer, later):
        path = tiny.write(tmp_path / "a", golden=content)
        with load(path, device="cpu") as session, pytest.raises(errors.ArtifactError):
            session.self_test()
    path = tiny.write(tmp_path / "a", golden=lying)  # nobody asks that
    with load(path, device="cpu") as session:
        assert session.self_test().samples == 3


def test_images_that_there_is_no_memory_for_are_refused_before_the_work(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.broadcast_to(np.zeros((4, 4, 3), np.uint8), (1000, 4, 4, 3))
    with load(artifact, device="cpu") as session:
        assert len(session.classify(images)) == 1000
        monkeypatch.setattr(preprocess, "MOST_BYTES", 999 * 3 * 4 * 4 * 4)
        monkeypatch.setattr(preprocess, "resize_and_crop", pytest.fail)
        with refuses(errors.ImageError, "more than 999 images", "in parts"):
            session.classify(images)


@pytest.mark.parametrize(
    ("place", "value", "part"),
    [
        ("crop", [12_000, 12_000], "more pixels than 33,554,432"),
        ("crop", [1, 2**17], "1 to 65,536 pixels"),
        ("resize", 2**17, "1 to 65,536 pixels"),
        ("std", [1, 1, 1e-300], "std must be 1e-09 to"),
        ("mean", [0, 0, 1e300], "mean must be within"),
    ],
)
def test_preprocessing_that_no_network_has(
    artifact: Path, place: str, value: object, part: str
) -> None:
    reseal(artifact, lambda data: data["preprocessing"].update({place: value}))
    with refuses(errors.ManifestError, part):
        load(artifact, device="cpu")
