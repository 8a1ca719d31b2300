"""The TensorRT backend over a fake device and a fake engine that keep the rules of real ones."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
from fake_cuda import BrokenRuleError, FakeCuda
from fake_drivers import install
from fake_tensorrt import engine_bytes, expected

from repr_runtime.backends.tensorrt.backend import EngineFile, TensorRTBackend, TensorRTOptions
from repr_runtime.backends.tensorrt.lane import CudaGraphWarning
from repr_runtime.backends.tensorrt.library import EDITIONS, Library
from repr_runtime.cuda.bindings import BindingsCuda
from repr_runtime.cuda.device import Cuda
from repr_runtime.errors import (
    BatchSizeError,
    CudaError,
    DeviceMemoryError,
    EngineLoadError,
    EngineVersionError,
    ExecutionError,
    ModelLoadError,
    SessionClosedError,
    WrongGpuError,
)

EAGER = TensorRTOptions(cuda_graphs=False)


def library(rtx: bool = False, **choices: Any) -> Library:
    flavour = EDITIONS["tensorrt-rtx" if rtx else "tensorrt"]
    return Library(flavour, fake_tensorrt.module(rtx=rtx, **choices))


def engine_file(content: bytes, folder: Path, **choices: Any) -> EngineFile:
    return EngineFile(content, folder / "fp16.engine", "0" * 64, "repr-export x", **choices)


class Made:
    """A backend, and what it was made of."""

    def __init__(self, folder: Path, **choices: Any) -> None:
        rtx = choices.pop("rtx", False)
        options = choices.pop("options", TensorRTOptions())
        self.cuda = choices.pop("cuda", None) or FakeCuda()
        self.library = choices.pop("library", None) or library(rtx)
        graph = choices.pop("graph", None)
        content = engine_bytes(rtx=rtx, version=self.library.version, **choices)
        file = engine_file(content, folder, graph=graph)
        self.backend = TensorRTBackend(file, self.library, self.cuda, options)

    @property
    def trt(self) -> Any:
        return self.library.trt

    @property
    def engine(self) -> Any:
        return self.trt.engines[-1]

    def run(self, x: np.ndarray) -> np.ndarray:
        (logits,) = self.backend.run({"input": x})
        return logits


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Made]]:
    made: list[Made] = []

    def make(**choices: Any) -> Made:
        made.append(Made(tmp_path, **choices))
        return made[-1]

    yield make
    for each in made:
        each.backend.close()
        gc.collect()
        assert each.cuda.closed
        assert each.cuda.leaks == {}


def batch(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng([seed, count])
    return random.standard_normal((count, 3, 4, 4)).astype(np.float32)


@pytest.mark.parametrize("options", [EAGER, TensorRTOptions()], ids=["eager", "graphs"])
@pytest.mark.parametrize("rtx", [False, True], ids=["tensorrt", "rtx"])
def test_every_batch_size_comes_out_right_again_and_again(
    make: Callable[..., Made], rtx: bool, options: TensorRTOptions
) -> None:
    made = make(rtx=rtx, options=options)
    for seed in range(3):
        for count in (1, 2, 3, 4, 5, 8, 13, 16, 1):
            x = batch(count, seed)
            np.testing.assert_array_equal(made.run(x), expected(x))


def test_the_specs_are_those_of_the_engine(make: Callable[..., Made]) -> None:
    backend = make().backend
    assert [str(s) for s in backend.inputs] == ["input: float32[batch, 3, 4, 4]"]
    assert [str(s) for s in backend.outputs] == ["logits: float32[batch, 5]"]
    assert (backend.name, backend.device) == ("tensorrt", "cuda:0")


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
    for count in (3, 4, 3, 4, 3):  # all are padded to 4
        made.run(batch(count))
    (context,) = made.engine.contexts
    assert context.rows == 4
    assert context.enqueued == 2  # eagerly, and into the capture
    assert made.cuda.launched == 1 + 4  # the check, and every run after the first


def test_each_bucket_has_a_context_of_its_own(make: Callable[..., Made]) -> None:
    made = make()
    for _ in range(2):
        for count in (1, 2, 3, 6, 12):
            made.run(batch(count))
    assert sorted(c.rows for c in made.engine.contexts) == [1, 2, 4, 8, 16]
    assert all(c.enqueued == 2 for c in made.engine.contexts)


def test_with_no_context_left_a_bucket_is_captured_anew(make: Callable[..., Made]) -> None:
    made = make(options=TensorRTOptions(contexts=1))
    for count in (1, 8, 1, 8):
        x = batch(count)
        np.testing.assert_array_equal(made.run(x), expected(x))
    (context,) = made.engine.contexts
    assert context.enqueued == 2 * 4
    assert len(made.cuda.executables) == 1  # the earlier ones were destroyed


def test_nothing_is_captured_where_graphs_are_not_wanted(make: Callable[..., Made]) -> None:
    made = make(options=EAGER)
    for count in (3, 3, 5):
        made.run(batch(count))
    assert "begin_capture" not in made.cuda.calls
    assert [c.enqueued for c in made.engine.contexts] == [3]


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
    x = batch(3)
    with pytest.warns(CudaGraphWarning, match=f"no CUDA graph: {reason}.*; runs go on without"):
        np.testing.assert_array_equal(made.run(x), expected(x))
    for count in (4, 3, 7, 1):  # 4 is the size of the graph that was not kept
        x = batch(count)
        np.testing.assert_array_equal(made.run(x), expected(x))
    assert made.cuda.calls.count("begin_capture") == 1
    assert not made.cuda.executables


def test_an_empty_graph_is_caught(make: Callable[..., Made]) -> None:
    made = make()
    made.engine.device = FakeCuda(1)  # as if it had been deserialized there
    with pytest.warns(CudaGraphWarning, match="the captured graph is empty.*another device"):
        made.run(batch(2))


def test_an_empty_graph_that_is_not_counted_is_caught_by_its_replay(
    make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make()
    monkeypatch.setattr(made.cuda, "count_nodes", lambda _: 1)
    monkeypatch.setattr(made.cuda, "launch", lambda *_: None)
    x = batch(2)
    with pytest.warns(CudaGraphWarning, match="other values of 'logits'"):
        np.testing.assert_array_equal(made.run(x), expected(x))


def test_the_engine_is_deserialized_with_its_device_current(make: Callable[..., Made]) -> None:
    cuda = FakeCuda(1)
    made = make(cuda=cuda)
    assert made.engine.device is cuda
    assert made.backend.device == "cuda:1"
    assert FakeCuda.stack() == []


def test_nan_and_infinity_replay_as_they_ran(make: Callable[..., Made]) -> None:
    made = make()
    x = batch(4)
    x[1], x[2, 0, 0, 0] = np.nan, np.inf
    for _ in range(2):
        np.testing.assert_array_equal(made.run(x), expected(x))
    assert made.cuda.launched == 2


# Profiles


def test_the_profile_with_the_nearest_optimum_is_taken(make: Callable[..., Made]) -> None:
    made = make(options=EAGER, profiles=((1, 1, 4), (2, 16, 32), (64, 64, 64)))
    for count, profile in ((1, 0), (4, 0), (12, 1), (32, 1), (64, 2)):
        x = batch(count)
        np.testing.assert_array_equal(made.run(x), expected(x))
        assert made.engine.contexts[-1].profile == profile


def test_buffers_are_allocated_once_a_profile(make: Callable[..., Made]) -> None:
    made = make(options=EAGER, profiles=((1, 1, 4), (8, 16, 32)))
    for count in (1, 2, 3, 4, 8, 9, 1, 2, 30):
        made.run(batch(count))
    assert made.cuda.calls.count("allocate") == 2 * 2
    assert made.cuda.calls.count("allocate_pinned") == 2 * 2


def test_a_batch_outside_all_profiles(make: Callable[..., Made]) -> None:
    made = make(profiles=((1, 1, 1), (4, 8, 16)))
    for count in (2, 17):
        with pytest.raises(
            BatchSizeError, match=f"batches of 1, 4 to 16, got {count}; .*repr-export"
        ):
            made.run(batch(count))
        assert made.backend.chunk(count) == 16
    assert made.backend.chunk(5) is None


def test_an_engine_of_a_fixed_batch(make: Callable[..., Made]) -> None:
    made = make(fixed=4, profiles=((4, 4, 4),))
    assert made.backend.inputs[0].shape == (4, 3, 4, 4)
    for seed in range(3):
        x = batch(4, seed)
        np.testing.assert_array_equal(made.run(x), expected(x))
    assert made.cuda.launched == 3


# Threads


def test_threads_get_what_one_thread_gets(make: Callable[..., Made]) -> None:
    made = make(options=TensorRTOptions(contexts=3))
    assert made.backend.instances == 3
    work = [batch(1 + seed % 16, seed) for seed in range(120)]
    alone = [made.run(x) for x in work]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(made.run, work))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(made.cuda.streams) <= 3


def test_a_run_waits_for_a_context(
    make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(options=TensorRTOptions(contexts=1, cuda_graphs=False))
    inside, go_on = threading.Event(), threading.Event()
    synchronize = made.cuda.synchronize

    def slow(stream: int | None = None) -> None:
        inside.set()
        assert go_on.wait(10)
        synchronize(stream)

    monkeypatch.setattr(made.cuda, "synchronize", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(made.run, batch(1))
        assert inside.wait(10)
        second = pool.submit(made.run, batch(2))
        assert not second.done()
        go_on.set()
        np.testing.assert_array_equal(first.result(), expected(batch(1)))
        np.testing.assert_array_equal(second.result(), expected(batch(2)))
    assert len(made.engine.contexts) == 1


def test_too_little_memory_for_more_contexts_means_fewer(make: Callable[..., Made]) -> None:
    made = make(most_contexts=2)
    for count in (1, 2, 4, 8, 16, 1):
        x = batch(count)
        np.testing.assert_array_equal(made.run(x), expected(x))
    assert len(made.engine.contexts) == 2
    buffers = 16 * (48 + 5) * 4
    small = make(cuda=FakeCuda(memory=2 * buffers + 100))
    for count in (1, 2, 4):
        small.run(batch(count))
    assert len(small.cuda.streams) == 2


def test_too_little_memory_for_one(make: Callable[..., Made]) -> None:
    made = make(cuda=FakeCuda(memory=1000))
    with pytest.raises(DeviceMemoryError, match="OUT_OF_MEMORY"):
        made.run(batch(1))
    none = make(most_contexts=0)
    with pytest.raises(DeviceMemoryError, match=r"no context.*smaller largest batch: repr-export"):
        none.run(batch(1))


@pytest.mark.parametrize("pycuda", [False, True], ids=["cuda.bindings", "PyCUDA"])
def test_through_each_binding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pycuda: bool
) -> None:
    device = FakeCuda()
    install(device, monkeypatch, pycuda=pycuda)
    if pycuda:
        from repr_runtime.cuda.pycuda import PyCuda

        cuda: Cuda = PyCuda()
    else:
        cuda = BindingsCuda()
    made = Made(tmp_path, cuda=cuda, options=TensorRTOptions(timed=True))
    for count in (3, 4, 1, 16, 3):
        x = batch(count)
        np.testing.assert_array_equal(made.run(x), expected(x))
    assert made.backend.timings is not None
    assert device.launched
    made.backend.close()
    assert device.closed
    assert device.leaks == {}


# Failures


def test_a_failed_run_costs_its_context_and_no_more(make: Callable[..., Made]) -> None:
    made = make(fails_after=3, options=EAGER)
    for _ in range(3):
        made.run(batch(2))
    with pytest.raises(ExecutionError, match=r"failed to run the engine .the kernel could not be"):
        made.run(batch(2))
    assert not made.cuda.streams
    np.testing.assert_array_equal(made.run(batch(2)), expected(batch(2)))


def test_a_lost_device_is_an_error_each_time(make: Callable[..., Made]) -> None:
    made = make(options=EAGER)
    made.run(batch(1))
    made.cuda.lost = True
    for _ in range(2):
        with pytest.raises(CudaError, match="ILLEGAL_ADDRESS"):
            made.run(batch(1))
    made.cuda.lost = False
    for kind in ("blocks", "pinned", "streams"):  # went with the device
        getattr(made.cuda, kind).clear()


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (b"ftrt{", EngineLoadError, "which is damaged or no engine at all .Serialization"),
        (b"", EngineLoadError, "damaged"),
        (engine_bytes(version="10.0.1.6"), EngineVersionError, "another version built it"),
    ],
    ids=["damaged", "empty", "version"],
)
def test_an_engine_that_the_library_refuses(
    tmp_path: Path, content: bytes, kind: type[Exception], reason: str
) -> None:
    cuda = FakeCuda()
    with pytest.raises(EngineLoadError, match=reason) as caught:
        TensorRTBackend(engine_file(content, tmp_path), library(), cuda, TensorRTOptions())
    assert type(caught.value) is kind
    assert cuda.closed
    assert cuda.leaks == {}


def test_the_header_says_why_an_engine_is_refused(tmp_path: Path) -> None:
    for bits, kind in ((1, EngineVersionError), (2, WrongGpuError), (32, EngineLoadError)):
        rtx = library(rtx=True, validity=bits)
        file = engine_file(engine_bytes(rtx=True, version="0"), tmp_path)
        with pytest.raises(EngineLoadError) as caught:
            TensorRTBackend(file, rtx, FakeCuda(), TensorRTOptions())
        assert type(caught.value) is kind


def test_types_and_shapes_that_cannot_be_run(make: Callable[..., Made]) -> None:
    with pytest.raises(ModelLoadError, match=r"'input' of the engine is BF16, .*--io fp32"):
        make(dtype="BF16")
    made = make(data_dependent=True, options=EAGER)
    with pytest.raises(ExecutionError, match="the shape of 'logits' depends on the data"):
        made.run(batch(1))


def test_an_engine_without_weights_gets_them_from_the_graph(make: Callable[..., Made]) -> None:
    made = make(stripped=True, graph=b"\x08graph")
    assert made.engine.refitted_from == b"\x08graph"
    np.testing.assert_array_equal(made.run(batch(2)), expected(batch(2)))
    with pytest.raises(EngineLoadError, match=r"built without weights, and .*repr-export x"):
        make(stripped=True, graph=b"no graph")


# The end


def test_after_close(make: Callable[..., Made]) -> None:
    made = make()
    made.run(batch(1))
    made.backend.close()
    assert made.cuda.closed
    assert made.cuda.leaks == {}
    with pytest.raises(SessionClosedError):
        made.run(batch(1))
    made.backend.close()


def test_close_lets_a_run_come_to_its_end(
    make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(options=EAGER)
    inside, go_on = threading.Event(), threading.Event()
    synchronize = made.cuda.synchronize

    def slow(stream: int | None = None) -> None:
        inside.set()
        assert go_on.wait(10)
        synchronize(stream)

    monkeypatch.setattr(made.cuda, "synchronize", slow)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(made.run, batch(3))
        assert inside.wait(10)
        made.backend.close()
        assert not made.cuda.closed
        go_on.set()
        np.testing.assert_array_equal(running.result(), expected(batch(3)))
    assert made.cuda.closed
    assert made.cuda.leaks == {}


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


def test_nothing_is_timed_unless_asked(make: Callable[..., Made]) -> None:
    made = make()
    made.run(batch(2))
    assert made.backend.timings is None
    assert "create_event" not in made.cuda.calls


# TensorRT-RTX


def test_rtx_captures_graphs_itself(make: Callable[..., Made]) -> None:
    made = make(rtx=True)
    for count in (3, 3, 5):
        made.run(batch(count))
    assert "begin_capture" not in made.cuda.calls
    (config,) = made.trt.configs
    assert config.cuda_graph_strategy is made.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    (context,) = made.engine.contexts
    assert context.config is config
    assert context.rows == 5  # nothing is padded


@pytest.mark.parametrize("strategy", ["lazy", "eager", "none"])
def test_rtx_specializes_as_told(make: Callable[..., Made], strategy: str) -> None:
    made = make(rtx=True, options=TensorRTOptions(specialization=strategy, cuda_graphs=False))
    (config,) = made.trt.configs
    assert config.dynamic_shapes_kernel_specialization_strategy.name == strategy.upper()
    assert config.cuda_graph_strategy == "DISABLED"


def test_an_rtx_without_own_graphs_is_captured_as_tensorrt_is(make: Callable[..., Made]) -> None:
    old = library(rtx=True)
    del old.trt.CudaGraphStrategy
    made = make(rtx=True, library=old)
    for _ in range(2):
        np.testing.assert_array_equal(made.run(batch(3)), expected(batch(3)))
    assert made.cuda.launched == 2


@pytest.fixture
def own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))


@pytest.mark.usefixtures("own_key")
def test_what_rtx_compiled_is_kept_beside_the_engine(
    make: Callable[..., Made], tmp_path: Path
) -> None:
    first = make(rtx=True)
    assert first.trt.configs[0].cache.kernels == 0
    first.run(batch(1))
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["fp16.engine.runtime-cache"]
    assert make(rtx=True).trt.configs[0].cache.kernels == 3
    newer = make(rtx=True, library=library(rtx=True, version="1.8.0.1"))  # the library says no
    assert newer.trt.configs[0].cache.kernels == 0


@pytest.mark.usefixtures("own_key")
def test_a_cache_that_is_not_ones_own_is_not_read(
    make: Callable[..., Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(rtx=True).run(batch(1))
    cache = tmp_path / "fp16.engine.runtime-cache"
    good = cache.read_bytes()
    for bad in (b"", good[:10], good[:-1], good[:40] + b"?" + good[41:], good[32:]):
        cache.write_bytes(bad)
        assert make(rtx=True).trt.configs[0].cache.kernels == 0
    cache.write_bytes(good)
    assert make(rtx=True).trt.configs[0].cache.kernels == 3
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another user"))
    assert make(rtx=True).trt.configs[0].cache.kernels == 0


@pytest.mark.usefixtures("own_key")
def test_a_cache_of_another_engine_is_not_read(tmp_path: Path) -> None:
    from repr_runtime.backends.tensorrt.kernel_cache import read_cache, write_cache

    assert write_cache(tmp_path / "a.engine", "a" * 64, b"kernels")
    assert read_cache(tmp_path / "a.engine", "a" * 64) == b"kernels"
    assert read_cache(tmp_path / "a.engine", "b" * 64) is None
    assert not write_cache(tmp_path / "nowhere" / "a.engine", "a" * 64, b"kernels")


def test_no_cache_where_none_is_wanted(make: Callable[..., Made], tmp_path: Path) -> None:
    make(rtx=True, options=TensorRTOptions(runtime_cache=False)).run(batch(1))
    assert not list(tmp_path.iterdir())


def test_options_are_checked() -> None:
    with pytest.raises(
        ValueError, match="specialization must be one of lazy, eager, none, got 'x'"
    ):
        TensorRTOptions(specialization="x")
    with pytest.raises(ValueError, match="contexts must be at least 1, got 0"):
        replace(EAGER, contexts=0)
    with pytest.raises(ValueError, match="gpu must be 0 or more, got -1"):
        replace(EAGER, gpu=-1)


# The fakes themselves: a rule that they did not keep would prove nothing.


@pytest.fixture
def bare() -> Iterator[tuple[FakeCuda, Any, int]]:
    """A device that is current, a context of an engine with addresses set, and a stream."""
    cuda = FakeCuda()
    with cuda.current():
        trt = fake_tensorrt.module()

        class Quiet(trt.ILogger):
            def log(self, *_: Any) -> None:
                return

        context = trt.Runtime(Quiet()).deserialize_cuda_engine(engine_bytes())
        context = context.create_execution_context()
        context.set_input_shape("input", (2, 3, 4, 4))
        for name, size in (("input", 2 * 48 * 4), ("logits", 2 * 5 * 4)):
            context.set_tensor_address(name, cuda.allocate(size))
        yield cuda, context, cuda.create_stream()


def test_the_fake_refuses_a_capture_before_a_warm_up(bare: tuple[FakeCuda, Any, int]) -> None:
    cuda, context, stream = bare
    with pytest.raises(CudaError, match="the work to capture failed"):
        cuda.capture(stream, lambda: context.execute_async_v3(stream))
    assert context.execute_async_v3(stream)
    cuda.synchronize(stream)
    cuda.launch(cuda.capture(stream, lambda: context.execute_async_v3(stream)), stream)
    cuda.synchronize(stream)


def test_the_fake_freezes_addresses_and_shapes(bare: tuple[FakeCuda, Any, int]) -> None:
    cuda, context, stream = bare
    assert context.execute_async_v3(stream)
    graph = cuda.capture(stream, lambda: context.execute_async_v3(stream))
    context.set_input_shape("input", (1, 3, 4, 4))
    cuda.launch(graph, stream)
    with pytest.raises(BrokenRuleError, match="shapes or addresses changed"):
        cuda.synchronize(stream)


def test_the_fake_invalidates_a_capture_that_synchronizes(bare: tuple[FakeCuda, Any, int]) -> None:
    cuda, _, stream = bare
    with pytest.raises(CudaError, match="STREAM_CAPTURE_UNSUPPORTED"):
        cuda.capture(stream, lambda: bool(cuda.synchronize(stream)))
    cuda.synchronize(stream)  # the capture was ended


def test_the_fake_keeps_contexts_to_one_thread(bare: tuple[FakeCuda, Any, int]) -> None:
    _, context, stream = bare
    with context.threads, pytest.raises(BrokenRuleError, match="two threads at once"):
        context.execute_async_v3(stream)


def test_the_fake_wants_pinned_memory_and_a_current_device() -> None:
    cuda = FakeCuda()
    with pytest.raises(BrokenRuleError, match="without the device's context"):
        cuda.allocate(1)
    with cuda.current():
        stream, address = cuda.create_stream(), cuda.allocate(4)
        with pytest.raises(BrokenRuleError, match="not pinned"):
            cuda.to_device(address, np.zeros(4, np.uint8), stream)
        cuda.copy(address + 2, address, 4, stream)
        with pytest.raises(CudaError, match="ILLEGAL_ADDRESS"):
            cuda.synchronize(stream)


def test_warnings_are_errors_here() -> None:
    with pytest.raises(CudaGraphWarning):
        warnings.warn("x", CudaGraphWarning, stacklevel=1)
