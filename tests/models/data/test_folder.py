"""Folders of images: how classes are found, what is drawn, and every kind of file decoded or refused."""

import os
import re
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repr_models.data.folder import (
    ClassNames,
    ImageFolder,
    decode_image,
    draw_evenly,
    imagenet_wnids,
    labelled_folder,
    unlabelled_folder,
)
from repr_models.errors import DataError
from repr_models.spec import IMAGENET

PETS = ClassNames(3, ("tabby cat", "dog", "crane bird"), ("n01", "n02", "n03"))


def write(path: Path, colour: tuple[int, int, int] = (10, 20, 30), size: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(path)
    return path


def by_class(root: Path, names: list[str], each: int = 2) -> Path:
    for at, name in enumerate(names):
        for number in range(each):
            write(root / name / f"{number}.png", (at, number, 0))
    return root


def decoded(folder: ImageFolder, size: int = 3) -> tuple[list[int], list[tuple[int, ...]]]:
    indices, corners = list[int](), list[tuple[int, ...]]()
    for batch in folder.batches(size):
        indices += batch.indices.tolist()
        corners += [tuple(image[0, 0].tolist()) for image in batch.images]
    return indices, corners


class TestClasses:
    """Folders and lists that name the classes."""

    @pytest.mark.parametrize(
        "names",
        [
            ["n03", "n01", "n02"],
            ["crane_bird", "Tabby cat", "DOG"],
            ["2", "0", "1"],
            ["002", "000", "001"],
        ],
    )
    def test_go_by_id_label_or_index(self, tmp_path: Path, names: list[str]) -> None:
        found = labelled_folder(by_class(tmp_path, names), PETS)
        assert found.labels is not None
        wanted = {names[0]: 2, names[1]: 0, names[2]: 1}
        assert [wanted[file.split("/")[0]] for file in found.files] == found.labels.tolist()
        assert len(found) == 6
        assert found.description == f"6 images under {tmp_path.name}"

    def test_may_be_missing_and_that_is_said(self, tmp_path: Path) -> None:
        found = labelled_folder(by_class(tmp_path, ["dog"]), PETS)
        assert found.labels is not None
        assert found.labels.tolist() == [1, 1]
        assert found.description.endswith(", 1 of 3 classes")

    def test_images_lie_below_their_folder_at_any_depth(self, tmp_path: Path) -> None:
        write(tmp_path / "n02" / "images" / "deep" / "a.JPEG")
        (tmp_path / "n02" / "boxes.txt").write_text("no image")
        (tmp_path / "n02" / ".hidden.png").write_text("no image")
        assert labelled_folder(tmp_path, PETS).files == ("n02/images/deep/a.JPEG",)

    @pytest.mark.parametrize(
        ("names", "words"),
        [
            (["n01", "n02", "fish"], "1 of its 3 folders.*'fish'.*others are WordNet ids"),
            (["train", "val"], "give .+/val$"),  # a whole data set
            (["0", "3"], "'3'"),  # beyond the last index
        ],
    )
    def test_that_are_none_are_named(self, tmp_path: Path, names: list[str], words: str) -> None:
        with pytest.raises(DataError, match=words):
            labelled_folder(by_class(tmp_path, names), PETS)

    @pytest.mark.parametrize("name", ["val.txt", "labels.txt"])
    @pytest.mark.parametrize("classes", [("1", "0"), ("n02", "n01"), ("dog", "tabby cat")])
    def test_stand_in_a_list(self, tmp_path: Path, name: str, classes: tuple[str, str]) -> None:
        write(tmp_path / "b.png")
        write(tmp_path / "sub" / "a.png")
        (tmp_path / name).write_text(
            f"\ufeff# comment\n\nsub/a.png {classes[1]}\nb.png {classes[0]}\n", "utf-8"
        )
        found = labelled_folder(tmp_path, PETS)
        assert found.labels is not None
        assert (found.files, found.labels.tolist()) == (("b.png", "sub/a.png"), [1, 0])

    def test_a_tab_parts_names_with_spaces(self, tmp_path: Path) -> None:
        write(tmp_path / "my dog.png")
        (tmp_path / "val.txt").write_text("my dog.png\tdog\n")
        assert labelled_folder(tmp_path, PETS).files == ("my dog.png",)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (b"a.png 0\nb.png 0\n", r"line 2: there is no file 'b\.png'"),
            (b"a.png\n", r"line 1: 'a\.png' is not FILE CLASS"),
            (b"a.png 7\n", "line 1: '7' is no class"),
            (b"../a.png 0\n", "there is no file"),
            (b"a.png 0\na.png 1\n", r"lists 'a\.png' twice"),
            (b"# nothing\n", "lists no images"),
            (b"\xff\xfe\xfa", "cannot be read as text"),
        ],
    )
    def test_wrong_lines_are_named(self, tmp_path: Path, text: bytes, words: str) -> None:
        write(tmp_path / "a.png")
        (tmp_path / "val.txt").write_bytes(text)
        with pytest.raises(DataError, match=words) as caught:
            labelled_folder(tmp_path, PETS)
        assert str(tmp_path / "val.txt") in str(caught.value)

    def test_neither_folders_nor_list(self, tmp_path: Path) -> None:
        write(tmp_path / "a.png")
        with pytest.raises(DataError, match=r"a folder for each class, or a list val\.txt"):
            labelled_folder(tmp_path, PETS)
        with pytest.raises(DataError, match="no such folder"):
            labelled_folder(tmp_path / "nowhere", PETS)


