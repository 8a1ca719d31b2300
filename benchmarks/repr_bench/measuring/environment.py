"""The machine and the versions that a figure belongs to."""

import platform
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil

from repr_bench.results.machine import Environment
from repr_runtime.machine import cpu_flags, cpu_name, usable_cores

DISTRIBUTIONS = (
    "repr-deploy",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "openvino",
)
_GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
_CPU_QUOTA = "/sys/fs/cgroup/cpu.max"


def capture_environment() -> Environment:
    """What this machine is, now, before the run."""
    load = _load()
    return Environment(
        platform=platform.platform(),
        machine=platform.machine(),
        cpu=cpu_name(),
        physical_cores=psutil.cpu_count(logical=False),
        logical_cores=psutil.cpu_count(),
        usable_cpus=usable_cores(),
        cpu_quota=_cpu_quota(read_text(_CPU_QUOTA)),
        governor=read_text(_GOVERNOR),
        memory_bytes=psutil.virtual_memory().total,
        gpus=_gpus(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        versions=_versions(),
        load_before=load,
        load_after=load,
        cpu_features=tuple(sorted(f for f in cpu_flags() if f.startswith(("avx", "amx")))),
    )


def now() -> str:
    """The time, as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def after_run(environment: Environment) -> Environment:
    """The same with the load of now as that after the run."""
    return replace(environment, load_after=_load())


def _load() -> tuple[float, ...]:
    return tuple(round(value, 2) for value in psutil.getloadavg())


def _cpu_quota(text: str | None) -> float | None:
    """CPUs' worth of time from cgroup's ``cpu.max``: "quota period", or "max period" for all."""
    match (text or "").split():
        case [quota, period] if quota.isdigit() and period.isdigit() and int(period):
            return int(quota) / int(period)
    return None


def _gpus() -> tuple[str, ...]:
    """Name and driver of each NVIDIA GPU; empty without NVIDIA's driver."""
    query = ("--query-gpu=name,driver_version", "--format=csv,noheader")
    return tuple((output_of("nvidia-smi", *query) or "").splitlines())


def _versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def read_text(path: str) -> str | None:
    try:
        return Path(path).read_text("utf-8", "replace").strip()
    except OSError:
        return None


def output_of(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
