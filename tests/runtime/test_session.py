"""A session in a service: threads, ownership of arrays, any memory layout, what it costs."""

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from repr_runtime import Session, load
from repr_runtime.backends.onnxruntime import version
from repr_runtime.errors import SessionClosedError


def test_eight_threads_give_bit_for_bit_what_one_gives(lenet5: Path) -> None:
    random = np.random.default_rng(0)
    batches = [random.standard_normal((1 + i % 3, 3, 32, 32)).astype(np.float32) for i in range(60)]
    with load(lenet5, device="cpu", threads=1) as session:
        alone = [session.run(batch)["logits"] for batch in batches]
        start = threading.Barrier(8)

        def work(first: int) -> list[tuple[int, NDArray[Any]]]:
            start.wait()
            turns = [(first * 7 + i) % len(batches) for i in range(len(batches))]
            return [(turn, session.run(batches[turn])["logits"]) for turn in turns]

        with ThreadPoolExecutor(8) as pool:
            together = [pair for done in pool.map(work, range(8)) for pair in done]
    assert len(together) == 480
    for turn, logits in together:
        assert np.array_equal(logits, alone[turn])


def test_threads_that_classify_images_of_differing_sizes(artifact: Path) -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (5 + i, 40 - i, 3), dtype=np.uint8) for i in range(30)]
    with load(artifact, device="cpu", threads=1) as session:
        alone = [session.classify(image) for image in images]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(session.classify, images * 4))
    assert together == alone * 4


@pytest.mark.parametrize("instances", [1, 2])
def test_closing_while_others_run(artifact: Path, instances: int) -> None:
    """Each run either comes to its end or says that the session is closed."""
    for _ in range(20 // instances):
        session = load(artifact, device="cpu", threads=1, instances=instances)
        running = threading.Barrier(5)
        with ThreadPoolExecutor(4) as pool:
            ends = [pool.submit(run_until_refused, session, running) for _ in range(4)]
            running.wait()
            time.sleep(0.002)
            session.close()
        assert [type(end.result()) for end in ends] == [SessionClosedError] * 4, ends


def run_until_refused(session: Session, running: threading.Barrier) -> Exception:
    x = np.zeros((1, 3, 4, 4), np.float32)
    running.wait()
    while True:
        try:
            session.run(x)
        except Exception as error:
            return error


def test_results_belong_to_the_caller(tiny: Any, artifact: Path) -> None:
    x = tiny.inputs(4)
    with load(artifact, device="cpu") as session:
        first, second = session.run(x)["logits"], session.run(x)["logits"]
        assert first.flags.writeable
        assert not np.shares_memory(first, second)
        assert not np.shares_memory(first, x)
        kept = second.copy()
        first[:] = -1
        assert np.array_equal(second, kept)
        third = session.run(x)["logits"]
        assert np.array_equal(third, kept)
    assert np.array_equal(second, kept)  # after closing too


def test_a_graph_that_hands_its_input_on_gives_a_copy(tiny: Any, tmp_path: Path) -> None:
    from onnx import helper

    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    path = tiny.write_model(tmp_path / "a", nodes, {"x": ("n", 2)}, {"y": ("n", 2)})
    x = np.ones((3, 2), np.float32)
    with load(path, device="cpu") as session:
        y = session.run(x)["y"]
        y[:] = 5
        assert np.array_equal(x, np.ones((3, 2)))


LAYOUTS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "read-only, one value for all": lambda x: np.broadcast_to(x[:1, :1, :1, :1], x.shape),
    "fortran": np.asfortranarray,
    "transposed": lambda x: x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
    "every second": lambda x: np.repeat(x, 2, axis=3)[..., ::2],
    "backwards": lambda x: x[::-1, :, ::-1].copy()[::-1, :, ::-1],
    "slice": lambda x: np.pad(x, ((1, 1), (2, 0), (3, 1), (0, 2)))[1:-1, 2:, 3:-1, :-2],
    "unaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), np.float32, offset=1).reshape(
        x.shape
    ),
    "subclass": lambda x: x.view(np.memmap),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_any_memory_layout(tiny: Any, artifact: Path, name: str) -> None:
    same = LAYOUTS[name](tiny.inputs(5))
    x = np.array(same, order="C")
    assert name.startswith("read-only") or np.array_equal(x, tiny.inputs(5))
    with load(artifact, device="cpu") as session:
        assert np.array_equal(session.run(same)["logits"], session.run(x)["logits"])
    assert np.array_equal(same, x)


def test_results_are_the_networks(tiny: Any, artifact: Path) -> None:
    x = tiny.inputs(7)
    mapping = {"input": x}
    with load(artifact, device="cpu") as session:
        for outputs in (session.run(x), session.run(input=x), session.run(mapping)):
            assert list(outputs) == ["logits"]
            np.testing.assert_allclose(outputs["logits"], tiny.logits(x), rtol=1e-4, atol=1e-5)
        assert list(mapping) == ["input"]
        assert session.batch_size is None
        assert "tiny fp32" in repr(session)
        assert session.choice == f"ONNX Runtime {version()} on cpu, as asked for"


def test_the_path_may_be_text_and_relative(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(artifact.parent)
    with load("tiny", device="cpu") as session:
        session.self_test()


def test_a_run_adds_ten_odd_calls_to_onnx_runtimes_own(lenet5: Path) -> None:
    """What a run costs, counted rather than timed: `repr_bench.overhead` times it."""
    x, calls = np.zeros((1, 3, 32, 32), np.float32), 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    with load(lenet5, device="cpu", threads=1) as session:
        session.run(x)
        sys.setprofile(count)
        try:
            session.run(x)
        finally:
            sys.setprofile(None)
    assert 2 < calls <= 16
