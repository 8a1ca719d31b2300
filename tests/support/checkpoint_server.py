"""An HTTP server of one file on the loopback, which fails in the ways that servers fail."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Request:
    """What was asked for, how it was answered, and how many bytes of the body were sent."""

    path: str
    range: str | None
    if_range: str | None
    status: int = 0
    sent: int = 0


@dataclass
class Behaviour:
    """What the server does; may be changed between requests.

    ``breaks`` holds, for each request in turn, after how many bytes of its body the connection
    ends; ``stalls`` after how many bytes nothing comes any more. ``statuses`` are answered first.
    """

    content: bytes
    etag: str | None = '"one"'
    last_modified: str | None = None
    ranges: bool = True
    checks_if_range: bool = True
    says_length: bool = True
    breaks: list[int] = field(default_factory=list)
    stalls: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    block_seconds: float = 0.0
    requests: list[Request] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[Behaviour]:
    """Serve until the end of the block; ``behaviour.url`` is the file's address then."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            b = behaviour
            asked = Request(self.path, self.headers.get("Range"), self.headers.get("If-Range"))
            b.requests.append(asked)
            if self.path in b.redirects:
                asked.status = 302
                self.send_response(302)
                self.send_header("Location", b.redirects[self.path])
                self.end_headers()
                return
            if b.statuses:
                asked.status = b.statuses.pop(0)
                self.send_error(asked.status)
                return
            begin = 0
            validator = b.etag or b.last_modified
            same = asked.if_range == validator or not b.checks_if_range
            if asked.range and b.ranges and same:
                begin = int(asked.range.removeprefix("bytes=").removesuffix("-"))
                if begin >= len(b.content):
                    asked.status = 416
                    self.send_error(416)
                    return
            asked.status = 206 if begin else 200
            self.send_response(asked.status)
            if b.etag:
                self.send_header("ETag", b.etag)
            if b.last_modified:
                self.send_header("Last-Modified", b.last_modified)
            if begin:
                end = len(b.content) - 1
                self.send_header("Content-Range", f"bytes {begin}-{end}/{len(b.content)}")
            if b.says_length:
                self.send_header("Content-Length", str(len(b.content) - begin))
            self.end_headers()
            self._body(asked, b.content[begin:])

        def _body(self, asked: Request, body: bytes) -> None:
            b = behaviour
            stall = b.stalls.pop(0) if b.stalls else None
            limit = b.breaks.pop(0) if b.breaks else len(body)
            until = min(limit, len(body) if stall is None else stall)
            try:
                while asked.sent < until:
                    block = body[asked.sent : min(asked.sent + 16384, until)]
                    self.wfile.write(block)
                    asked.sent += len(block)
                    time.sleep(b.block_seconds)
                if stall is not None:
                    over.wait(60)
            except OSError:
                pass  # the client has gone
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    behaviour.url = f"http://127.0.0.1:{server.server_port}/files/net-v1.pth"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield behaviour
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()
