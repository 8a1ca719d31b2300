"""Pictures in, labels out; what is no picture, broken or a bomb is the client's mistake."""

import io
import threading
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import ask, picture_file, pixels, running

from repr_runtime import errors
from repr_serve import HttpApp, ModelOptions, app
from repr_serve.pictures.files import MOST_PIXELS, decode

CLASSIFY = "/v2/models/tiny/classify"


FILES = {
    "png": picture_file("PNG"),
    "jpeg": picture_file("JPEG"),
    "webp": picture_file("WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_picture_has_the_label_that_the_session_gives_it(
    port: int, served: HttpApp, kind: str
) -> None:
    content = FILES[kind]
    rgb = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    (expected,) = served.service.model("tiny").session.classify(rgb)
    curl = "application/x-www-form-urlencoded"  # as it says of all that it sends
    for head in ({"Content-Type": f"image/{kind}"}, {"Content-Type": curl}, {}):
        reply = ask(port, CLASSIFY, content, head)
        (found,) = reply.json["predictions"]
        assert (found["label"], found["index"]) == (expected.label, expected.index)
        assert found["probability"] == pytest.approx(expected.probability, rel=1e-5)
        assert [one["label"] for one in found["top"]] == [name for _, name, _ in expected.top]
        assert reply.json["milliseconds"] > 0


def test_several_come_as_a_form_and_top_says_how_many_labels(port: int, served: HttpApp) -> None:
    parts = b"".join(
        b'--b\r\ncontent-disposition: form-data; name="p"; filename="f"\r\n\r\n'
        + picture_file("PNG", pixels(seed))
        + b"\r\n"
        for seed in range(6)  # more than go into one batch
    )
    reply = ask(
        port,
        CLASSIFY + "?top=2",
        parts + b"--b--\r\n",
        {"Content-Type": "multipart/form-data; boundary=b"},
    )
    session = served.service.model("tiny").session
    expected = session.classify([pixels(seed) for seed in range(6)])
    found = reply.json["predictions"]
    assert [one["label"] for one in found] == [one.label for one in expected]
    assert {len(one["top"]) for one in found} == {2}


def png_of_size(width: int, height: int) -> bytes:
    """The head of a picture of that size, and of its content nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + check

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    idat = zlib.compress(b"")
    parts = chunk(b"IHDR", size + b"\x08\x02\0\0\0") + chunk(b"IDAT", idat) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello", "is none of JPEG, PNG and WebP"),
        (b"GIF89a" + bytes(100), "is none of JPEG"),
        (FILES["png"][:-30], "cannot be decoded"),
        (FILES["jpeg"][: len(FILES["jpeg"]) // 2], "cannot be decoded"),
        (FILES["webp"][:40], ""),
        (png_of_size(20_000, 20_000), "too large, at most 50,000,000 pixels"),
        (png_of_size(2**31 - 1, 2**31 - 1), "too large, at most"),
        (png_of_size(8_000, 7_000), "8,000 x 7,000 pixels, at most 50,000,000"),
        (png_of_size(65_536, 1), "65,536 x 1 pixels, at most 65,535 a side"),
        (png_of_size(10, 10), "cannot be decoded"),
    ],
)
def test_what_is_broken_or_a_bomb_is_a_mistake_of_its_sender(
    port: int, content: bytes, words: str
) -> None:
    reply = ask(port, CLASSIFY, content)
    assert (reply.status, words in reply.json["error"]) == (400, True), reply.body


PART = b'--b\r\nContent-Disposition: form-data; name="\xff"; filename="f"\r\n\r\nx\r\n--b--\r\n'


@pytest.mark.parametrize(
    ("status", "words", "body", "kind"),
    [
        (400, "no body", b"", "image/png"),
        (415, "content-type b'application/json'", b"{}", "application/json"),
        (400, "no files", b"--b--\r\n", "multipart/form-data; boundary=b"),
        (400, "form cannot be read", b"x", "multipart/form-data"),
        (400, "form cannot be read", b"x", "multipart/form-data; boundary=b"),
        (400, "form cannot be read", PART, "multipart/form-data; boundary=b; charset=undefined"),
    ],
)
def test_what_is_no_picture_is_told_what_to_send(
    port: int, status: int, words: str, body: bytes, kind: str
) -> None:
    reply = ask(port, CLASSIFY, body, {"Content-Type": kind})
    assert (reply.status, words in reply.json["error"]) == (status, True), reply.body
    for top in ("0", "1001", "0" * 5 + "9" * 5000):
        assert ask(port, f"{CLASSIFY}?top={top}", FILES["png"]).status == 400


def test_a_strip_costs_no_more_than_its_pixels(port: int) -> None:
    """Enlarged along its width first, it would be as many times as large as it is long."""
    tracemalloc.start()
    strip = picture_file("PNG", np.zeros((1, 65_535, 3), np.uint8))
    assert ask(port, CLASSIFY, strip).status == 200
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


def test_pictures_that_wait_too_long_are_given_up(port: int, served: HttpApp) -> None:
    released = threading.Event()
    labeller: Any = served._labeller
    for _ in range(labeller._pool._max_workers):
        labeller._pool.submit(released.wait, 10)
    try:
        reply = ask(port, CLASSIFY, FILES["png"], {"X-Request-Timeout": "0.05"})
        assert (reply.status, reply.json["error"][:9]) == (504, "no answer")
    finally:
        released.set()
    assert ask(port, CLASSIFY, FILES["png"]).status == 200


def test_a_network_without_preprocessing_says_so(pair: Path) -> None:
    made = app({"pair": pair}, models=ModelOptions(device="cpu", instances=1))
    with running(made) as port:
        reply = ask(port, "/v2/models/pair/classify", FILES["png"])
    assert (reply.status, "how images become inputs" in reply.json["error"]) == (400, True)


def test_pictures_are_turned_upright_and_made_rgb() -> None:
    array = pixels()
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter, clockwise
    upright = decode(picture_file("PNG", array, exif=turned))
    np.testing.assert_array_equal(upright, np.rot90(array, -1))
    grey = array[..., 0]
    np.testing.assert_array_equal(decode(picture_file("PNG", grey)), np.stack([grey] * 3, -1))
    deep = grey.astype(np.uint16) * 257  # 16 bits a pixel
    np.testing.assert_array_equal(decode(picture_file("PNG", deep)), np.stack([grey] * 3, -1))
    alpha = np.concatenate([array, array[..., :1]], -1)
    np.testing.assert_array_equal(decode(picture_file("PNG", alpha)), array)
    assert decode(FILES["jpeg"]).shape == (9, 7, 3)
    with pytest.raises(errors.ImageError, match=f"at most {MOST_PIXELS:,}"):
        decode(png_of_size(10_000, 5_001))
