"""Where a run was, and what the machine did meanwhile: cautions, facts, and rows too noisy."""

from collections.abc import Iterator

import numpy as np

from repr_bench.report.document import Section
from repr_bench.report.rows import title_of
from repr_bench.results.machine import Environment, RoundState, stolen_share, waited_share
from repr_bench.results.results import Results
from repr_bench.results.row import Row
from repr_bench.statistics.verdict import MOST_WAITING, NOISY_PERCENT, log_medians, spread_percent

_OTHERS_SHARE = 0.1
_STOLEN_SHARE = 0.01
_CLOCK_FALL = 0.05
_FIRST_ROUND_SLOWER = 0.05
_JUDGED_FROM_SECONDS = 0.5
"""Counters go in steps of 10 ms: of less time than this nothing is said."""

NOISE_RULE = (
    f"A row is noisy where half the 99 % interval of a comparison with an equally noisy run is more "
    f"than {NOISY_PERCENT / 2:g} %: a change of {NOISY_PERCENT:g} % might not show."
)


def machine_cautions(results: Results) -> Iterator[str]:
    """What the machine did that speaks against these figures, and which rows it made noisy."""
    rounds, seconds = results.machine, sum(r.seconds for r in results.machine)
    if seconds >= _JUDGED_FROM_SECONDS:
        yield from _of_cpus(results, seconds)
    if any(r.throttled for r in rounds):
        yield f"a CPU slowed down for its heat {sum(r.throttled or 0 for r in rounds)} times"
    clocks = [max(r.cpu_mhz) for r in rounds if r.cpu_mhz]
    if clocks and min(clocks) < (1 - _CLOCK_FALL) * max(clocks):
        yield f"the fastest CPU's clock went between {min(clocks):,.0f} and {max(clocks):,.0f} MHz"
    yield from _of_gpus(rounds)
    timed = [row for row in results.rows if row.samples]
    spreads = [(title_of(row), spread_percent(row.rounds_ns)) for row in timed if row.noisy]
    noisy = [f"{name} ({spread:,.{'2g' if spread < 100 else '0f'}} %)" for name, spread in spreads]
    if noisy:
        yield (
            f"too noisy to tell a change of {NOISY_PERCENT:g} %, with the spread of the rounds: "
            f"{', '.join(noisy)}"
        )
    if falling := [title_of(row) for row in timed if still_warming(row)]:
        yield f"still warming up in the first round, which was the slowest: {', '.join(falling)}"


def environment_section(results: Results) -> Section:
    """All that is known of the machine, and what it did meanwhile."""
    facts = (
        *_environment(results.environment),
        *_meanwhile(results),
        ("Command", " ".join(results.command)),
    )
    return Section("environment", "Environment", facts=facts, page_only=True, folded=True)


def _environment(environment: Environment) -> Iterator[tuple[str, str]]:
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


def _meanwhile(results: Results) -> Iterator[tuple[str, str]]:
    """Likewise of what it did while measuring."""
    rounds, seconds = results.machine, sum(r.seconds for r in results.machine)
    if seconds >= _JUDGED_FROM_SECONDS:
        share = _others(results, seconds)
        yield "Others", f"used {share:.1%} of the CPUs; {stolen_share(rounds):.1%} was stolen"
        if rounds[0].waited_seconds is not None:
            yield "Waiting", f"this process waited for a CPU {waited_share(rounds):.1%} of its time"
    if clocks := [clock for r in rounds for clock in r.cpu_mhz]:
        yield "CPU clocks", f"{min(clocks):,.0f}–{max(clocks):,.0f} MHz at the ends of rounds"
    gpus = [gpu for r in rounds for gpu in r.gpus]
    if clocks := [gpu.clock_mhz for gpu in gpus if gpu.clock_mhz is not None]:
        yield "GPU clocks", f"{min(clocks):,}–{max(clocks):,} MHz at the ends of rounds"
    if degrees := [gpu.temperature_c for gpu in gpus if gpu.temperature_c is not None]:
        yield "GPU heat", f"{min(degrees)}–{max(degrees)} °C"
    if results.reference_load and results.reference_load.product_ns:
        product, copy = (
            float(np.median([min(times) for times in series])) / 1e6
            for series in (results.reference_load.product_ns, results.reference_load.copy_ns)
        )
        yield "Reference load", f"matrix product {product:.3g} ms, memory copy {copy:.3g} ms"


def warm_up(results: Results) -> str:
    """One sentence: how many calls, how long, and whether steady then."""
    rows = [row for row in results.rows if row.warmup_ns]
    if not rows:
        return ""
    calls = [len(row.warmup_ns) for row in rows]
    seconds = [sum(row.warmup_ns) / 1e9 for row in rows]
    steady = sum(row.steady for row in rows)
    how = "steady" if steady == len(rows) else f"steady in {steady} of {len(rows)}"
    return (
        f"Warm-up: {_range(min(calls), max(calls), ',')} calls, "
        f"{_range(min(seconds), max(seconds), '.2g')} s a row; {how} (two windows within 5 %)."
    )


def still_warming(row: Row) -> bool:
    """Whether the first round was the slowest, and by more than 5 % slower than the median one."""
    if len(row.rounds_ns) < 3:
        return False
    medians = log_medians(row.rounds_ns)
    return bool(
        medians[0] >= medians.max() and medians[0] > np.median(medians) + _FIRST_ROUND_SLOWER
    )


def _of_cpus(results: Results, seconds: float) -> Iterator[str]:
    rounds = results.machine
    if (share := _others(results, seconds)) >= _OTHERS_SHARE:
        yield f"other processes used {share:.0%} of the CPUs while measuring"
    if (share := stolen_share(rounds)) >= _STOLEN_SHARE:
        yield f"the hypervisor gave {share:.0%} of the CPU time wanted to other machines"
    if (share := waited_share(rounds)) > MOST_WAITING:
        yield (
            f"this process waited for a CPU {share:.0%} of its time: long calls are slower than "
            f"they would be alone"
        )


def _of_gpus(rounds: tuple[RoundState, ...]) -> Iterator[str]:
    reasons = dict.fromkeys(reason for r in rounds for gpu in r.gpus for reason in gpu.slowed)
    if reasons:
        hit = sum(any(gpu.slowed for gpu in r.gpus) for r in rounds)
        yield f"a GPU was slowed down in {hit} of {len(rounds)} rounds: {', '.join(reasons)}"
    if others := max((r.gpu_others or 0 for r in rounds), default=0):
        yield f"{others} other process{'es' if others > 1 else ''} computed on the GPUs"


def _others(results: Results, seconds: float) -> float:
    """Which share of all CPUs' time other processes used."""
    used = sum(r.others_cpu_seconds for r in results.machine)
    return used / (seconds * (results.environment.logical_cores or 1))


def _range(low: float, high: float, form: str) -> str:
    texts = dict.fromkeys((f"{low:{form}}", f"{high:{form}}"))
    return "–".join(texts)
