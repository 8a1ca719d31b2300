"""Where a run was: the machine, the versions and the command."""

from __future__ import annotations

from collections.abc import Iterator

from repr_bench.report.document import Section
from repr_bench.report.sections.machine import machine_facts
from repr_bench.results.machine import Environment
from repr_bench.results.results import Results


def environment_section(results: Results) -> Section:
    """All that is known of the machine, and what it did meanwhile."""
    facts = (
        *environment_facts(results.environment),
        *machine_facts(results),
        ("Command", " ".join(results.command)),
    )
    return Section("environment", "Environment", facts=facts, page_only=True)


def environment_facts(environment: Environment) -> Iterator[tuple[str, str]]:
    """The machine as pairs of name and text, without what it does not tell."""
    cores = f"{environment.physical_cores or '?'} physical, {environment.logical_cores} logical"
    if environment.usable_cpus is not None:
        cores += f", {environment.usable_cpus} usable by this process"
    if environment.cpu_quota is not None:
        cores += f", limited to {environment.cpu_quota:g} CPUs' worth of time"
    facts = (
        ("Platform", environment.platform),
        ("CPU", environment.cpu),
        ("Cores", cores),
        ("Governor", environment.governor),
        ("Memory", f"{environment.memory_bytes / 2**30:.1f} GiB"),
        ("GPU", "; ".join(environment.gpus)),
        ("Load before", " ".join(map(str, environment.load_before))),
        ("Load after", " ".join(map(str, environment.load_after))),
        ("Python", environment.python),
        ("Versions", ", ".join(f"{k} {v}" for k, v in environment.versions.items())),
    )
    return ((name, text) for name, text in facts if text)
