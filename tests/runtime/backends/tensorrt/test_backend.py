"""The TensorRT backend over a fake device and a fake engine that keep the rules of real ones."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import engine_bytes, expected
from made_backend import EAGER, Made, batch, engine_file, library
from refusals import refuses

from repr_runtime import errors
from repr_runtime.backends.tensorrt.backend import TensorRTBackend, TensorRTOptions
from repr_runtime.backends.tensorrt.lane import CudaGraphWarning


@pytest.mark.parametrize("options", [EAGER, TensorRTOptions()], ids=["eager", "graphs"])
@pytest.mark.parametrize("rtx", [False, True], ids=["tensorrt", "rtx"])
def test_every_batch_size_comes_out_right_again_and_again(
    make: Callable[..., Made], rtx: bool, options: TensorRTOptions
) -> None:
    made = make(rtx=rtx, options=options)
    for seed in range(3):
        made.computes(1, 2, 3, 4, 5, 8, 13, 16, 1, seed=seed)
    specs = [*map(str, made.backend.inputs), *map(str, made.backend.outputs)]
    assert specs == ["input: float32[batch, 3, 4, 4]", "logits: float32[batch, 5]"]
    assert (made.backend.name, made.backend.device) == ("tensorrt", "cuda:0")


def test_inputs_of_any_layout_and_outputs_of_ones_own(make: Callable[..., Made]) -> None:
    made = make()
    x = np.ascontiguousarray(batch(4).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not x.flags.c_contiguous
    first = made.run(x)
    kept = first.copy()
    x += 1
    second = made.run(x)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(second, expected(x))
    assert not np.shares_memory(first, second)


# CUDA graphs


def test_a_graph_is_captured_once_a_bucket_and_then_replayed(make: Callable[..., Made]) -> None:
    made = make()
    made.computes(3, 4, 3, 4, 3)  # all are padded to 4
    (context,) = made.engine.contexts
    assert context.rows == 4
    assert context.enqueued == 2  # eagerly, and into the capture
    assert made.cuda.launched == 1 + 4  # the check, and every run after the first
    made.computes(*(1, 2, 6, 12) * 2)  # each bucket in a context of its own
    assert sorted(c.rows for c in made.engine.contexts) == [1, 2, 4, 8, 16]
    assert all(c.enqueued == 2 for c in made.engine.contexts)


def test_with_no_context_left_a_bucket_is_captured_anew(make: Callable[..., Made]) -> None:
    made = make(options=TensorRTOptions(contexts=1))
    made.computes(1, 8, 1, 8)
    (context,) = made.engine.contexts
    assert context.enqueued == 2 * 4
    assert len(made.cuda.executables) == 1  # the earlier ones were destroyed


@pytest.mark.parametrize(
    ("defect", "reason"),
    [
        ("uncapturable", "the work to capture failed"),
        ("replays_wrongly", "its replay gives other values of 'logits' than the eager run"),
    ],
)
def test_a_graph_that_fails_is_said_once_and_runs_go_on(
    make: Callable[..., Made], defect: str, reason: str
) -> None:
    made = make(**{defect: True})
    with pytest.warns(CudaGraphWarning, match=f"no CUDA graph: {reason}.*; runs go on without"):
        made.computes(3)
    made.computes(4, 3, 7, 1)  # 4 is the size of the graph that was not kept
    assert made.cuda.calls.count("begin_capture") == 1
    assert not made.cuda.executables


def test_an_empty_graph_is_caught_by_its_count_or_its_replay(
    make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, uncounted = make(), make()
    made.engine.device = FakeCuda(1)  # as if it had been deserialized there
    with pytest.warns(CudaGraphWarning, match="the captured graph is empty.*another device"):
        made.run(batch(2))
    monkeypatch.setattr(uncounted.cuda, "count_nodes", lambda _: 1)
    monkeypatch.setattr(uncounted.cuda, "launch", lambda *_: None)
    with pytest.warns(CudaGraphWarning, match="other values of 'logits'"):
        uncounted.computes(2)


def test_nan_and_infinity_replay_as_they_ran(make: Callable[..., Made]) -> None:
    made = make(cuda=FakeCuda(1))
    assert (made.engine.device, made.backend.device) == (made.cuda, "cuda:1")
    assert FakeCuda.stack() == []
    x = batch(4)
    x[1], x[2, 0, 0, 0] = np.nan, np.inf
    for _ in range(2):
        np.testing.assert_array_equal(made.run(x), expected(x))
    assert made.cuda.launched == 2


# Profiles


def test_the_profile_with_the_nearest_optimum_is_taken(make: Callable[..., Made]) -> None:
    made = make(options=EAGER, profiles=((1, 1, 4), (2, 16, 32), (64, 64, 64)))
    for count, profile in ((1, 0), (4, 0), (12, 1), (32, 1), (64, 2)):
        made.computes(count)
        assert made.engine.contexts[-1].profile == profile


def test_eagerly_buffers_are_allocated_once_a_profile_and_nothing_is_captured(
    make: Callable[..., Made],
) -> None:
    made = make(options=EAGER, profiles=((1, 1, 4), (8, 16, 32)))
    made.computes(1, 2, 3, 4, 8, 9, 1, 2, 30)
    assert made.cuda.calls.count("allocate") == 2 * 2
    assert made.cuda.calls.count("allocate_pinned") == 2 * 2
    assert "begin_capture" not in made.cuda.calls
    assert [c.enqueued for c in made.engine.contexts] == [6, 3]


def test_a_batch_outside_all_profiles(make: Callable[..., Made]) -> None:
    made = make(profiles=((1, 1, 1), (4, 8, 16)))
    for count in (2, 17):
        with refuses(errors.BatchSizeError, f"batches of 1, 4 to 16, got {count}; ", "repr-export"):
            made.run(batch(count))
        assert made.backend.chunk(count) == 16
    assert made.backend.chunk(5) is None


def test_an_engine_of_a_fixed_batch(make: Callable[..., Made]) -> None:
    made = make(fixed=4, profiles=((4, 4, 4),))
    assert made.backend.inputs[0].shape == (4, 3, 4, 4)
    made.computes(4, 4, 4)
    assert made.cuda.launched == 3


# Threads


def test_threads_get_what_one_thread_gets(make: Callable[..., Made]) -> None:
    made = make(options=TensorRTOptions(contexts=3))
    assert made.backend.instances == 3
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(made.computes, 1 + i % 16, seed=i) for i in range(120)]:
            done.result()
    assert len(made.cuda.streams) <= 3


@contextmanager
def halted(made: Made, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Runs wait on the device until the event is set."""
    inside, go_on = threading.Event(), threading.Event()
    synchronize = made.cuda.synchronize

    def slow(stream: int | None = None) -> None:
        inside.set()
        assert go_on.wait(10)
        synchronize(stream)

    monkeypatch.setattr(made.cuda, "synchronize", slow)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(made.computes, 3)
        assert inside.wait(10)
        yield go_on
        running.result()


