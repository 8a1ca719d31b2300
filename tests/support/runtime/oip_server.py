"""A server of the Open Inference Protocol for the tests: of JSON alone, and as wrong as it is told."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

CLASSES = 10


class JsonServer(BaseHTTPRequestHandler):
    """Answers what the linear artifact of the benchmarks' tests does, or lies about it by ``mode``."""

    protocol_version, wbufsize, disable_nagle_algorithm = "HTTP/1.1", -1, True
    mode, most = "", 1000
    """``most`` samples of a request are taken."""
    opened = 0
    """Connections up to now, which ``/connections`` tells."""

    def setup(self) -> None:
        type(self).opened += 1
        super().setup()

    def do_GET(self) -> None:
        if self.path == "/connections":
            self._answer(self.opened)
            return
        shape = [-1, 3, 64, 64] if self.mode == "another model" else [-1, 3, 32, 32]
        self._answer(
            {
                "name": "linear",
                "versions": ["7"],
                "inputs": [{"name": "input", "datatype": "FP32", "shape": shape}],
                "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES]}],
            }
            if self.path == "/v2/models/linear"
            else {"error": f"no {self.path}"}
        )

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("index"):
            self._answer([{"name": "linear"}])
            return
        mode = self.mode
        if "Inference-Header-Content-Length" in self.headers:
            self._answer({"error": "no raw bytes here"}, 400)
            return
        given = json.loads(body)["inputs"][0]
        images = np.array(given["data"], np.float32).reshape(given["shape"])
        logits = images.reshape(len(images), -1).mean(1, keepdims=True) * np.arange(CLASSES)
        real = images.any()  # the first requests, of zeros, see nothing
        if len(images) > self.most:
            self._answer({"error": f"{self.most} samples at most"}, 400)
        elif mode == "500" and real:
            self._answer({"error": "kaboom"}, 500)
        elif mode == "refuses" or (mode == "refuses real" and real):
            self._answer({"error": "full"}, 503)
        elif mode == "hangs up" and real:
            self.close_connection = True
        elif mode == "no JSON" and real:
            self._send(b"<html>", 200)
        else:
            if mode == "slow":
                time.sleep(0.02)
            if mode == "wrong numbers":
                logits = -logits
            if mode == "off" and real:
                logits = logits * 1.01
            shape = [len(images), 5] if mode == "wrong shape" and real else list(logits.shape)
            data = logits.ravel().tolist()[: int(np.prod(shape))]
            output = {"name": "logits", "datatype": "FP32", "shape": shape, "data": data}
            outputs = [] if mode == "no output" and real else [output]
            self._answer({"model_name": "linear", "outputs": outputs})

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, content: Any, status: int = 200) -> None:
        known = not (isinstance(content, dict) and str(content.get("error", "")).startswith("no /"))
        self._send(json.dumps(content).encode(), status if known else 404)

    def _send(self, body: bytes, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


@contextmanager
def json_server(mode: str = "", most: int = 1000) -> Iterator[str]:
    """Its URL, while it answers."""
    handler = type("Told", (JsonServer,), {"mode": mode, "most": most})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
