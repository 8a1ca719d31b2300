"""The CPU that this process runs on, and the packages that it finds there."""

import importlib.metadata
import os
import platform
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

from repr_runtime.errors import ThreadLimitError
from repr_runtime.process.lifetime import closed

_CPU_FILE = Path("/proc/cpuinfo")
_LIMIT_FILE = Path("/sys/fs/cgroup/cpu.max")
"""In a container: the microseconds of CPU time that it gets in so many, or "max"."""


def cpu_name() -> str:
    """As its maker calls it; the architecture where the system does not tell."""
    for key in ("model name", "Model", "cpu model"):
        if name := _cpu_facts().get(key):
            return name
    if sys.platform == "darwin" and (name := _mac_name()):
        return name
    return platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """The instruction sets of an x86 CPU under Linux, as the kernel names them; else empty."""
    return frozenset(_cpu_facts().get("flags", "").split())


def cpu_has_vnni() -> bool:
    """Whether 8-bit products are summed in 32 bits: by VNNI or AMX on x86, always on ARM.

    Where the system does not tell (x86 outside Linux) the answer is no: the graph is then right
    on every CPU and loses one bit of its weights.
    """
    if platform.machine().lower() in ("arm64", "aarch64"):
        return True
    return bool(cpu_flags() & {"avx512_vnni", "avx_vnni", "amx_int8"})


def usable_cores() -> int:
    """The cores that this process may use: of a container, as many as its limit amounts to."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with suppress(OSError, ValueError):  # "max" is no number
        granted, period = map(int, _LIMIT_FILE.read_text("ascii").split())
        return max(1, min(cores, round(granted / period)))
    return cores


def require_threads(count: int) -> None:
    """Raise :class:`ThreadLimitError` unless the system starts ``count`` more threads.

    A library that finds that out half-way may wait for ever for those that it has not got.
    """
    gate = threading.Event()
    started = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=gate.wait, daemon=True)
            thread.start()
            started.append(thread)
    except (RuntimeError, MemoryError) as error:
        raise no_thread(len(started), count, error) from error
    finally:
        gate.set()
        for thread in started:
            thread.join()


def no_thread(started: int, wanted: int, error: Exception) -> BaseException:
    """The error for threads of which the system started less than were wanted."""
    return closed(  # which is why, from Python 3.12 on, where the process ends
        ThreadLimitError(
            f"the system starts {started} more threads, and {wanted} are wanted ({error}); allow this "
            f"process more threads or memory (ulimit -u, ulimit -v), or ask for fewer"
        )
    )


def version_of(distribution: str) -> str:
    """The installed version of a distribution, or "unknown"."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@cache
def _mac_name() -> str:
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()


@cache
def _cpu_facts() -> dict[str, str]:
    """What Linux says of the first CPU by key; empty elsewhere."""
    try:
        lines = _CPU_FILE.read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    facts: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    return facts


def step_back(nice: int) -> None:
    """Let this thread run when the others have no need to: by its niceness, which Linux has of each."""
    if nice and sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
