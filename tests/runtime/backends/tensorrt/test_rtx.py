"""What TensorRT-RTX has besides: own graphs, specialization, kernels kept beside the engine."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_backend import Made, batch, library

from repr_runtime.backends.compiled_cache import read_cache, write_cache
from repr_runtime.backends.tensorrt.backend import TensorRTOptions


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
    made.computes(3, 3)
    assert made.cuda.launched == 2


def test_what_rtx_compiled_is_kept_beside_the_engine_for_oneself_alone(
    make: Callable[..., Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kernels(**choices: Any) -> int:
        return make(rtx=True, **choices).trt.configs[0].cache.kernels

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert kernels() == 0
    make(rtx=True, options=TensorRTOptions(runtime_cache=False)).run(batch(1))
    assert not list(tmp_path.iterdir())
    make(rtx=True).run(batch(1))
    (cache,) = (p for p in tmp_path.iterdir() if p.is_file())
    assert cache.name == "fp16.engine.runtime-cache"
    assert kernels() == 3
    assert kernels(library=library(rtx=True, version="1.8.0.1")) == 0  # the library says no
    good = cache.read_bytes()
    for bad in (b"", good[:10], good[:-1], good[:40] + b"?" + good[41:], good[32:]):
        cache.write_bytes(bad)
        assert kernels() == 0
    cache.write_bytes(good)
    assert kernels() == 3
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another user"))
    assert kernels() == 0


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
    assert read_cache(tmp_path / "a", "b" * 64) is None  # another engine's
    assert not write_cache(tmp_path / "nowhere" / "a", "a" * 64, b"kernels")
    assert list(key.parent.iterdir()) == [key]
    key.unlink()
    monkeypatch.setattr(os, "link", link)
    assert write_cache(tmp_path / "c", "a" * 64, b"kernels")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.unlink()
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    assert not write_cache(tmp_path / "d", "a" * 64, b"kernels")
    assert list(key.parent.iterdir()) == []