class TestImageNet:
    """The table of WordNet ids, against what WordNet calls them."""

    def test_ids_are_sorted_and_fit_the_labels(self) -> None:
        ids = imagenet_wnids()
        assert (len(set(ids)), list(ids)) == (1000, sorted(ids))
        assert all(re.fullmatch(r"n\d{8}", name) for name in ids)
        named = {
            "n01440764": "tench",
            "n02012849": "crane bird",
            "n03126707": "crane",
            "n03710637": "maillot",
            "n03710721": "maillot tank suit",
            "n15075141": "toilet tissue",
        }
        assert {wnid: IMAGENET.labels[ids.index(wnid)] for wnid in named} == named


class TestWalk:
    """Unlabelled images, links and what cannot be listed."""

    def test_takes_images_alone_by_name(self, tmp_path: Path) -> None:
        for name in ("b/2.jpg", "a.PNG", "b/1.webp"):
            write(tmp_path / name)
        (tmp_path / "notes.txt").write_text("no image")
        found = unlabelled_folder(tmp_path)
        assert found.files == ("a.PNG", "b/1.webp", "b/2.jpg")
        assert found.labels is None

    def test_links_in_a_circle_end(self, tmp_path: Path) -> None:
        write(tmp_path / "a" / "x.png")
        (tmp_path / "a" / "back").symlink_to(tmp_path)
        (tmp_path / "self").symlink_to(tmp_path / "self")
        assert unlabelled_folder(tmp_path).files == ("a/x.png",)

    def test_a_link_to_elsewhere_is_followed(self, tmp_path: Path) -> None:
        write(tmp_path / "store" / "x.png")
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "n01").symlink_to(tmp_path / "store")
        assert labelled_folder(tmp_path / "set", PETS).files == ("n01/x.png",)

    def test_no_images_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("no image")
        with pytest.raises(DataError, match="holds no images"):
            unlabelled_folder(tmp_path)


class TestDraw:
    """A part of the images."""

    def test_is_even_by_class(self) -> None:
        labels = np.repeat([0, 1, 2], [50, 20, 4])
        chosen = draw_evenly(labels, 74, 30)
        assert Counter(labels[chosen].tolist()) == {0: 13, 1: 13, 2: 4}
        assert chosen.tolist() == sorted(set(chosen.tolist()))
        assert draw_evenly(labels, 74, 30).tolist() == chosen.tolist()

    def test_is_random_within_a_class(self) -> None:
        assert draw_evenly(np.zeros(1000, np.int64), 1000, 3).max() > 10

    @pytest.mark.parametrize("limit", [None, 5, 6])
    def test_of_all_is_all(self, limit: int | None) -> None:
        assert draw_evenly(None, 5, limit).tolist() == [0, 1, 2, 3, 4]

    def test_is_said(self, tmp_path: Path) -> None:
        found = labelled_folder(by_class(tmp_path, ["0", "1", "2"], each=4), PETS, limit=6)
        assert found.labels is not None
        assert Counter(found.labels.tolist()) == {0: 2, 1: 2, 2: 2}
        assert "drawn evenly by class of 12 (seed 0)" in found.description


