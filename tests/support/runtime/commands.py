"""The command `repr-serve` in a process of its own, and clients that ask it all the time."""

import http.client
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class Process:
    """The command in a process of its own."""

    def __init__(self, *arguments: object) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "repr_serve.cli", *map(str, arguments), "--device", "cpu"],
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.port = int(self.wait_for(r"listening on http://127\.0\.0\.1:(\d+)")[1])

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as said:
            self.lines.extend(said)  # grows as lines come

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join()

    def wait_for(self, pattern: str) -> re.Match[str]:
        end = time.monotonic() + 60
        while time.monotonic() < end and (self.process.poll() is None or self.lines):
            if found := re.search(pattern, "".join(self.lines)):
                return found
            time.sleep(0.01)
        raise AssertionError("".join(self.lines))


@contextmanager
def command(*arguments: object) -> Iterator[Process]:
    made = Process(*arguments, "--port", 0)
    try:
        yield made
    finally:
        made.end()


def children(pid: int) -> list[int]:
    """The worker processes: those that uvicorn spawned, not the one that tracks resources."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [
        child
        for child in map(int, text.split())
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


class Client(threading.Thread):
    """Asks over one connection, again and again, and makes a new one where that was ended in order.

    ``answered`` counts; ``wrong`` are answers that ``right`` does not know; ``lost`` are errors in
    place of an answer, on a connection that had given one before, and ``unheard`` on a new one.
    """

    def __init__(
        self,
        port: int,
        path: str,
        body: bytes,
        head: Mapping[str, str],
        right: Callable[[bytes], bool],
    ) -> None:
        super().__init__(daemon=True)
        self._port, self._asked, self._right = port, (path, body, dict(head)), right
        self.answered = 0
        self.wrong: list[tuple[int, bytes]] = []
        self.lost: list[Exception] = []
        self.unheard: list[Exception] = []
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
            heard = False
            try:
                connection.connect()
            except OSError:  # nobody listens: nothing was asked
                time.sleep(0.02)
                continue
            try:
                while not self.ended.is_set():
                    path, body, head = self._asked
                    connection.request("POST", path, body, head)
                    reply = connection.getresponse()
                    content = reply.read()
                    if reply.status != 200 or not self._right(content):
                        self.wrong.append((reply.status, content[:200]))
                    heard = True
                    self.answered += 1
                    if reply.will_close:
                        break
            except (OSError, http.client.HTTPException) as error:
                (self.lost if heard else self.unheard).append(error)
            finally:
                connection.close()


@contextmanager
def asking(count: int, *what: object) -> Iterator[list[Client]]:
    """So many clients, which ask as long as this lasts; ``what`` are the arguments of each."""
    clients = [Client(*what) for _ in range(count)]  # type: ignore[arg-type]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        for client in clients:
            client.ended.set()
        for client in clients:
            client.join(30)
