"""Under load: nothing is lost at a new export, an end or a killed worker, and memory is level.

``REPR_SOAK=1000000 pytest -s tests/runtime/serve/test_load.py -k level`` asks that many, of the
artifact ``REPR_SOAK_ARTIFACT`` where that is given, and says what it held.
"""

import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from commands import asking, children, command
from serving import ask, binary_request, free_port, tensor

from repr_serve.oip import wire

MANY = int(os.environ.get("REPR_SOAK", "30000"))
INFER = "/v2/models/tiny/infer"
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def binary(x: Any, name: str = "input", outputs: tuple[str, ...] = ("logits",)) -> Any:
    wanted = [{"name": output, "parameters": {"binary_data": True}} for output in outputs]
    return binary_request(
        {"inputs": [tensor(x, name, binary=True)], "outputs": wanted}, x.tobytes()
    )


def wait_until(true: Any, words: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, words
        time.sleep(0.02)


def test_a_new_export_a_bad_one_and_the_end_lose_no_request(tiny: Any, artifact: Path) -> None:
    x = tiny.inputs(1)
    right = [tiny.logits(x, seed) for seed in (0, 1)]
    seen = [0, 0]

    def is_one_of_them(content: bytes) -> bool:
        found = np.frombuffer(content[-right[0].nbytes :], np.float32).reshape(right[0].shape)
        close = [bool(np.allclose(found, logits, atol=1e-4)) for logits in right]
        for index, one in enumerate(close):
            seen[index] += one
        return any(close)

    with command(artifact, "--no-grpc", "--watch", 0.05) as served:
        served.wait_for("ready: tiny")
        with asking(4, served.port, INFER, *binary(x), is_one_of_them) as clients:
            wait_until(lambda: seen[0] > 50, "no answers")
            tiny.write(artifact, seed=1)
            wait_until(lambda: seen[1] > 50, "the new export was not taken up")
            tiny.write(artifact, seed=2, golden=tiny.golden(1))
            served.wait_for("the new export is refused, the old one serves on")
            before = seen[1]
            wait_until(lambda: seen[1] > before + 50, "the old one does not serve on")
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(20) == 0
        for client in clients:
            assert (client.wrong, client.lost) == ([], [])


@linux
@pytest.mark.large
def test_a_killed_worker_loses_what_it_had_and_the_end_of_all_nothing(
    tiny: Any, artifact: Path
) -> None:
    x = tiny.inputs(1)
    logits = tiny.logits(x)

    def is_right(content: bytes) -> bool:
        found = np.frombuffer(content[-logits.nbytes :], np.float32).reshape(logits.shape)
        return bool(np.allclose(found, logits, atol=1e-4))

    with command(artifact, "--no-grpc", "--workers", 2) as served:
        wait_until(lambda: "".join(served.lines).count("ready: tiny") == 2, "not ready", 60)
        with asking(8, served.port, INFER, *binary(x), is_right) as clients:
            wait_until(lambda: all(c.answered > 20 for c in clients), "no answers")
            workers = children(served.process.pid)
            os.kill(workers[0], signal.SIGKILL)
            wait_until(
                lambda: "".join(served.lines).count("ready: tiny") == 3, "it is not back", 60
            )
            errors = [(len(c.lost), len(c.unheard), c.wrong) for c in clients]
            assert all(lost <= 1 and not wrong for lost, _, wrong in errors), errors
            assert sum(lost for lost, _, _ in errors) < 8  # those of the other worker went on
            counts = [c.answered for c in clients]
            wait_until(
                lambda: all(c.answered > n for c, n in zip(clients, counts, strict=True)), ""
            )
            for client in clients:
                client.lost.clear()
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(20) == 0
        assert [(c.lost, c.wrong) for c in clients] == [([], [])] * 8


class Pipeline(threading.Thread):
    """Asks over one connection, several requests at once, and looks at the bytes that come back."""

    def __init__(self, port: int, request: bytes, count: int, expected: bytes) -> None:
        super().__init__(daemon=True)
        self._place, self._request, self._count = ("127.0.0.1", port), request, count
        self._expected, self.answered, self.right = expected, 0, 0

    def run(self) -> None:
        ahead = 10
        with socket.create_connection(self._place) as made:
            made.settimeout(60)
            said = b""
            while self.answered < self._count:
                made.sendall(self._request * ahead)
                while said.count(b"HTTP/1.1 200") < ahead or not said.endswith(self._expected):
                    part = made.recv(2**16)
                    if not part:
                        return
                    said += part
                self.right += said.count(self._expected)
                self.answered += ahead
                said = b""


def memory_of(pid: int) -> int:
    """Bytes that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@linux
@pytest.mark.large
@pytest.mark.timeout(0)
def test_memory_is_level(artifact: Path) -> None:
    """Nine tenths over HTTP, one over gRPC; a tenth of all is to warm up."""
    path, port = os.environ.get("REPR_SOAK_ARTIFACT", str(artifact)), free_port()
    with command(f"net={path}", "--grpc-port", port) as served:
        served.wait_for("ready: net")
        described = ask(served.port, "/v2/models/net").json
        (spec,), (output,) = described["inputs"], described["outputs"]
        shape = [max(size, 1) for size in spec["shape"]]
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        body, head = binary(x, spec["name"], (output["name"],))
        reply = ask(served.port, "/v2/models/net/infer", body, head)
        expected = reply.body[int(reply.head["inference-header-content-length"]) :]
        fields = [f"{k}: {v}" for k, v in {**head, "content-length": str(len(body))}.items()]
        request = "\r\n".join(["POST /v2/models/net/infer HTTP/1.1", "host: a", *fields, "", ""])
        clients = [
            Pipeline(served.port, request.encode() + body, MANY * 9 // 40, expected)
            for _ in range(4)
        ]
        asked = wire.message("ModelInferRequest")(
            model_name="net", raw_input_contents=[x.tobytes()]
        )
        asked.inputs.add(name=spec["name"], datatype="FP32", shape=shape)
        over_grpc = [0]

        def ask_grpc() -> None:
            content = asked.SerializeToString()
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
                while over_grpc[0] < MANY // 10:
                    over_grpc[0] += infer(content, timeout=60).endswith(expected)

        def done() -> int:
            return sum(client.answered for client in clients) + over_grpc[0]

        began = time.monotonic()
        threads = [*clients, threading.Thread(target=ask_grpc, daemon=True)]
        for thread in threads:
            thread.start()
        held = []
        for tenth in range(1, 11):
            while done() < MANY * tenth // 10 - 40 and any(t.is_alive() for t in threads):
                time.sleep(0.05)
            held.append(memory_of(served.process.pid))
        for thread in threads:
            thread.join(60)
        rate = done() / (time.monotonic() - began)
        print(f"\n{done():,} answered, {over_grpc[0]:,} of them over gRPC, {rate:,.0f} a second;")
        print("MB at each tenth:", ", ".join(f"{size / 2**20:.1f}" for size in held))
        assert all(client.right == client.answered >= MANY * 9 // 40 for client in clients)
        assert over_grpc[0] >= MANY // 10
        assert held[-1] < held[0] * (1.02 if MANY >= 1_000_000 else 1.1)


@linux
@pytest.mark.large
def test_ten_thousand_slow_clients_do_not_stop_a_fast_one(tiny: Any, artifact: Path) -> None:
    """Some say nothing, some a part of a head or a body, some go on drop by drop, some never read."""
    count = 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 500:
        pytest.skip(f"this system allows {hard} open files")
    x = tiny.inputs(1)
    body, head = binary(x)
    begun = f"POST {INFER} HTTP/1.1\r\nhost: a\r\ncontent-length: 99999\r\n\r\n".encode()
    said = (b"", b"GET /v2 HTTP/1.1\r\nx: ", begun, begun + b"{", b"GET / HTTP/1.1\r\n\r\n" * 4)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with command(artifact, "--no-grpc") as served, ExitStack() as opened:
            served.wait_for("ready: tiny")
            files = Path(f"/proc/{served.process.pid}/fd")
            slow = []
            for index in range(count):  # those that are sent away the soonest come last
                sent = said[2 + index % 3] if index < count * 3 // 5 else said[index % 2]
                client = socket.create_connection(("127.0.0.1", served.port))
                slow.append(opened.enter_context(client))
                client.setblocking(False)
                client.send(sent)
            wait_until(lambda: len(os.listdir(files)) > count * 0.9, "they are not taken", 8)
            took = []
            for turn in range(100):
                for one in slow[turn::100]:
                    with suppress(OSError):  # it was sent away
                        one.send(b"a")
                start = time.monotonic()
                assert ask(served.port, INFER, body, head).status == 200
                took.append(time.monotonic() - start)
            print(f"\nbeside {count:,} slow ones a fast one took {max(took) * 1e3:.1f} ms at most")
            assert sorted(took)[90] < 0.5
            wait_until(lambda: len(os.listdir(files)) < count / 2, "none is sent away", 40)
            poll = select.poll()  # of those that said nothing
            for one in slow[count * 3 // 5 :: 2]:
                poll.register(one, select.POLLIN)
            assert len(poll.poll(1000)) == count // 5
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
