"""CUDA's libraries out of NVIDIA's Python packages, where the dynamic loader does not look.

Whoever is linked against them (ONNX Runtime's CUDA provider) finds what is loaded already by its
name. So they are loaded before, wherever on ``sys.path`` the packages lie; torch brings them.
"""

import ctypes
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

# In this order: each needs those before it.
_NEEDED = (
    "libcudart.so.{major}",
    "libcublasLt.so.{major}",
    "libcublas.so.{major}",
    "libcurand.so.10",
    "libnvrtc.so.{major}",
    "libcufft.so.{cufft}",
    "libcudnn.so.9",
    "libnvinfer.so.10",
    "libnvonnxparser.so.10",
)
_PACKAGES = {"nvidia": "*/lib", "tensorrt_libs": "."}
"""Packages that hold libraries, and in which of their folders."""


@cache
def preload(cuda_version: str) -> tuple[str, ...]:
    """Load what there is of CUDA ``cuda_version`` ("13.0"; its first number counts) and cuDNN 9.

    Returns the paths of what was loaded here. What the process has already is left as it is, and
    what no package holds is left to the loader. Nothing is done outside of Linux, where the
    libraries lie where they are looked for, or for a version that is no number.
    """
    major = cuda_version.partition(".")[0]
    if not sys.platform.startswith("linux") or not major.isdecimal():
        return ()
    names = [name.format(major=major, cufft=int(major) - 1) for name in _NEEDED]
    return tuple(path for name in names if (path := _load(name)))


def _load(name: str) -> str:
    """The path that ``name`` was loaded from; empty if it is there already, or nowhere."""
    with suppress(OSError):
        ctypes.CDLL(name, os.RTLD_NOLOAD | ctypes.RTLD_GLOBAL)
        return ""
    for folder in _folders():
        with suppress(OSError):  # not there, or it needs what is not there: its user will say it
            if (folder / name).exists():
                ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL)
                return str(folder / name)
    return ""


def _folders() -> Iterator[Path]:
    for package, inside in _PACKAGES.items():
        spec = importlib.util.find_spec(package)
        for place in (spec and spec.submodule_search_locations) or ():
            yield from sorted(Path(place).glob(inside)) if inside != "." else (Path(place),)
