"""CUDA's libraries are loaded out of packages: those of the right version, in order, none twice."""

import ctypes
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repr_runtime.cuda import libraries


class Loader:
    """The dynamic loader: what is there by name, and each path that was loaded."""

    def __init__(self, *there: str) -> None:
        self.there, self.loaded = there, list[str]()

    def __call__(self, name: str, mode: int) -> None:
        if mode & os.RTLD_NOLOAD:
            if name not in self.there:
                raise OSError(f"{name} is not loaded")
            return
        if name.endswith("broken/lib/libcurand.so.10"):
            raise OSError("invalid ELF header")
        self.loaded.append(name)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """NVIDIA's packages as CUDA 13 lays them out, in two places on the path, beside those of 12."""
    for file in (
        *("one/broken/lib/libcurand.so.10", "one/cu13/lib/libcublas.so.13"),
        *("one/cu13/lib/libcublasLt.so.13", "one/cublas/lib/libcublas.so.12"),
        *("two/cudnn/lib/libcudnn.so.9", "two/cu13/lib/libcudart.so.13"),
        *("two/curand/lib/libcurand.so.10", "two/cu13/lib/libcufft.so.12"),
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path / n) for n in ("one", "two")])
    found: dict[str, Any] = {"nvidia": spec}
    monkeypatch.setattr(libraries.importlib.util, "find_spec", found.get)
    monkeypatch.setattr(libraries, "preload", libraries.preload.__wrapped__)
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="libraries are preloaded on Linux")
def test_each_is_loaded_once_after_those_that_it_needs(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", loader := Loader("libcublasLt.so.13"))
    assert libraries.preload("13.0") == tuple(loader.loaded)
    assert [str(Path(path).relative_to(packages)) for path in loader.loaded] == [
        "two/cu13/lib/libcudart.so.13",
        "one/cu13/lib/libcublas.so.13",  # what it needs is there already
        "two/curand/lib/libcurand.so.10",  # the first was none
        "two/cu13/lib/libcufft.so.12",
        "two/cudnn/lib/libcudnn.so.9",
    ]
    loader.loaded.clear()
    assert [Path(path).name for path in libraries.preload("12.8")] == [
        *("libcublas.so.12", "libcurand.so.10", "libcudnn.so.9")
    ]
    assert libraries.preload("") == ()


def test_without_packages_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(ctypes, "CDLL", loader := Loader())
    assert libraries.preload.__wrapped__("13.0") == ()
    assert loader.loaded == []
