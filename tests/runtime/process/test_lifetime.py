"""Processes that end, are forked, or get no more threads, while sessions and batchers are open."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

HEAD = """
import os, resource, signal, sys, threading, time
import numpy as np
from repr_runtime import Batcher, errors, load
session = load(sys.argv[1], device="cpu", **OPTIONS)
x = np.zeros((1, 3, 4, 4), np.float32)
"""

FORK = """
def fork(what, act):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            print(what, act(), end="; ")
        except errors.ReproError as error:
            print(what, type(error).__name__, "after the fork" in str(error), end="; ")
        sys.exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
"""

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def outcome(path: Path, code: str, **options: Any) -> tuple[int, str, str]:
    """The exit status of ``code``, after HEAD, and what it wrote to stdout and stderr."""
    quiet = ["-W", "ignore::DeprecationWarning"]  # of a fork where there are threads, from 3.12 on
    command = [
        sys.executable,
        *quiet,
        "-c",
        HEAD.replace("OPTIONS", repr(options)) + code,
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


BUSY = """
def forever():
    while True:
        CALL
for _ in range(4):
    threading.Thread(target=forever, daemon=True).start()
time.sleep(0.05)
sys.exit(5)
"""


@pytest.mark.parametrize(
    ("code", "options"),
    [
        (
            "b = Batcher(session, queue_limit=4096); [b.submit(x[0]) for _ in range(500)]; sys.exit(5)",
            {},
        ),
        (BUSY.replace("CALL", "session.run(x)"), {}),
        (BUSY.replace("CALL", "session.run(x)"), {"threads": 1, "instances": 2}),
        (BUSY.replace("CALL", "load(sys.argv[1], device='cpu').close()"), {}),
        ("b = Batcher(session, max_delay=60)\n" + BUSY.replace("CALL", "b.run(x[0])"), {}),
    ],
    ids=["batcher", "session", "instances", "loading", "waiting"],
)
def test_the_exit_is_clean_and_quiet(artifact: Path, code: str, options: dict[str, Any]) -> None:
    assert outcome(artifact, code, **options) == (5, "", "")


@posix
def test_an_endless_run_is_stopped_at_exit_and_a_child_of_that_time_runs_nothing(
    tiny: Any, tmp_path: Path
) -> None:
    shape = ["batch", 3, 4, 4]
    truth = helper.make_tensor_value_info("on", TensorProto.BOOL, [])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["still"]),
            helper.make_node("Mul", ["a", "a"], ["b"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            truth,
            helper.make_tensor_value_info("a", TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, shape),
        ],
    )
    most = helper.make_node("Constant", [], ["most"], value_int=2**62)
    loop = helper.make_node("Loop", ["most", "", "input"], ["logits"], body=body)
    path = tiny.write_model(tmp_path / "loop", [most, loop], {"input": shape}, {"logits": shape})
    code = """
threading.Thread(target=session.run, args=(x,), daemon=True).start()
time.sleep(0.1)
fork("run", lambda: session.run(x))
sys.exit(5)
"""
    assert outcome(path, FORK + code, threads=1) == (5, "run SessionClosedError True; ", "")


def test_what_runs_at_exit_before_ours_still_has_its_session(artifact: Path) -> None:
    code = (
        "import atexit; atexit.register(lambda: print(session.run(x)['logits'].shape)); sys.exit(5)"
    )
    assert outcome(artifact, code) == (5, "(1, 5)\n", "")


@posix
def test_a_forked_child_runs_what_it_can_and_is_told_of_the_rest(artifact: Path) -> None:
    code = """
want = session.run(x)["logits"]
def right(session):
    return np.array_equal(session.run(x)["logits"], want)
fork("nothing", lambda: 0)
fork("close", session.close)
fork("run", lambda: right(session))
pair = load(sys.argv[1], device="cpu", threads=2, instances=2)
fork("pair", lambda: right(pair))
alone = load(sys.argv[1], device="cpu", threads=1)
fork("alone", lambda: right(alone))
three = load(sys.argv[1], device="cpu", threads=1, instances=3)
fork("three", lambda: right(three))
b = Batcher(session, max_delay=0.5)
waiting = b.submit(x[0])
fork("batcher", lambda: b.run(x[0]))
fork("waiting", waiting.result)
fork("close batcher", b.close)
assert waiting.result() and b.run(x[0])
b.close()
assert right(session) and right(three)
"""
    assert outcome(artifact, FORK + code, threads=2) == (
        0,
        "nothing 0; close None; run SessionClosedError True; pair SessionClosedError True; "
        "alone True; three True; batcher BatcherClosedError True; waiting BatcherClosedError True; "
        "close batcher None; ",
        "",
    )


@posix
def test_no_more_threads_is_an_error_and_no_hang(artifact: Path) -> None:
    limit = """
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + 20 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (size, size))
try:
    CALL
except errors.ThreadLimitError as error:
    print(error)
"""
    for call in (
        "load(sys.argv[1], device='cpu', threads=8)",
        "[Batcher(session) for _ in range(8)]",
    ):
        status, out, err = outcome(artifact, limit.replace("CALL", call), threads=1)
        assert (status, err) == (0, "")
        assert "more threads" in out
        assert "ulimit" in out


def test_onnx_runtime_reports_to_nobody_unless_it_is_asked_to(artifact: Path) -> None:
    code = "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for given, used in ((None, "1"), ("0", "0")):
        with pytest.MonkeyPatch.context() as patch:
            if given is None:
                patch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
            else:
                patch.setenv("ORT_DISABLE_TELEMETRY", given)
            assert outcome(artifact, code) == (0, f"{used}\n", "")
