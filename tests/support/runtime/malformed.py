"""Requests that nearly are some, by the million: a seed makes the same ones again."""

import gzip
import io
import json
import random
import struct
import zlib
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from repr_serve.oip import wire

Fields = list[tuple[bytes, bytes]]
ODD: Sequence[Any] = (
    *(None, True, False, -1, 0, 1, 2**31, 2**63, 2**64, 2**70, -(2**63) - 1, 1e308, -0.0, 0.5),
    *("", "a", "FP64", "BF16", "BYTES", "input", "tiny", "\0", "\ud800", "é" * 40, "x" * 5000),
    *([], {}, [[[]]], [1, "a"], [None], {"a": 1}, {"": {}}, [0] * 100, ["y" * 999, "", 1]),
)
NUMBERS = (
    b"NaN",
    b"Infinity",
    b"1e999",
    b"-1e999",
    b"9" * 400,
    b"0x10",
    b"00",
    b"-",
    b"1.",
    b"1e-999",
)
BYTES = (
    *(b"", b"\0", b"-1", b"0", b"+1", b"1_0", b" 1", b"9" * 20, b"9" * 5000, b"1e3", b"nan"),
    b"\xff\xfe",
)
FIELDS: Sequence[tuple[bytes, Sequence[bytes]]] = (
    (b"inference-header-content-length", BYTES),
    (b"content-length", BYTES),
    (b"x-request-timeout", (*BYTES, b"1e-9", b"1e400", b"-inf")),
    (b"content-encoding", (b"gzip", b"identity", b"br, gzip", b"", b"\xff")),
    (b"content-type", (b"", b"image/png", b"text/html", b"\xff" * 99, b"multipart/form-data")),
    (b"transfer-encoding", (b"chunked", b"gzip, chunked", b"\x0bchunked")),
    (b"authorization", (b"", b"Bearer", b"Bearer \xff", b"Basic " + b"x" * 9999)),
    (b"traceparent", (b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"\xff" * 99, b"")),
    (b"host", (b"", b"a:b:c", b"\xff", b"[::1")),
    (b"expect", (b"100-continue", b"x")),
    (b"x" * 3000, (b"y" * 3000,)),
)
PATHS = (
    *("/", "/v2", "/v2/", "//v2", "/metrics", "/v2/health/ready", "/v2/health/live/", "/v3", "*"),
    *("/v2/models", "/v2/models/tiny", "/v2/models/tiny/card", "/v2/models/tiny/ready", "/\0"),
    *("/v2/models/../../etc/passwd", "/v2/models/%2e%2e/infer", "/v2/models/tiny/infer/", "/\n"),
    *("/v2/models/tiny/versions/0/infer", "/v2/models/tiny/versions//infer", "/v2/models//infer"),
    *("/v2/repository/index", "/v2/repository/models/tiny/load", "/v2/repository/models/x/unload"),
    *(
        "/v2/models/{}/infer",
        "/v2/models/{}/classify",
        "/v2/models/{}",
        "/v2/models/tiny/versions/{}",
    ),
)
QUERIES = (
    "",
    "top=3",
    "top=",
    "top=-1",
    "top=00001" + "9" * 5000,
    "top=1&top=2",
    "%ff=%zz",
    "&" * 999,
)


@dataclass(frozen=True)
class Asked:
    """A request over HTTP; ``parts`` are its body as it comes, and ``leaves``: it ends in the midst."""

    method: str
    path: str
    query: bytes
    fields: Fields
    parts: Sequence[bytes]
    leaves: bool = False


