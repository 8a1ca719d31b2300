"""The machine that a run was on, and what it did meanwhile, round by round."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Environment:
    """Where and with what a benchmark ran; None where the machine does not tell.

    ``usable_cpus`` are those this process may run on, ``cpu_quota`` the CPUs' worth of time
    that a container is allowed. Loads are averages over 1, 5 and 15 minutes. ``cpu_features`` are the
    CPU's vector and matrix instruction sets by the kernel's names, empty where it does not tell.
    """

    platform: str
    machine: str
    cpu: str
    physical_cores: int | None
    logical_cores: int | None
    usable_cpus: int | None
    cpu_quota: float | None
    governor: str | None
    memory_bytes: int
    gpus: tuple[str, ...]
    python: str
    versions: Mapping[str, str]
    load_before: tuple[float, ...]
    load_after: tuple[float, ...]
    cpu_features: tuple[str, ...] = ()

    def busy(self) -> bool:
        """Whether others kept at least half a CPU busy as the run began (1-minute average)."""
        return bool(self.load_before) and self.load_before[0] >= 0.5


@dataclass(frozen=True)
class GpuState:
    """One GPU as a round ended; ``slowed`` says by what, None where the driver does not tell."""

    index: int
    clock_mhz: int | None
    temperature_c: int | None
    slowed: tuple[str, ...]


@dataclass(frozen=True)
class RoundState:
    """One round of ``seconds``; None where the machine does not tell.

    ``own_cpu_seconds`` is what this process used, in ``turns`` on a CPU, and ``waited_seconds``
    how long its threads were ready and got none (from Linux's schedstat, summed over threads).
    ``others_cpu_seconds`` and ``stolen_cpu_seconds`` are what other processes used and what a
    hypervisor gave away, summed over all CPUs of the machine, in steps of 10 ms.
    ``cpu_mhz`` are the clocks of all CPUs as the round ended, ``throttled`` how often a core or
    a package was slowed down for its heat, ``load`` the 1-minute average, ``gpu_others`` how
    many other processes computed on the GPUs.
    """

    seconds: float
    own_cpu_seconds: float
    turns: int | None
    waited_seconds: float | None
    others_cpu_seconds: float
    stolen_cpu_seconds: float | None
    cpu_mhz: tuple[float, ...]
    throttled: int | None
    load: float
    gpus: tuple[GpuState, ...] = ()
    gpu_others: int | None = None


@dataclass(frozen=True)
class ReferenceLoadTimes:
    """What the reference load took, in ns: a tuple for each time it was run.

    That is before every round and after the last. ``product_ns`` is a number of float32
    products of small matrices in the nearest cache (how fast one core computes),
    ``copy_ns`` one copy of some MiB (how fast memory is). Neither depends on the networks,
    on ONNX Runtime or on the number of threads.
    """

    product_ns: tuple[tuple[int, ...], ...]
    copy_ns: tuple[tuple[int, ...], ...]


def waited_share(rounds: Sequence[RoundState]) -> float:
    """Which share of the time that this process wanted a CPU it waited for one, 0 to 1.

    0 where the machine does not tell, too.
    """
    waited = sum(r.waited_seconds or 0.0 for r in rounds)
    own = sum(r.own_cpu_seconds for r in rounds)
    return waited / (own + waited) if waited > 0 else 0.0


def turn_seconds(rounds: Sequence[RoundState]) -> float:
    """How long this process's threads stayed on a CPU at a time; infinite if untold."""
    turns = sum(r.turns or 0 for r in rounds)
    return sum(r.own_cpu_seconds for r in rounds) / turns if turns else math.inf


def stolen_share(rounds: Sequence[RoundState]) -> float:
    """Which share of the CPU time wanted on this machine its hypervisor gave away, 0 to 1."""
    stolen = sum(r.stolen_cpu_seconds or 0.0 for r in rounds)
    used = sum(r.own_cpu_seconds + r.others_cpu_seconds for r in rounds)
    return stolen / (used + stolen) if stolen > 0 else 0.0
