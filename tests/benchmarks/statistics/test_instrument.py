"""The comparison as an instrument: how often it is wrong, and how often it finds what is there.

Recorded are real runs, one process each; ``recorded/README.md`` says on what machines, and
``record_runs.py`` made the files. All are held to the same. Synthetic are the machines that were
not at hand: drifting, with spikes, with clocks of two speeds, with noise that lasts.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from page_results import GRAPH, RESULTS, ROW

from repr_bench.compare import compare
from repr_bench.measuring.measure import Plan
from repr_bench.results.machine import ReferenceLoadTimes, RoundState, turn_seconds, waited_share
from repr_bench.results.results import Results
from repr_bench.statistics.shift import shift
from repr_bench.statistics.verdict import Judged, judge, log_medians, steadied, waiting_excess

RECORDINGS = sorted(Path(__file__).with_name("recorded").glob("*.npz"))
PAIRS = 200
SLOWER = 1.05
Array = NDArray[np.float64]
State = Callable[[np.random.Generator], Array]
"""What a random generator makes of a machine's speed, or of a row's noise."""


@pytest.fixture(scope="module", params=RECORDINGS, ids=lambda path: path.stem)
def every_run(request: pytest.FixtureRequest) -> list[Results]:
    """The runs of one file, all with the same rows."""
    with np.load(request.param) as file:
        held = {name: file[name] for name in file.files}
    return [_run(held, index) for index in range(len(held["own"]))]


@pytest.fixture(scope="module")
def recording(every_run: list[Results]) -> list[Results]:
    """All runs but those of odd processes."""
    odd = odd_processes(every_run)
    return [run for index, run in enumerate(every_run) if index not in odd]


def odd_processes(runs: list[Results]) -> set[int]:
    """Runs of an idle machine with a row that was steady to the last, and yet of another speed.

    Idle: others used less than 2 % of a CPU. Steady: rounds spread by less than 1 %. Another: by
    2 %, which a comparison calls a change, from the middle of all runs. It is one, of that process:
    where memory came to lie, say. That another process would not have it, no single run can know.
    """
    medians = np.array([[log_medians(row.rounds_ns) for row in run.rows] for run in runs])
    middles, spreads = np.median(medians, axis=-1), medians.std(axis=-1)
    off = np.abs(middles - np.median(middles, axis=0)) > np.log(1.02)
    idle = [
        sum(state.others_cpu_seconds for state in run.machine)
        < 0.02 * sum(state.seconds for state in run.machine)
        for run in runs
    ]
    return set(np.flatnonzero((off & (spreads < 0.01)).any(axis=1) & idle).tolist())


def test_odd_processes_are_rare_and_steady_ones_are_compared(every_run: list[Results]) -> None:
    """``benchmarks/README.md`` says so, and advises two runs of each before a launch."""
    odd = odd_processes(every_run)
    assert len(odd) <= 0.05 * len(every_run)
    usual = next(run for index, run in enumerate(every_run) if index not in odd)
    for index in odd:  # the instrument reports the change that there is
        found = compare(usual, every_run[index], "old.json", 2.0)
        assert any(row.verdict in ("faster", "slower") for row in found.rows)


def _run(held: dict[str, NDArray[np.generic]], index: int) -> Results:
    def nested(values: NDArray[np.generic]) -> tuple[tuple[int, ...], ...]:
        return tuple(map(tuple, values.tolist()))

    def told(name: str) -> list[float | None]:
        return [None if np.isnan(value) else value for value in held[name][index].tolist()]

    rows = tuple(
        replace(
            ROW,
            label=str(name),
            batch=int(held["batches"][k]),
            graph=replace(GRAPH, bytes=int(held["bytes"][k])),
            rounds_ns=nested(held["rounds_ns"][index, k]),
        )
        for k, name in enumerate(held["networks"])
    )
    counters = map(told, ("seconds", "own", "turns", "waited", "others", "stolen"))
    states = [RoundState(*seen, (), None, 0.0) for seen in zip(*counters, strict=True)]  # type: ignore[arg-type]
    load = ReferenceLoadTimes(nested(held["product_ns"][index]), nested(held["copy_ns"][index]))
    return replace(RESULTS, rows=rows, machine=tuple(states), reference_load=load)


def pairs_without_overlap(count: int, wanted: int, seed: int = 0) -> list[tuple[int, int]]:
    """``wanted`` pairs of different runs, each pair at most once in either order."""
    every = [*itertools.combinations(range(count), 2)]
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(every))[:wanted]
    return [every[k] if generator.random() < 0.5 else every[k][::-1] for k in chosen]


def slowed(results: Results, factor: float) -> Results:
    def times(rounds: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(round(factor * s) for s in samples) for samples in rounds)

    slower = (replace(row, rounds_ns=times(row.rounds_ns)) for row in results.rows)
    return replace(results, rows=tuple(slower))


def test_the_same_thing_twice_is_found_neither_faster_nor_slower(recording: list[Results]) -> None:
    pairs = pairs_without_overlap(len(recording), PAIRS)
    assert len(pairs) == PAIRS
    wrong: Counter[str] = Counter()
    same, calm = 0, 0
    for i, j in pairs:
        old, new = recording[i], recording[j]
        for k, row in enumerate(compare(old, new, "old.json", 2.0).rows):
            wrong[f"{row.label} {row.batch}"] += row.verdict in ("faster", "slower")
            if undisturbed(old, k) and undisturbed(new, k):
                calm += 1
                same += row.verdict == "same"
    assert all(count <= 0.01 * PAIRS for count in wrong.values()), wrong
    # ... and not since nothing is ever said
    assert same >= 0.4 * calm > 0


def test_a_slow_down_of_5_percent_is_found_in_undisturbed_rows(recording: list[Results]) -> None:
    """Of each row that has so many undisturbed runs, and of all rows together."""
    later = [slowed(run, SLOWER) for run in recording]
    found: list[str] = []
    for k in range(len(recording[0].rows)):
        calm = [i for i in range(len(recording)) if undisturbed(recording[i], k)]
        of_row = []
        for i, j in itertools.permutations(calm, 2):
            old, new = (replace(r, rows=r.rows[k : k + 1]) for r in (recording[i], later[j]))
            of_row.append(compare(old, new, "old.json", 2.0).rows[0].verdict)
        if len(of_row) >= PAIRS:
            assert of_row.count("slower") >= 0.95 * len(of_row), (k, Counter(of_row))
        found += of_row
    assert len(found) >= PAIRS
    assert found.count("slower") >= 0.95 * len(found), Counter(found)


def test_a_slow_down_that_is_not_found_is_not_denied(recording: list[Results]) -> None:
    """Rows too disturbed for it to be seen say so, with the reason; none is "same" or "faster"."""
    denied: Counter[str] = Counter()
    for i, j in pairs_without_overlap(len(recording), PAIRS):
        for row in compare(recording[i], slowed(recording[j], SLOWER), "old.json", 2.0).rows:
            denied[f"{row.label} {row.batch}"] += row.verdict in ("same", "faster")
            assert row.reason if row.verdict == "cannot tell" else not row.reason
    assert all(count <= 0.01 * PAIRS for count in denied.values()), denied


def undisturbed(run: Results, index: int) -> bool:
    """Whether a row is not noisy, and waiting for a CPU lengthened its median by less than 1 %."""
    row, share = run.rows[index], waited_share(run.machine)
    return not row.noisy and waiting_excess(row.rounds_ns, turn_seconds(run.machine), share) < 0.01


class Machine(NamedTuple):
    """Log round medians of a row, and the yardstick's log timings, of many pairs of runs."""

    old: Array
    new: Array
    old_yardstick: Array
    new_yardstick: Array

    def judged(self, slower: float = 1.0) -> Judged:
        before, after = self.old_yardstick, self.new_yardstick
        reading = shift(steadied(before, [before]), steadied(after, [after]))
        return judge(
            steadied(self.old, [before]),
            steadied(self.new, [after]) + np.log(slower),
            machine=[reading.value],
        )


