"""What TensorRT-RTX has besides: own graphs, specialization, kernels kept beside the engine."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_tensorrt import expected
from made_backend import Made, batch, library

from repr_runtime.backends.tensorrt.backend import TensorRTOptions
from repr_runtime.backends.tensorrt.kernel_cache import read_cache, write_cache


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
    assert write_cache(tmp_path / "a.engine", "a" * 64, b"kernels")
    assert read_cache(tmp_path / "a.engine", "a" * 64) == b"kernels"
    assert read_cache(tmp_path / "a.engine", "b" * 64) is None
    assert not write_cache(tmp_path / "nowhere" / "a.engine", "a" * 64, b"kernels")


def test_the_key_is_made_once_and_for_this_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPR_CACHE", str(tmp_path / "caches"))
    key, link = tmp_path / "caches" / "runtime-cache.key", os.link

    def late(beside: Path, path: Path) -> None:  # another process was first
        assert stat.S_IMODE(beside.stat().st_mode) == 0o600
        path.write_bytes(b"k" * 32)
        link(beside, path)

    monkeypatch.setattr(os, "link", late)
    for name in "ab":
        assert write_cache(tmp_path / name, "a" * 64, b"kernels")
        assert key.read_bytes() == b"k" * 32
    assert read_cache(tmp_path / "a", "a" * 64) == b"kernels"
    assert list(key.parent.iterdir()) == [key]
    key.unlink()
    monkeypatch.setattr(os, "link", link)
    assert write_cache(tmp_path / "c", "a" * 64, b"kernels")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.unlink()
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    assert not write_cache(tmp_path / "d", "a" * 64, b"kernels")
    assert list(key.parent.iterdir()) == []


def test_no_cache_where_none_is_wanted(make: Callable[..., Made], tmp_path: Path) -> None:
    make(rtx=True, options=TensorRTOptions(runtime_cache=False)).run(batch(1))
    assert not list(tmp_path.iterdir())