class TestBatches:
    """Decoding, a batch at a time."""

    def test_damaged_files_are_left_out_and_said(self, tmp_path: Path) -> None:
        for number in range(6):
            write(tmp_path / f"{number}.png", (number, 0, 0))
        (tmp_path / "1.png").write_bytes(b"no image at all")
        whole = (tmp_path / "4.png").read_bytes()
        (tmp_path / "4.png").write_bytes(whole[: len(whole) // 2])
        found = unlabelled_folder(tmp_path)
        assert decoded(found) == ([0, 2, 3, 5], [(n, 0, 0) for n in (0, 2, 3, 5)])
        batches = list(found.batches(3))
        assert [len(batch.images) for batch in batches] == [3, 1]
        damaged = [text for batch in batches for text in batch.damaged]
        assert len(damaged) == 2
        assert (
            damaged[0] == f"{tmp_path / '1.png'}: not readable as an image (no known image format)"
        )
        assert damaged[1].startswith(f"{tmp_path / '4.png'}: not readable as an image (")

    def test_damage_at_the_end_is_said_too(self, tmp_path: Path) -> None:
        write(tmp_path / "0.png")
        (tmp_path / "1.png").write_bytes(b"")
        batches = list(unlabelled_folder(tmp_path).batches(1))
        assert [(len(b.images), len(b.damaged)) for b in batches] == [(1, 0), (0, 1)]

    def test_all_damaged_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "0.png").write_bytes(b"x")
        with pytest.raises(DataError, match=r"none of the 1 images.*0\.png"):
            list(unlabelled_folder(tmp_path).batches(8))

    def test_a_pipe_or_a_dead_link_is_left_out(self, tmp_path: Path) -> None:
        write(tmp_path / "0.png")
        os.mkfifo(tmp_path / "1.png")
        (tmp_path / "2.png").symlink_to(tmp_path / "gone.png")
        found = unlabelled_folder(tmp_path)
        reasons = [text for batch in found.batches(8) for text in batch.damaged]
        assert ["not a regular file" in reasons[0], "cannot be read" in reasons[1]] == [True, True]
        assert len(found.sha256) == 64

    def test_digest_is_of_names_classes_and_content(self, tmp_path: Path) -> None:
        by_class(tmp_path, ["0", "1"])
        one = labelled_folder(tmp_path, PETS)
        assert one.sha256 == labelled_folder(tmp_path, PETS).sha256
        swapped = ClassNames(2, ("1", "0"))
        assert one.sha256 != labelled_folder(tmp_path, swapped).sha256
        before = one.sha256
        write(tmp_path / "0" / "0.png", (99, 0, 0))
        assert labelled_folder(tmp_path, PETS).sha256 != before


def png16(path: Path, colour_type: int, samples: list[int]) -> Path:
    """A PNG of one row of 16-bit samples, written by hand."""
    channels = {0: 1, 2: 3}[colour_type]
    width = len(samples) // channels

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, 1, 16, colour_type, 0, 0, 0)
    rows = b"\0" + struct.pack(f">{len(samples)}H", *samples)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


class TestPixels:
    """Every kind of picture as uint8 RGB."""

    @pytest.mark.parametrize(
        ("mode", "colour", "name", "expected"),
        [
            ("L", 77, "a.png", (77, 77, 77)),
            ("1", 1, "a.png", (255, 255, 255)),
            ("LA", (77, 3), "a.png", (77, 77, 77)),
            ("RGBA", (1, 2, 3, 0), "a.png", (1, 2, 3)),
            ("RGB", (1, 2, 3), "a.bmp", (1, 2, 3)),
            ("CMYK", (0, 0, 0, 255), "a.jpg", (0, 0, 0)),
            ("CMYK", (0, 255, 255, 0), "a.tif", (255, 0, 0)),
        ],
    )
    def test_of_any_mode(
        self,
        tmp_path: Path,
        mode: str,
        colour: int | tuple[int, ...],
        name: str,
        expected: tuple[int, int, int],
    ) -> None:
        Image.new(mode, (9, 8), colour).save(tmp_path / name)
        pixels = decode_image(tmp_path / name)
        assert (pixels.shape, pixels.dtype) == ((8, 9, 3), np.uint8)
        np.testing.assert_allclose(pixels[4, 4], expected, atol=2)

    def test_palette(self, tmp_path: Path) -> None:
        image = Image.new("RGB", (8, 8), (200, 100, 50)).quantize(4)
        image.save(tmp_path / "a.png", transparency=0)
        assert decode_image(tmp_path / "a.png")[0, 0].tolist() == [200, 100, 50]

    def test_16_bits_keep_the_upper_8(self, tmp_path: Path) -> None:
        grey = decode_image(png16(tmp_path / "g.png", 0, [0x0000, 0x80FF, 0xFFFF]))
        assert grey[0].tolist() == [[0] * 3, [0x80] * 3, [0xFF] * 3]
        colour = decode_image(png16(tmp_path / "c.png", 2, [0x1234, 0x80FF, 0xFFFF]))
        assert colour[0].tolist() == [[0x12, 0x80, 0xFF]]

    def test_turned_upright(self, tmp_path: Path) -> None:
        image = Image.new("RGB", (8, 4))
        image.putpixel((0, 0), (255, 0, 0))
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise
        image.save(tmp_path / "a.png", exif=exif)
        pixels = decode_image(tmp_path / "a.png")
        assert pixels.shape == (8, 4, 3)
        assert pixels[0, 3].tolist() == [255, 0, 0]

    @pytest.mark.parametrize(
        ("pixels", "words"),
        [
            (np.zeros((2, 2), np.float32), "floating-point"),
            (np.full((2, 2), 70_000, np.int32), "more than 16 bits"),
        ],
    )
    def test_that_have_no_range_are_refused(
        self, tmp_path: Path, pixels: np.ndarray, words: str
    ) -> None:
        Image.fromarray(pixels).save(tmp_path / "a.tif")
        with pytest.raises(DataError, match=rf"a\.tif: .*{words}"):
            decode_image(tmp_path / "a.tif")

    def test_a_bomb_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with pytest.raises(DataError, match="not readable as an image"):
            decode_image(write(tmp_path / "a.png", size=11))