MANY, ROUNDS = 4000, Plan().rounds
MOMENTS = 4 * ROUNDS + 2
ROW_NOISE, YARDSTICK_NOISE = 0.007, 0.009
"""Spreads of rounds that the recorded runs have where they are not noisy."""


def machine(seed: int, state: State | None = None, *own: State) -> Machine:
    """A machine whose speed, ``(MANY, MOMENTS)`` in logarithms, is ``state``.

    It is laid at the yardstick and lived through by the rounds in turn, run after run. The row alone
    has its ``own`` noise, as from co-tenants of the caches.
    """
    generator = np.random.default_rng(seed)
    speed = state(generator) if state else np.zeros((MANY, MOMENTS))
    assert speed.shape == (MANY, MOMENTS)
    parts = {}
    for name, half in zip(("old", "new"), np.split(speed, 2, axis=1), strict=True):
        row, yardstick = half[:, 1::2], half[:, 0::2]
        parts[name] = row + ROW_NOISE * generator.standard_normal(row.shape)
        jitter = YARDSTICK_NOISE * generator.standard_normal(yardstick.shape)
        parts[f"{name}_yardstick"] = yardstick + jitter
    for noise in own:
        noisy = np.random.default_rng(99)
        parts |= {name: parts[name] + noise(noisy) for name in ("old", "new")}
    return Machine(**parts)