class Malformed:
    """What a network that takes ``input`` FP32 (n, 3, 4, 4) is asked, one mistake or some apart."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._pictures = list(_pictures())
        self._numbers = np.random.default_rng(seed).normal(size=(4, 3, 4, 4)).astype(np.float32)

    def chance(self, one_in: int) -> bool:
        return self.random.randrange(one_in) == 0

    def pick(self, choices: Sequence[Any]) -> Any:
        return self.random.choice(choices)

    # Over HTTP

    def http(self) -> Asked:
        method, path, query = "POST", "/v2/models/tiny/infer", b""
        what = self.random.randrange(16)
        if what < 2:
            kind, body = self.picture() if what else self.form()
            path, fields = "/v2/models/tiny/classify", [(b"content-type", kind)]
            query = self.pick(QUERIES).encode() if self.chance(4) else b""
        else:
            fields, body = self._infer()
        if what == 15:
            path = self.pick(PATHS).format(self.name())
            method = self.pick(("GET", "POST", "HEAD", "PUT", "OPTIONS", "DELETE", "PROPFIND"))
            query = self.pick(QUERIES).encode()
        fields.append((b"content-length", b"%d" % len(body)))
        for _ in range(self.pick((0, 0, 0, 1, 2))):
            name, values = self.pick(FIELDS)
            same = [value for given, value in fields if given == name]
            if self.chance(2):  # in its place
                fields = [field for field in fields if field[0] != name]
            fields.append((name, self.pick([*values, *same])))
        if self.chance(50):
            body = gzip.compress(body)
        return Asked(method, path, query, fields, self._cut(body), self.chance(30))

    def name(self) -> str:
        """A model's, or a version's, which there is none of."""
        odd = [one for one in ODD if isinstance(one, str) and one.isascii()]
        return self.pick([*odd, "tiny", f"n{self.random.random()}"])

    def _cut(self, body: bytes) -> list[bytes]:
        if not self.chance(4):
            return [body]
        at = sorted(self.random.randrange(len(body) + 1) for _ in range(self.random.randrange(4)))
        return [body[a:b] for a, b in zip([0, *at], [*at, len(body)], strict=True)]

    def _infer(self) -> tuple[Fields, bytes]:
        rows = self.random.randrange(6)
        array, binary = self._numbers[:rows], self.chance(2)
        size = {"parameters": {"binary_data_size": array.nbytes}}
        data = {"data": array.ravel().tolist() if self.chance(2) else array.tolist()}
        head: Any = {
            "id": "7",
            "parameters": {"timeout": 5_000_000, "binary_data_output": binary},
            "inputs": [
                {
                    "name": "input",
                    "datatype": "FP32",
                    "shape": list(array.shape),
                    **(size if binary else data),
                }
            ],
            "outputs": [{"name": "logits", "parameters": {"binary_data": binary}}],
        }
        for _ in range(self.pick((0, 1, 1, 1, 2, 3))):
            self._spoil(head)
        text = self._text(head)
        raw = array.tobytes() if binary else b""
        if self.chance(8):
            raw = self.pick((raw[:-1], raw + b"\0", raw[::-1], b"", b"\xff" * len(raw)))
        length = self.pick(BYTES) if self.chance(20) else b"%d" % len(text)
        fields = [(b"inference-header-content-length", length)] if binary or self.chance(9) else []
        return fields, text + raw

    def _spoil(self, tree: Any) -> None:
        """Leave out, replace, double or wrap one of its parts."""
        places = list(_places(tree))
        if not places:
            return
        holder, key = self.pick(places)
        what = self.random.randrange(6)
        if what == 0:
            del holder[key]
        elif what == 1:
            holder[key] = [deepcopy(holder[key]) for _ in range(self.pick((1, 2, 3)))]
        elif what == 2 and isinstance(holder, list):
            holder.insert(key, deepcopy(holder[key]))
        elif what == 3 and isinstance(holder, dict):
            holder[self.pick(("data", "parameters", "timeout", "shape", "sequence_id", "x"))] = (
                deepcopy(self.pick(ODD))
            )
        else:
            holder[key] = deepcopy(self.pick(ODD))

    def _text(self, head: Any) -> bytes:
        text = json.dumps(head).encode()
        if not self.chance(4):
            return text
        at = self.random.randrange(len(text))
        what = self.random.randrange(7)
        if what == 0:
            return text[:at]
        if what == 1:
            depth = self.pick((2, 70, 1100, 20_000))
            return text.replace(b"[", b"[" * depth, 1).replace(
                b"]", b"]" * self.pick((1, depth)), 1
            )
        if what == 2:
            return text.decode().encode(self.pick(("utf-16", "utf-32", "utf-8-sig")))
        if what == 3:
            return text.replace(b'"name"', b'"name":1,"name"', 1)
        if what == 4:
            return text[:at] + self.random.randbytes(self.random.randrange(4)) + text[at:]
        digits = [i for i, c in enumerate(text) if c in b"0123456789" and text[i - 1] in b" ["]
        at = self.pick(digits or [0])
        return text[:at] + self.pick(NUMBERS) + text[at + 1 :]

    # Pictures

    def picture(self) -> tuple[bytes, bytes]:
        """A content type and a file."""
        content = bytearray(self.pick(self._pictures))
        what = self.random.randrange(5)
        if what == 0:
            del content[self.random.randrange(len(content)) :]
        elif what == 1 and content[12:16] == b"IHDR":
            size = self.pick((0, 1, 2, 65_535, 65_536, 2**20, 2**31 - 1, 2**32 - 1))
            at = self.pick((16, 20))
            content[at : at + 4] = struct.pack(">I", size)
            content[24:29] = bytes(self.pick((content[24:29], b"\x10\0\0\0\0", b"\x01\x03\0\0\1")))
            content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        elif what < 4:
            for _ in range(self.random.randrange(1, 9)):
                content[self.random.randrange(len(content))] = self.random.randrange(256)
        kind = self.pick(
            (b"image/png", b"image/jpeg", b"", b"application/octet-stream", b"text/css")
        )
        return kind, bytes(content)

    def form(self) -> tuple[bytes, bytes]:
        """A content type with its boundary, and parts with hostile names."""
        boundary = self.pick(
            (b"b", b"-" * 70, b"", b"b" * 300, b'"q"', b"\xff", b"b; charset=undefined")
        )
        made = b""
        for _ in range(self.pick((0, 1, 2, 3, 66))):
            name = self.pick((b"f", b"../../x", b"\xff\0", b'"', b"", b"n" * 9000, b"\r\n\r\n"))
            file = b'; filename="%s"' % name if not self.chance(4) else b""
            line = b'content-disposition: form-data; name="%s"%s' % (name, file)
            parts = (
                b"--",
                boundary.partition(b";")[0],
                b"\r\n",
                line,
                b"\r\n\r\n",
                self.picture()[1],
                b"\r\n",
            )
            made += b"".join(part for part in parts if not self.chance(60))
        end = b"--%s--\r\n" % boundary.partition(b";")[0]
        return b"multipart/form-data; boundary=" + boundary, made + (b"" if self.chance(6) else end)

    # On the wire

    def wire(self) -> bytes:
        """A request, or several, of which the framing may be a lie."""
        asked = self.http()
        body = b"".join(asked.parts)[: self.pick((20, 1000, 10**6))]
        fields = [f for f in asked.fields if f[0] != b"content-length" or self.chance(9)]
        what = self.random.randrange(8)
        lengths = (len(body), len(body) + 1, max(0, len(body) - 1), 0, 2**40)
        if what < 4:
            fields.append(
                (b"content-length", b"%d" % (self.pick(lengths) if what == 0 else len(body)))
            )
        elif what < 7:
            fields.append(
                (b"transfer-encoding", self.pick((b"chunked", b"Chunked", b"x, chunked")))
            )
            size = self.pick((b"%x", b"%X ", b"0%x;a=b", b"-%x", b"%xg", b"%x\n")) % max(
                1, len(body)
            )
            end = self.pick(
                (b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\na: b\r\n\r\n", b"0\n\n", b"0\r\n", b"")
            )
            body = size + b"\r\n" + (body or b"a") + self.pick((b"\r\n", b"\r\n", b"\n", b"")) + end
        line = f"{asked.method} {asked.path}".encode() + (
            b"?" + asked.query if asked.query else b""
        )
        version = self.pick((b"1.1",) * 9 + (b"1.0", b"2.0", b"0.9", b"1.1 x"))
        break_ = self.pick((b"\r\n",) * 20 + (b"\n", b"\r", b"\r\n ", b"\0\r\n"))
        colon = self.pick((b": ",) * 20 + (b" : ", b":\t", b""))
        head = break_.join([line + b" HTTP/" + version, *(n + colon + v for n, v in fields)])
        made = head + break_ + break_ + body
        if self.chance(6):
            made = made * self.pick((2, 3))  # one behind the other, unasked
        if self.chance(12):
            at = self.random.randrange(len(made))
            made = made[:at] + self.random.randbytes(3) + made[at + 3 :]
        return made

    # Over gRPC

    def grpc(self) -> tuple[str, bytes]:
        """A method and its message."""
        rows = self.random.randrange(6)
        array = self._numbers[:rows]
        request = wire.message("ModelInferRequest")(model_name="tiny", id="7")
        if self.chance(9):
            request.model_name = self.name().encode("utf-8", "replace").decode()
        odd_sizes = (-1, 0, 1, 5, 2**31, 2**62, 2**63 - 1)
        for _ in range(self.pick((1, 1, 1, 1, 1, 0, 2))):
            given = request.inputs.add(name="input", datatype="FP32", shape=array.shape)
            for spoil in self.random.sample(range(12), self.pick((0, 1, 1, 2))):
                if spoil == 0:
                    given.name = self.pick(("", "x", "input\0", "é" * 50))
                elif spoil == 1:
                    given.datatype = self.pick(("FP16", "BF16", "BYTES", "INT8", "", "fp32"))
                elif spoil == 2:
                    given.shape[self.random.randrange(4)] = self.pick(odd_sizes)
                elif spoil == 3:
                    given.shape.extend([1] * self.pick((1, 70, 5000)))
                elif spoil == 4:
                    given.contents.fp32_contents.extend(array.ravel().tolist())
                elif spoil == 5:
                    given.contents.int64_contents.extend([0, 2**62])
                elif spoil == 6:
                    given.parameters[self.pick(("sequence_id", "x", ""))].string_param = "y"
        if self.chance(3):
            request.outputs.add(name=self.pick(("logits", "logits", "x", "")))
            if self.chance(3):
                request.outputs.add(name="logits")
        if self.chance(5):
            name = self.pick(("timeout", "sequence_id", "x"))
            request.parameters[name].int64_param = self.pick((-1, 0, 1, 5_000_000, 2**63 - 1))
        if not self.chance(5):
            raw = array.tobytes()
            more = (raw[:-1], raw + b"\0", b"", b"\xff" * len(raw))
            request.raw_input_contents.append(self.pick((raw, raw, raw, *more)))
        content = bytearray(request.SerializeToString())
        for _ in range(self.pick((0, 0, 0, 1, 3)) if content else 0):
            content[self.random.randrange(len(content))] = self.random.randrange(256)
        method = "ModelInfer" if not self.chance(12) else self.pick(wire.METHODS)
        return method, bytes(content)

    def frames(self) -> bytes:
        """What a client of gRPC sends, HTTP/2's frames, some of which are wrong or left out."""
        method, message = self.grpc()
        prefix = self.pick((b"\0", b"\0", b"\0", b"\1", b"\xff"))
        length = self.pick((len(message),) * 3 + (0, len(message) + 9, 2**32 - 1))
        names = (
            *((b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a")),
            (b":path", f"/{wire.PACKAGE}.{wire.SERVICE}/{method}".encode()),
            *((b"te", b"trailers"), (b"content-type", b"application/grpc")),
            (b"grpc-timeout", self.pick((b"1S", b"99999999H", b"-1S", b"0n", b"x"))),
            (b"grpc-encoding", self.pick((b"identity", b"gzip", b"x"))),
        )
        block = b"".join(
            b"\0" + bytes([len(n)]) + n + bytes([len(v)]) + v
            for n, v in names
            if not self.chance(30)
        )
        data = prefix + struct.pack(">I", length) + message
        frames = [
            _frame(4, 0, 0, self.pick((b"", b"", b"\0\3\0\0\0\1", b"\0\4\xff\xff\xff\xff", b"x"))),
            _frame(1, self.pick((4, 4, 4, 5, 0)), 1, block),
            _frame(0, self.pick((1, 1, 0)), 1, data[:16_000]),
            _frame(self.pick((0, 1, 3, 6, 8, 9, 99)), 1, self.pick((0, 1, 2, 3)), bytes(4)),
        ]
        made = b"".join(frame for frame in frames if not self.chance(12))
        if self.chance(8):
            made = self.random.randbytes(200)
        return (b"" if self.chance(30) else b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") + made


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + payload
    )


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Each part, as what holds it and where; of long lists the beginning."""
    keys: Any = ()
    if isinstance(tree, dict):
        keys = list(tree)
    elif isinstance(tree, list):
        keys = range(min(len(tree), 3))
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


def _pictures() -> Iterator[bytes]:
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    saved: list[tuple[Image.Image, str, dict[str, Any]]] = [
        *((rgb.convert(mode), "PNG", {}) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")),
        (Image.fromarray(np.arange(63, dtype=np.uint16).reshape(9, 7) * 999), "PNG", {}),
        *((rgb.convert(mode), "JPEG", {}) for mode in ("RGB", "L", "CMYK")),
        (rgb, "JPEG", {"progressive": True}),
        *((rgb, kind, {}) for kind in ("WEBP", "GIF", "TIFF", "BMP")),
        *((rgb, kind, {"save_all": True, "append_images": [rgb] * 3}) for kind in ("PNG", "WEBP")),
    ]
    for turn in range(10):  # two more than there are
        exif = Image.Exif()
        exif[0x0112] = turn
        saved.append((rgb, (turn % 2 and "PNG") or "JPEG", {"exif": exif}))
    for image, kind, options in saved:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        yield stream.getvalue()
