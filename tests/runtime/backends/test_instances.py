"""Several instances of a graph behind one session: who runs where, what is shared, closing."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_place import Place

from repr_runtime import TensorRTOptions, load
from repr_runtime.artifact.reading import read_manifest
from repr_runtime.backends.instances import Instances
from repr_runtime.backends.onnxruntime import OnnxRuntimeBackend
from repr_runtime.backends.tuning import Setting
from repr_runtime.errors import SessionClosedError


class FakeBackend:
    """Answers with its name and the feed once ``gate`` is opened; notes if two runs meet in it."""

    inputs = outputs = ()
    device = "cpu"

    def __init__(self, name: str, gate: threading.Event) -> None:
        self.name, self.gate = name, gate
        self.entered = threading.Semaphore(0)
        self.inside = threading.Lock()
        self.closed = False

    def run(self, feed: Any) -> list[Any]:
        if self.closed:
            raise SessionClosedError("closed")
        assert self.inside.acquire(blocking=False), "two runs in one instance"
        try:
            self.entered.release()
            assert self.gate.wait(10)
            return [self.name, feed]
        finally:
            self.inside.release()

    def close(self) -> None:
        self.closed = True


def test_runs_are_spread_over_the_idle_instances_and_no_two_meet() -> None:
    gate = threading.Event()
    fakes = [FakeBackend(str(i), gate) for i in range(3)]
    backend = Instances(fakes)  # type: ignore[arg-type]
    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(backend.run, {"x": i}) for i in range(8)]
        assert all(fake.entered.acquire(timeout=10) for fake in fakes)
        time.sleep(0.02)
        assert sum(run.done() for run in runs) == 0
        gate.set()
        names, feeds = zip(*(run.result(10) for run in runs), strict=True)
    assert set(names) == {"0", "1", "2"}
    assert feeds == tuple({"x": i} for i in range(8))  # none is cut


def test_a_run_that_fails_gives_its_instance_back_and_closing_tells_those_who_wait() -> None:
    gate = threading.Event()
    fake = FakeBackend("0", gate)
    backend = Instances([fake])  # type: ignore[list-item]
    with fake.inside:  # a run that fails gives its instance back
        for _ in range(3):
            with pytest.raises(AssertionError, match="two runs"):
                backend.run({})
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(backend.run, {})
        assert fake.entered.acquire(timeout=10)
        waiting = [pool.submit(backend.run, {}) for _ in range(3)]
        backend.close()
        gate.set()
        assert first.result(10) == ["0", {}]
        assert all(isinstance(run.exception(10), SessionClosedError) for run in waiting)


@pytest.mark.parametrize(("threads", "sessions"), [(1, 1), (2, 3)])
def test_instances_of_one_thread_share_one_session(
    artifact: Path, tiny: Any, threads: int, sessions: int
) -> None:
    x = tiny.inputs(4)
    with load(artifact, device="cpu", threads=threads, instances=3) as session:
        assert isinstance(session.backend, Instances)
        assert (session.instances, len(session.backend.sessions)) == (3, sessions)
        each = "1 thread" if threads == 1 else "2 threads"
        assert f"on cpu, 3 instances of {each}, as asked for" in session.choice
        np.testing.assert_allclose(session.run(x)["logits"], tiny.logits(x), rtol=1e-4, atol=1e-5)
        session.self_test()
        assert session.timings is None
    with pytest.raises(SessionClosedError):
        session.run(x)


def test_the_cores_are_shared_out(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, each in ((7, "2 threads"), (2, "1 thread")):
        monkeypatch.setattr("repr_runtime.loading.usable_cores", lambda cores=cores: cores)
        with load(artifact, instances=3) as session:
            if session.device == "cpu":
                assert f"3 instances of {each}; not on cuda" in session.choice


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no such thing here")
def test_a_process_bound_to_one_core_keeps_to_it(artifact: Path) -> None:
    code = (
        "import os, sys, numpy, repr_runtime\n"
        "os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})\n"
        "with repr_runtime.load(sys.argv[1], device='cpu') as session:\n"
        "    session.run(numpy.zeros((1, 3, 4, 4), numpy.float32))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(artifact)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""  # where the library says of each thread that it could not be bound


def test_no_instance_is_left_open_where_a_later_one_fails(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[OnnxRuntimeBackend] = []
    closed: list[OnnxRuntimeBackend] = []

    def make(self: OnnxRuntimeBackend, *_: Any, **__: Any) -> None:
        if len(opened) == 2:
            raise MemoryError
        opened.append(self)

    monkeypatch.setattr(OnnxRuntimeBackend, "__init__", make)
    monkeypatch.setattr(OnnxRuntimeBackend, "close", lambda self: closed.append(self))
    with pytest.raises(MemoryError):
        load(artifact, device="cpu", threads=2, instances=3)
    assert closed == opened[::-1]
    assert len(closed) == 2


def test_of_an_engine_they_are_the_contexts(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Place(tmp_path / "a", tiny, monkeypatch).write("tensorrt")
    for instances, contexts in ((None, 5), (3, 3)):
        options = TensorRTOptions(contexts=5)
        with load(path, device="tensorrt", instances=instances, options=options) as session:
            assert session.instances == contexts


def test_little_work_runs_on_the_calling_thread(
    artifact: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repr_runtime.loading.usable_cores", lambda: 2)
    work = read_manifest(artifact).network.multiply_adds
    assert work
    monkeypatch.setattr("repr_runtime.loading._LITTLE", 2 * work)
    with load(artifact, device="cpu") as session:
        backend = session.backend
        assert isinstance(backend, OnnxRuntimeBackend)
        ran: list[str] = []
        for name in ("_run", "_run_small"):
            run = getattr(backend, name)
            monkeypatch.setattr(
                backend, name, lambda *args, run=run, name=name: ran.append(name) or run(*args)
            )
        for count in (1, 2, 3):
            x = tiny.inputs(count)
            got = session.run(x)["logits"]
            np.testing.assert_allclose(got, tiny.logits(x), rtol=1e-4, atol=1e-5)
    assert ran == ["_run_small", "_run_small", "_run"]
    with pytest.raises(SessionClosedError):
        backend.run({"input": tiny.inputs(1)})


@pytest.mark.parametrize("asked", [{"threads": 2}, {"tuned": Setting()}, {"instances": 2}])
def test_threads_that_were_asked_for_run_little_work_too(
    artifact: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repr_runtime.loading.usable_cores", lambda: 4)
    made: list[int] = []
    init = OnnxRuntimeBackend.__init__

    def noted(self: Any, *args: Any, **named: Any) -> None:
        made.append(named["single_thread_batch"])
        init(self, *args, **named)

    monkeypatch.setattr(OnnxRuntimeBackend, "__init__", noted)
    load(artifact, device="cpu", **asked).close()
    assert set(made) == {0}
    for alone in (None, 1):
        with load(artifact, device="cpu", instances=alone) as session:  # the library itself
            assert isinstance(session.backend, OnnxRuntimeBackend)
            assert "instances" not in session.choice
        assert made[-1] > 0