def always(percent: Array) -> State:
    """The same speed at a moment in all pairs of runs."""
    return lambda _: np.broadcast_to(percent / 100, (MANY, MOMENTS))


def drifting(percent: float) -> State:
    return always(np.linspace(0, percent, MOMENTS))


def jumping(percent: float) -> State:
    """The whole machine another one in the second run."""
    return always(np.repeat([0, percent], MOMENTS // 2))


def drifting_in_each_run(percent: float) -> State:
    """From up to ``percent`` below to as much above, or the other way, in each run anew."""

    def state(generator: np.random.Generator) -> Array:
        line = np.linspace(-1, 1, 2 * ROUNDS + 1)
        ends = generator.uniform(-percent / 100, percent / 100, (2, MANY, 1))
        return np.concatenate([ends[0] * line, ends[1] * line], axis=1)

    return state


def spiking(inner: State) -> State:
    """And in a tenth of all moments slower by 20 % on average, the yardstick too."""

    def state(generator: np.random.Generator) -> Array:
        speed = inner(generator)
        hit = generator.random(speed.shape) < 0.1
        return speed + hit * generator.exponential(0.2, speed.shape)

    return state


def two_clocks(change: float, percent: float) -> State:
    """Two speeds ``percent`` apart, changed with probability ``change`` at every moment."""

    def state(generator: np.random.Generator) -> Array:
        flips = generator.random((MANY, MOMENTS)) < change
        start = generator.integers(0, 2, (MANY, 1))
        return percent / 100 * ((np.cumsum(flips, axis=1) + start) % 2)

    return state


def spikes(generator: np.random.Generator) -> Array:
    """In a tenth of the rounds another process makes this one slower by 20 % on average."""
    hit = generator.random((MANY, ROUNDS)) < 0.1
    return hit * generator.exponential(0.2, (MANY, ROUNDS))


def lasting(correlation: float, spread: float) -> State:
    """First-order autoregressive noise of standard deviation ``spread``."""

    def noise(generator: np.random.Generator) -> Array:
        steps = generator.standard_normal((MANY, ROUNDS))
        series = [steps[:, 0]]
        for k in range(1, ROUNDS):
            fresh = (1 - correlation**2) ** 0.5 * steps[:, k]
            series.append(correlation * series[-1] + fresh)
        return spread * np.stack(series, axis=1)

    return noise


SYNTHETIC: dict[str, Callable[[], Machine]] = {
    "quiet": lambda: machine(1),
    "drifting by 5 % over both runs": lambda: machine(2, drifting(5)),
    "drifting by 20 % over both runs": lambda: machine(3, drifting(20)),
    "drifting by up to 10 % either way in each run": lambda: machine(13, drifting_in_each_run(10)),
    "the same with spikes of its own": lambda: machine(14, drifting_in_each_run(10), spikes),
    "the same with spikes that hit all alike": lambda: machine(
        15, spiking(drifting_in_each_run(10))
    ),
    "clocks that change often": lambda: machine(4, two_clocks(0.3, 10)),
    "clocks that change now and then": lambda: machine(5, two_clocks(0.05, 10)),
    "clocks that hardly change": lambda: machine(6, two_clocks(0.01, 10)),
    "slower by 8 % in the second run": lambda: machine(7, jumping(8)),
    "faster by 8 % in the second run": lambda: machine(8, jumping(-8)),
    "spikes": lambda: machine(9, None, spikes),
    "noise that lasts two rounds": lambda: machine(10, None, lasting(0.5, 0.01)),
    "noise that lasts five rounds": lambda: machine(11, None, lasting(0.8, 0.01)),
    "drift, spikes and lasting noise": lambda: machine(12, drifting(5), spikes, lasting(0.5, 0.01)),
}


@pytest.mark.parametrize("name", SYNTHETIC)
def test_false_verdicts_on_synthetic_machines_are_at_most_1_percent(name: str) -> None:
    verdicts = SYNTHETIC[name]().judged().verdict
    assert np.mean(np.abs(verdicts) == 1) <= 0.01


FOUND = ("quiet", "spikes", *(name for name in SYNTHETIC if "either way" in name or "same" in name))


@pytest.mark.parametrize(
    ("name", "share"), [*((name, 0.95) for name in FOUND), ("clocks that change often", 0.0)]
)
def test_a_slow_down_of_5_percent_on_synthetic_machines(name: str, share: float) -> None:
    plain = SYNTHETIC[name]()
    verdicts = plain.judged(SLOWER).verdict
    assert np.mean(verdicts == 1) >= share
    assert np.mean(verdicts == -1) <= 0.001
    # and a speed-up as often
    assert np.mean(plain.judged(1 / SLOWER).verdict == -1) == pytest.approx(
        np.mean(verdicts == 1), abs=0.03
    )


def test_a_large_slow_down_is_found_on_a_machine_that_got_slower_itself() -> None:
    plain = SYNTHETIC["slower by 8 % in the second run"]()
    found = plain.judged(1.3)
    assert np.mean(found.verdict == 1) >= 0.99
    # the ratio holds both: all of it the network's (1.30 · 1.08), or only what is left (1.30)
    # (nearly always: the yardstick's own noise is not in the interval)
    assert np.mean((found.low < np.log(1.3)) & (found.high > np.log(1.3) + 0.08)) >= 0.97
    # without the yardstick a slower machine would be taken for a slower network
    assert np.mean(judge(plain.old, plain.new).verdict == 1) >= 0.95


def test_recorded_noise_is_what_the_synthetic_machines_have(recording: list[Results]) -> None:
    rows = [row for run in recording for row in run.rows if not row.noisy]
    spreads = [float(np.std(log_medians(row.rounds_ns), ddof=1)) for row in rows]
    assert np.median(spreads) <= ROW_NOISE
    loads: list[Any] = [run.reference_load for run in recording]
    fastest = [np.log([*map(min, load.product_ns)]) for load in loads]
    middle = [float(np.median(np.abs(series - np.median(series)))) for series in fastest]
    assert np.median(middle) / 0.6745 <= YARDSTICK_NOISE
