"""The machine's state by rounds: counters subtracted, and unknown where the machine is silent."""

import os
import stat
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import psutil
import pytest

from repr_bench.measuring import machine_watch as machine_state
from repr_bench.measuring.machine_watch import MachineWatch, others_among, parse_gpus
from repr_bench.results.machine import (
    GpuState,
    RoundState,
    stolen_share,
    turn_seconds,
    waited_share,
)

ROUND = RoundState(1.0, 0.5, 100, 0.3, 1.0, 0.5, cpu_mhz=(2000.0, 3000.0), throttled=0, load=1.0)


def test_shares_by_hand() -> None:
    rounds = [ROUND, replace(ROUND, own_cpu_seconds=0.7, waited_seconds=0.1)]
    # 1.2 s on a CPU and 0.4 s waiting; 1.2 s own and 2 s others' of 4.2 s, 1 s stolen
    assert waited_share(rounds) == pytest.approx(0.25)
    assert stolen_share(rounds) == pytest.approx(1 / 4.2)
    assert turn_seconds(rounds) == pytest.approx(1.2 / 200)


def test_what_is_not_told_counts_as_nothing() -> None:
    silent = replace(ROUND, turns=None, waited_seconds=None, stolen_cpu_seconds=None)
    assert (waited_share([silent]), stolen_share([silent])) == (0.0, 0.0)
    assert turn_seconds([silent]) == float("inf")
    assert (waited_share([]), stolen_share([])) == (0.0, 0.0)


@pytest.fixture
def fake_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two threads, one core, and psutil's counters, all of them files and fields of a test."""
    threads, cpus = tmp_path / "task", tmp_path / "cpu"
    for name, text in (("1", "1000000000 500000000 10"), ("2", "0 0 0")):
        (threads / name).mkdir(parents=True)
        (threads / name / "schedstat").write_text(text)
    for name, count in (("core_throttle_count", 3), ("package_throttle_count", 4)):
        place = cpus / "cpu0" / "thermal_throttle" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{count}\n")
    monkeypatch.setattr(machine_state, "_THREADS", threads)
    monkeypatch.setattr(machine_state, "_CPUS", cpus)
    monkeypatch.setenv("PATH", "")
    return tmp_path


def test_a_round_is_the_difference_of_two_looks(
    fake_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = SimpleNamespace(user=10.0, nice=1.0, system=2.0, irq=0.0, softirq=0.5, steal=1.0)
    monkeypatch.setattr(psutil, "cpu_times", lambda: busy)
    watch = MachineWatch()
    own = SimpleNamespace(user=1.0, system=0.0)
    monkeypatch.setattr(watch, "_process", SimpleNamespace(cpu_times=lambda: own))
    watch.end_round()  # none has begun
    watch.begin_round()
    (fake_machine / "task" / "1" / "schedstat").write_text("1400000000 800000000 14")
    (fake_machine / "task" / "2" / "schedstat").write_text("100000000 0 1")
    late = fake_machine / "task" / "3"
    late.mkdir()
    (late / "schedstat").write_text("9000000000 9000000000 9")
    (fake_machine / "cpu/cpu0/thermal_throttle/core_throttle_count").write_text("5")
    busy.user, busy.softirq, busy.steal, own.user = 12.0, 0.75, 1.5, 1.75
    watch.end_round()
    watch.end_round()  # ends only once
    (found,) = watch.rounds
    # own: of threads seen both times
    wanted = {"own_cpu_seconds": 0.5, "waited_seconds": 0.3, "turns": 5, "throttled": 2}
    wanted |= {"others_cpu_seconds": 2.25 - 0.75, "stolen_cpu_seconds": 0.5}
    assert {name: getattr(found, name) for name in wanted} == pytest.approx(wanted)
    assert (found.gpus, found.gpu_others) == ((), None)


def test_a_silent_machine_is_no_error(fake_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("_THREADS", "_CPUS"):
        monkeypatch.setattr(machine_state, place, fake_machine / "no")
    monkeypatch.setattr(psutil, "cpu_freq", Mock(side_effect=NotImplementedError))
    times = SimpleNamespace(user=1.0, system=1.0, idle=1.0)
    monkeypatch.setattr(psutil, "cpu_times", lambda: times)
    watch = MachineWatch()
    watch.begin_round()
    watch.end_round()
    (found,) = watch.rounds
    unknown = found.turns, found.waited_seconds, found.stolen_cpu_seconds, found.throttled
    assert (unknown, found.cpu_mhz) == ((None,) * 4, ())
    assert found.own_cpu_seconds >= 0


def test_gpus_are_read_and_slowdowns_named() -> None:
    text = "0, 1980, 45, 0x0000000000000024\n1, [N/A], 30, 0x0000000000000001\nnonsense\n"
    assert parse_gpus(text) == (
        GpuState(0, 1980, 45, ("power cap", "software thermal slowdown")),
        GpuState(1, None, 30, ()),
    )


@pytest.mark.parametrize(
    ("pids", "others"), [([], 0), (["7"], 0), (["7", "8", "9"], 2), (["8"], None)]
)
def test_other_processes_on_gpus(pids: list[str], others: int | None) -> None:
    assert others_among(pids, 7) == others


def test_nvidia_smi_is_asked_with_the_fields_it_knows(
    fake_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = fake_machine / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        "  *clocks_event_reasons*) exit 2;;\n"  # an old driver
        f"  *compute-apps*) echo {os.getpid()}; echo 1;;\n"
        "  *clocks_throttle_reasons*) echo '0, 1410, 60, 0x0000000000000040';;\n"
        "esac\n"
    )
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tool.parent))
    watch = MachineWatch()
    watch.begin_round()
    watch.end_round()
    assert watch.rounds[0].gpus == (GpuState(0, 1410, 60, ("hardware thermal slowdown",)),)
    assert watch.rounds[0].gpu_others == 1


@pytest.mark.usefixtures("fake_machine")
def test_an_nvidia_smi_that_fails_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_state, "output_of", asked := Mock(return_value=None))
    watch = MachineWatch()
    watch._nvidia = True
    for _ in range(3):
        watch.begin_round()
        watch.end_round()
    assert asked.call_count == 2  # both names of the field, in the first round
    assert [r.gpus for r in watch.rounds] == [(), (), ()]


@pytest.mark.usefixtures("fake_machine")
def test_an_nvidia_smi_that_is_slow_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_state, "output_of", Mock(return_value="0, 1410, 60, 0x0"))
    monkeypatch.setattr(machine_state, "_PATIENCE_SECONDS", 0.0)
    watch = MachineWatch()
    watch._nvidia = True
    for _ in range(2):
        watch.begin_round()
        watch.end_round()
    assert [r.gpus for r in watch.rounds] == [(GpuState(0, 1410, 60, ()),), ()]
