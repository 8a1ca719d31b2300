"""The environment is what the system says it is, and unknown where it says nothing."""

import os
import platform

import numpy as np
import psutil
import pytest

from repr_bench.measuring import environment
from repr_bench.measuring.environment import after_run, capture_environment


def test_environment_is_this_machine() -> None:
    found = capture_environment()
    assert found.python.endswith(platform.python_version())
    assert (found.versions["numpy"], found.logical_cores, found.memory_bytes) == (
        *(np.__version__, psutil.cpu_count(), psutil.virtual_memory().total),
    )
    assert found.cpu
    assert len(found.load_before) == 3
    later = after_run(found)
    assert (later.load_before, later.cpu) == (found.load_before, found.cpu)
    if hasattr(os, "sched_getaffinity"):
        assert found.usable_cpus == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("150000 100000", 1.5), ("max 100000", None), (None, None), ("", None), ("1 0", None)],
)
def test_cpu_quota(text: str | None, expected: float | None) -> None:
    assert environment._cpu_quota(text) == expected


def test_what_cannot_be_read_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_GOVERNOR", "/nonexistent/governor")
    monkeypatch.setattr(environment, "_CPU_QUOTA", "/nonexistent/cpu.max")
    monkeypatch.setenv("PATH", "")
    found = capture_environment()
    assert (found.governor, found.cpu_quota, found.gpus) == (None, None, ())


def test_of_the_cpus_instruction_sets_those_that_compute_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = frozenset({"fpu", "avx512_bf16", "amx_int8", "avx2"})
    monkeypatch.setattr(environment, "cpu_flags", lambda: flags)
    assert capture_environment().cpu_features == ("amx_int8", "avx2", "avx512_bf16")


@pytest.mark.parametrize(("load", "busy"), [(0.0, False), (0.49, False), (0.5, True), (6.0, True)])
def test_busy_means_half_a_cpu_of_others(
    monkeypatch: pytest.MonkeyPatch, load: float, busy: bool
) -> None:
    monkeypatch.setattr(psutil, "getloadavg", lambda: (load, 0.0, 0.0))
    assert capture_environment().busy() is busy
