"""The CPU's name and flags out of Linux's account of it, and what stands in for them elsewhere."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from repr_runtime import machine

X86 = "processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nflags\t\t: sse2 avx2\n\nprocessor\t: 1\nflags\t: x\n"
PI = "processor\t: 0\nBogoMIPS\t: 108.00\n\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 4\n"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    machine._cpu_facts.cache_clear()
    yield
    machine._cpu_facts.cache_clear()


@pytest.mark.parametrize(
    ("text", "name", "flags"),
    [(X86, "A CPU @ 2 GHz", {"sse2", "avx2"}), (PI, "Raspberry Pi 4", set())],
)
def test_of_the_first_cpu(
    text: str, name: str, flags: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    monkeypatch.setattr(machine, "_CPU_FILE", path)
    assert machine.cpu_name() == name
    assert machine.cpu_flags() == flags


def test_where_the_system_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CPU_FILE", tmp_path / "absent")
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert machine.cpu_name() == platform.machine()
    assert machine.cpu_flags() == frozenset()


def test_usable_cores_are_those_of_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= machine.usable_cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr(machine, "_LIMIT_FILE", Path("absent"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 5, 7}, raising=False)
    assert machine.usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_cores() == 1


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 3), ("200000 100000", 2), ("50000 100000", 1), ("1000000 100000", 3), ("", 3)],
)
def test_a_container_may_have_less_than_its_machine(
    limit: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 5, 7}, raising=False)
    monkeypatch.setattr(machine, "_LIMIT_FILE", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text(limit)
    assert machine.usable_cores() == cores


@pytest.mark.parametrize(
    ("architecture", "flags", "expected"),
    [
        ("x86_64", {"fpu", "avx2", "avx512f"}, False),
        ("x86_64", {"fpu", "avx_vnni"}, True),
        ("x86_64", {"avx512_vnni", "avx2"}, True),
        ("x86_64", set(), False),
        ("aarch64", set(), True),
    ],
)
def test_vnni_is_read_from_the_cpus_flags(
    architecture: str, flags: set[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset(flags))
    assert machine.cpu_has_vnni() is expected
