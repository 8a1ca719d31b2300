"""What the machine did besides, round by round: waiting, co-tenants, theft, clocks, throttling."""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from repr_bench.measuring.environment import output_of, read_text
from repr_bench.results.machine import GpuState, RoundState

_THREADS = Path("/proc/self/task")
_CPUS = Path("/sys/devices/system/cpu")
_GPU_FIELDS = "index,clocks.sm,temperature.gpu"
_PATIENCE_SECONDS = 1.0
_GPU_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
"""The field's name since driver 535, and the one before it."""
_SLOWDOWNS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""The bits of nvml.h's nvmlClocksEventReasons that mean less than the clock asked for."""


@dataclass(frozen=True)
class _Counters:
    """Everything that only grows, read at one moment."""

    wall: float
    threads: dict[str, tuple[int, int, int]]
    own: float
    busy: float
    stolen: float | None
    throttled: int | None


class MachineWatch:
    """Looks at the machine as rounds begin and end; ``rounds`` is what was seen in each."""

    def __init__(self) -> None:
        self.rounds: list[RoundState] = []
        self._process = psutil.Process()
        self._before: _Counters | None = None
        self._nvidia = shutil.which("nvidia-smi") is not None
        self._reasons: str | None = None

    def begin_round(self) -> None:
        """Remember what all counters say now."""
        self._before = self._count()

    def end_round(self) -> None:
        """Add what was seen since the round began; nothing where none did."""
        if self._before is not None:
            now = self._count()
            self.rounds.append(self._round(self._before, now))
            self._before = None

    def _count(self) -> _Counters:
        times, own = psutil.cpu_times(), self._process.cpu_times()
        # A guest's time is already part of user and nice.
        busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq"))
        return _Counters(
            wall=time.monotonic(),
            threads=_threads(),
            own=own.user + own.system,
            busy=busy + getattr(times, "softirq", 0.0),
            stolen=getattr(times, "steal", None),
            throttled=_throttled(),
        )

    def _round(self, before: _Counters, now: _Counters) -> RoundState:
        both = before.threads.keys() & now.threads.keys()
        precise, waited, turns = (
            sum(now.threads[t][field] - before.threads[t][field] for t in both)
            for field in range(3)
        )
        own = now.own - before.own
        stolen, throttled = (
            None if was is None or value is None else value - was
            for was, value in ((before.stolen, now.stolen), (before.throttled, now.throttled))
        )
        gpus, gpu_others = self._gpus()
        return RoundState(
            seconds=now.wall - before.wall,
            own_cpu_seconds=precise / 1e9 if both else own,
            turns=turns if both else None,
            waited_seconds=waited / 1e9 if both else None,
            others_cpu_seconds=round(max(0.0, now.busy - before.busy - own), 2),
            stolen_cpu_seconds=None if stolen is None else round(max(0.0, stolen), 2),
            cpu_mhz=_clocks(),
            throttled=None if throttled is None else int(throttled),
            load=round(psutil.getloadavg()[0], 2),
            gpus=gpus,
            gpu_others=gpu_others,
        )

    def _gpus(self) -> tuple[tuple[GpuState, ...], int | None]:
        """Each GPU, and how many other processes there are; asked no more once it fails or is slow."""
        if not self._nvidia:
            return (), None
        before = time.monotonic()
        found = self._ask_gpus()
        if time.monotonic() - before > _PATIENCE_SECONDS:  # every round would wait for it
            self._nvidia = False
        return found

    def _ask_gpus(self) -> tuple[tuple[GpuState, ...], int | None]:
        for reasons in (self._reasons,) if self._reasons else _GPU_REASONS:
            query = f"--query-gpu={_GPU_FIELDS},{reasons}"
            text = output_of("nvidia-smi", query, "--format=csv,noheader,nounits")
            if text is not None:
                self._reasons = reasons
                apps = output_of("nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader")
                return parse_gpus(text), others_among((apps or "").split(), os.getpid())
        self._nvidia = False
        return (), None


def parse_gpus(text: str) -> tuple[GpuState, ...]:
    """The lines of ``nvidia-smi --query-gpu=index,clocks.sm,temperature.gpu,…active``."""
    found = []
    for line in text.splitlines():
        match [part.strip() for part in line.split(",")]:
            case [index, clock, temperature, reasons] if index.isdecimal():
                numbers = int(index), _integer(clock), _integer(temperature)
                found.append(GpuState(*numbers, _slowdowns(reasons)))
    return tuple(found)


def others_among(pids: Sequence[str], own: int) -> int | None:
    """How many of ``pids`` are others; None where this cannot be known.

    In a container the driver lists numbers of the host, among which our own is not found.
    """
    if not pids:
        return 0
    return len(pids) - 1 if str(own) in pids else None


def _threads() -> dict[str, tuple[int, int, int]]:
    """For each thread of this process, ns on a CPU, ns ready without one, turns; empty if untold."""
    found = {}
    try:
        for thread in _THREADS.iterdir():
            text = read_text(str(thread / "schedstat"))
            match (text or "").split():
                case [on, waiting, turns]:
                    found[thread.name] = (int(on), int(waiting), int(turns))
    except OSError:
        return {}
    return found


def _throttled() -> int | None:
    """Thermal throttle events of all cores and packages so far."""
    counts = [
        int(text)
        for path in _CPUS.glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
        if (text := read_text(str(path))) and text.isdecimal()
    ]
    return sum(counts) if counts else None


def _clocks() -> tuple[float, ...]:
    try:
        clocks = psutil.cpu_freq(percpu=True)
    except (NotImplementedError, OSError, RuntimeError, AttributeError):
        return ()
    return tuple(round(clock.current, 1) for clock in clocks or () if clock.current)


def _integer(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _slowdowns(mask: str) -> tuple[str, ...]:
    try:
        bits = int(mask, 16)
    except ValueError:  # "[N/A]"
        return ()
    return tuple(name for bit, name in _SLOWDOWNS.items() if bits & bit)