def test_a_run_waits_for_a_context(
    make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(options=TensorRTOptions(contexts=1, cuda_graphs=False))
    with halted(made, monkeypatch) as go_on, ThreadPoolExecutor(1) as pool:
        second = pool.submit(made.computes, 2)
        assert not second.done()
        go_on.set()
        second.result()
    assert len(made.engine.contexts) == 1


def test_too_little_memory_for_more_contexts_means_fewer(make: Callable[..., Made]) -> None:
    made = make(most_contexts=2)
    made.computes(1, 2, 4, 8, 16, 1)
    assert len(made.engine.contexts) == 2
    buffers = 16 * (48 + 5) * 4
    small = make(cuda=FakeCuda(memory=2 * buffers + 100))
    small.computes(1, 2, 4)
    assert len(small.cuda.streams) == 2


def test_too_little_memory_for_one(make: Callable[..., Made]) -> None:
    made = make(cuda=FakeCuda(memory=1000))
    with pytest.raises(errors.DeviceMemoryError, match="OUT_OF_MEMORY"):
        made.run(batch(1))
    none = make(most_contexts=0)
    with refuses(errors.DeviceMemoryError, "no context", "smaller largest batch: repr-export"):
        none.run(batch(1))


# Failures


def test_a_failed_run_costs_its_context_and_no_more(make: Callable[..., Made]) -> None:
    made = make(fails_after=3, options=EAGER)
    made.computes(2, 2, 2)
    with (
        refuses(errors.ExecutionError, "failed to run the engine (the kernel could not be"),
        ThreadPoolExecutor(1) as pool,
    ):
        pool.submit(made.run, batch(2)).result()  # in a thread that calls the library for once
    assert not made.cuda.streams
    made.computes(2)


@pytest.mark.parametrize("during", [False, True])
def test_a_lost_device_is_said_once_and_closes_the_session(
    make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch, during: bool
) -> None:
    made = make(options=EAGER)
    made.run(batch(1))
    if during:  # the library notices it
        run = type(made.engine.contexts[0]).execute_async_v3
        lose = lambda *given: bool(vars(made.cuda).update(lost=True)) and run(*given)  # noqa: E731
        monkeypatch.setattr(type(made.engine.contexts[0]), "execute_async_v3", lose)
    made.cuda.lost = not during
    lost = "cuda:0 is lost to this process (CUDA_ERROR_ILLEGAL_ADDRESS); start it again"
    with refuses(errors.DeviceLostError, lost):
        made.run(batch(1))
    with refuses(errors.SessionClosedError, f"the session was closed since {lost}"):
        made.run(batch(1))
    assert made.cuda.closed
    for kind in ("blocks", "pinned", "streams"):  # went with the device
        getattr(made.cuda, kind).clear()


def test_an_engine_that_the_library_refuses(tmp_path: Path) -> None:
    version, old = errors.EngineVersionError, engine_bytes(rtx=True, version="0")
    damaged = "which is damaged or no engine at all (Serialization"
    headers = ((1, version), (2, errors.WrongGpuError), (32, errors.EngineLoadError))
    for content, kind, reason, choices in (
        (b"ftrt{", errors.EngineLoadError, damaged, {}),
        (b"", errors.EngineLoadError, "damaged", {}),
        (engine_bytes(rtx=True), version, "tag mismatch", {"rtx": True}),
        (engine_bytes(version="10.0.1.6"), version, "another version built it", {}),
        *((old, kind, "", {"rtx": True, "validity": bits}) for bits, kind in headers),
    ):
        file, cuda = engine_file(content, tmp_path), FakeCuda()
        with refuses(kind, reason):
            TensorRTBackend(file, library(**choices), cuda, TensorRTOptions())
        assert cuda.closed
        assert cuda.leaks == {}


def test_a_gpu_that_the_library_refuses(tmp_path: Path) -> None:
    """As TensorRT-RTX does it on an H100: the header passes, and the list is the library's own."""
    file = engine_file(engine_bytes(rtx=True, version="1.7.1.116"), tmp_path)
    cuda = FakeCuda(capability="9.0")
    known = (
        "TensorRT-RTX does not run on this GPU (compute capability 9.0), but on compute capability "
        "8.0, 8.6, 8.9, 12.0, 12.1, >12.0; use device='cuda', or TensorRT itself"
    )
    with refuses(errors.UnsupportedGpuError, known):
        TensorRTBackend(file, library(rtx=True), cuda, TensorRTOptions())
    assert cuda.closed
    assert cuda.leaks == {}


def test_types_shapes_and_weights_that_cannot_be_run(make: Callable[..., Made]) -> None:
    with pytest.raises(errors.ModelLoadError, match=r"'input' of the engine is BF16, .*--io fp32"):
        make(dtype="BF16")
    made = make(data_dependent=True, options=EAGER)
    with pytest.raises(errors.ExecutionError, match="the shape of 'logits' depends on the data"):
        made.run(batch(1))
    with pytest.raises(errors.EngineLoadError, match=r"built without weights, and .*repr-export x"):
        make(stripped=True, graph=b"no graph")


# The end


def test_close_lets_a_run_come_to_its_end(
    make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(options=EAGER)
    with halted(made, monkeypatch) as go_on:
        made.backend.close()
        assert not made.cuda.closed
        go_on.set()
    assert made.cuda.closed
    assert made.cuda.leaks == {}
    with pytest.raises(errors.SessionClosedError):
        made.run(batch(1))
    made.backend.close()


# Timings


def test_timings_are_split_by_events(make: Callable[..., Made]) -> None:
    made = make(options=TensorRTOptions(timed=True))
    assert made.backend.timings is None
    for _ in range(2):  # eagerly, and replayed: the fake's clock says 2, 10 and 3, and 1 an event
        made.run(batch(2))
        timings = made.backend.timings
        assert timings is not None
        assert (timings.host_to_device, timings.compute, timings.device_to_host) == (3, 11, 4)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: made.backend.timings).result() is None
    untimed = make()
    untimed.run(batch(2))
    assert untimed.backend.timings is None
    assert "create_event" not in untimed.cuda.calls


def test_options_are_checked() -> None:
    for asked, words in (
        ({"specialization": "x"}, "specialization must be one of lazy, eager, none, got 'x'"),
        ({"contexts": 0}, "contexts must be a whole number, 1 or more, got 0"),
        ({"gpu": -1}, "gpu must be a whole number, 0 or more, got -1"),
    ):
        with refuses(errors.OptionError, words):
            TensorRTOptions(**asked)
