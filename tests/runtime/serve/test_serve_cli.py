"""The command: what it refuses before the work, how it ends, and that its workers share a port."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from commands import children, command
from serving import ask, numbers, tensor

from repr_serve.cli import main

INFER = "/v2/models/tiny/infer"


def test_it_serves_takes_up_exports_and_ends_in_good_order(tiny: Any, artifact: Path) -> None:
    x = tiny.inputs(1)
    with command(artifact, "--no-grpc", "--watch", 0.05, "--json") as served:
        served.wait_for("ready: tiny")
        reply = ask(served.port, INFER, {"inputs": [tensor(x)]})
        np.testing.assert_allclose(numbers(reply), tiny.logits(x), atol=1e-4)
        tiny.write(artifact, seed=1)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            reply = ask(served.port, INFER, {"inputs": [tensor(x)]})
            if np.allclose(numbers(reply), tiny.logits(x, 1), atol=1e-4):
                break
        else:
            raise AssertionError("the new export was not taken up")
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(20) == 0
        for line in served.lines:
            assert {"time", "level", "message"} <= set(json.loads(line))
        assert "ended" in served.lines[-1]


def test_what_was_taken_on_is_answered_at_the_end_by_both_protocols(
    tiny: Any, artifact: Path
) -> None:
    """The requests wait for company longer than the signal takes."""
    x = tiny.inputs(1)[0]  # one sample is not run at once, as a small batch is
    found: list[Any] = []
    with command(artifact, "--grpc-port", 0, "--max-delay", 1) as served:
        place = served.wait_for(r"listening on grpc://(\S+)")[1]
        served.wait_for("ready: tiny")

        def over_http() -> None:
            found.append(numbers(ask(served.port, INFER, {"inputs": [tensor(x)]})))

        def over_grpc() -> None:
            with triton.InferenceServerClient(place) as client:
                given = triton.InferInput("input", x.shape, "FP32")
                given.set_data_from_numpy(x)
                found.append(client.infer("tiny", [given]).as_numpy("logits"))

        asking = [threading.Thread(target=one) for one in (over_http, over_grpc)]
        for thread in asking:
            thread.start()
        end = time.monotonic() + 10
        while b'repr_waiting{model="tiny"} 2.0' not in ask(served.port, "/metrics").body:
            assert time.monotonic() < end
        served.process.send_signal(signal.SIGTERM)
        for thread in asking:
            thread.join(20)
        assert served.process.wait(20) == 0
    for logits in found:
        np.testing.assert_allclose(logits, tiny.logits(x[None])[0], atol=1e-4)
    assert len(found) == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_when_a_worker_is_killed_the_others_answer(tiny: Any, artifact: Path) -> None:
    """Three processes are started, each of which imports all: seconds, on a busy machine."""
    x = tiny.inputs(1)
    body = {"inputs": [tensor(x)]}
    with command(artifact, "--no-grpc", "--workers", 2) as served:
        end = time.monotonic() + 60
        while "".join(served.lines).count("ready: tiny") < 2 and time.monotonic() < end:
            time.sleep(0.02)
        workers = children(served.process.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        answered = 0
        for _ in range(40):
            with contextlib.suppress(ConnectionError):  # what the killed one had accepted
                answered += ask(served.port, INFER, body).status == 200
        assert answered >= 38
        time.sleep(1.2)  # in which each has written its counts, whoever is asked for them
        counted = f'outcome="ok",protocol="http"}} {answered}.0'
        assert all(counted in ask(served.port, "/metrics").body.decode() for _ in range(5))
        while len(children(served.process.pid)) < 2 or workers[0] in children(served.process.pid):
            assert time.monotonic() < end, "nothing took its place"
            time.sleep(0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "70000"], "port must be a whole number from 0 to 65,535, got 70000"),
        (["--grpc-port", "8000"], "HTTP and gRPC cannot both have port 8000"),
        (["--tls-cert", "a.pem"], "both a certificate and its key"),
        (
            ["--tls-cert", "a.pem", "--tls-key", "b.pem"],
            "a.pem and b.pem are no certificate and its key",
        ),
        (["--workers", "2", "--allow-control"], "--allow-control is for one worker"),
        (["--workers", "0"], "workers must be a whole number from 1"),
        (["--max-batch", "0"], "max_batch must be"),
        (["--timeout", "0"], "timeout must be seconds"),
        (["--api-key-file", "none"], "none cannot be read"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1:"),
        (["--host", "a..b"], "cannot listen on a..b:"),
        (
            ["--max-body", "4294967296"],
            "max_body must be a whole number from 1,024 to 2,147,483,647",
        ),
        (["again/tiny"], "two models are called 'tiny'"),
        (["a b=c"], "letters, digits"),
    ],
)
def test_a_mistake_is_told_before_the_work(
    artifact: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(artifact), *arguments]) == 2
    said = capsys.readouterr().err
    assert (words in said, len(said.splitlines())) == (True, 1), said


def test_a_port_that_is_taken_is_told_before_the_work(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        for option in ("--port", "--grpc-port"):
            assert main([str(artifact), "--port", "0", option, taken]) == 2
            words = f"cannot listen on 127.0.0.1:{taken} (Address already in use); choose another {option}"
            assert words in capsys.readouterr().err


def test_keys_are_long_and_read_from_a_file(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys"
    for content, words in (("# none\n", "has no keys"), ("short\n", "less than 16 characters")):
        file.write_text(content)
        assert main([str(artifact), "--api-key-file", str(file)]) == 2
        assert words in capsys.readouterr().err
    file.write_text("# ours\nkey of many characters\n")
    with command(artifact, "--no-grpc", "--api-key-file", file) as served:
        served.wait_for("ready: tiny")
        assert ask(served.port, "/v2/health/ready").status == 200
        assert ask(served.port, "/v2/models/tiny").status == 401
        right = {"Authorization": "Bearer key of many characters"}
        assert ask(served.port, "/v2/models/tiny", head=right).status == 200


def test_the_environment_sets_what_has_a_value(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REPR_SERVE_MAX_BATCH", "0")
    assert main([str(artifact)]) == 2
    assert "max_batch must be" in capsys.readouterr().err
    monkeypatch.setenv("REPR_SERVE_DEVICE", "abacus")
    assert main([str(artifact)]) == 2
    assert "device must be one of auto" in capsys.readouterr().err


@pytest.mark.large
def test_workers_end_where_none_can_begin_and_where_nobody_minds_them(
    tiny: Any, tmp_path: Path
) -> None:
    bad = tiny.write(tmp_path / "bad", golden=tiny.golden(1))
    with command(bad, "--no-grpc", "--workers", 2) as served:
        assert served.process.wait(60) == 1
        assert "golden" in "".join(served.lines)
    with command(tiny.write(tmp_path / "good"), "--no-grpc", "--workers", 2) as served:
        end = time.monotonic() + 60
        while "".join(served.lines).count("ready: good") < 2 and time.monotonic() < end:
            time.sleep(0.02)
        workers = children(served.process.pid)
        served.process.kill()
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < end, "they serve on"
            time.sleep(0.02)


def test_an_artifact_that_cannot_be_served_ends_it_with_its_reason(tmp_path: Path) -> None:
    for workers in (1, 2):
        arguments = [str(tmp_path / "none"), "--port", "0", "--no-grpc", "--workers", str(workers)]
        done = subprocess.run(
            [sys.executable, "-m", "repr_serve.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
        assert "is not an artifact: there is no such folder" in done.stderr


@pytest.mark.parametrize("missing", ["uvicorn", "orjson", "grpc"])
def test_without_its_extra_it_says_what_to_install(artifact: Path, missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"from repr_serve.cli import main; sys.exit(main([{str(artifact)!r}, '--port', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    words = f"repr-serve needs the extra 'serve' (no module {missing!r}): pip install"
    assert (done.returncode, done.stderr.startswith(words)) == (1, True), done.stderr
