"""Made-up results with something in every section of the page."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from rich.console import Console

from repr_bench.report.document import Section
from repr_bench.report.sections.order import sections
from repr_bench.report.terminal import print_report
from repr_bench.results.agreement import Agreement, Band, Flips
from repr_bench.results.comparison import Comparison, MachineShift, RowVerdict
from repr_bench.results.peers import OURS, Measure, PeerRow, SameAnswers
from repr_bench.results.profile import Layer, Profile
from repr_bench.results.results import Results
from repr_bench.results.roofline import Peak, Roofline, Work
from repr_bench.results.row import Row
from repr_bench.results.scenarios import ScenarioRow, StageRow
from repr_bench.results.trials import UNANSWERED, RateTrial
from repr_bench.statistics.intervals import Interval

MS = 1_000_000
NETWORKS = ("lenet5", "resnet20", "resnet50", "resnet50-imagenet", "mobilenet-v2", "vgg16")
SECTIONS = (
    *("figures", "comparison", "pareto", "agreement", "roofline", "profiles", "scenarios"),
    *("peers", "distributions", "formulae", "environment"),
)


def shown(results: Results, width: int = 100_000, *, terminal: bool = False) -> str:
    """What is printed, in a pipe by default."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, highlight=False)
    print_report(results, console)
    return stream.getvalue()


def said(results: Results) -> str:
    """Every note on ``results``, a line each, and the words that introduce a section."""
    return "\n".join(_said(sections(results)))


def _said(given: Iterable[Section]) -> Iterator[str]:
    for section in given:
        yield section.text
        yield from _said(section.parts)
        yield from map(str, section.notes)


def everything(results: Results) -> Results:
    """``results`` with six networks, two precisions and two batch sizes, and every section."""
    random = np.random.default_rng(0)
    rows = [
        _row(results.rows[0], random, network, precision, batch)
        for network in range(len(NETWORKS))
        for precision in ("fp32", "int8")
        for batch in (1, 8)
    ]
    failed = replace(rows[0], label="mine", status="failed", rounds_ns=(), graph=None, batch=None)
    return replace(
        results,
        rows=(*rows, replace(failed, reason="artifacts/mine/model.onnx was altered")),
        comparison=_comparison(rows),
        roofline=_roofline(rows),
        profiles=(
            _profile(random),
            Profile(label="vgg16", precision="int8", batch=1, reason="no trace"),
        ),
        peers=_peers(random),
        scenarios=(server(random), replace(server(random), label="resnet50", precision="int8")),
        end_to_end=(_stages(random),),
        command=("repr-bench", *(f"artifacts/{name}" for name in NETWORKS), "--roofline"),
    )


def _rounds(
    random: np.random.Generator, milliseconds: float, rounds: int = 12, samples: int = 20
) -> tuple[tuple[int, ...], ...]:
    drawn = milliseconds * MS * random.lognormal(0, 0.06, (rounds, samples))
    return tuple(tuple(map(int, times)) for times in drawn)


def _row(row: Row, random: np.random.Generator, network: int, precision: str, batch: int) -> Row:
    assert row.graph is not None
    assert row.graph.accuracy is not None
    time = 0.1 * 2.5**network * batch**0.8 * (0.6 if precision == "int8" else 1)
    right = 1300 + 100 * network - (6 if precision == "int8" else 0)
    same = Agreement(
        reference="torch in fp32",
        images=2000,
        same=1996 - network,
        bands=(Band(0.1, 1900, 1899), Band(0.5, 1500, 1500)),
        margins=1400.0,
        flipped_margins=0.4,
        largest_flipped_margin=0.08,
        mean_kl=1e-3,
        largest_shift=0.02,
        description="2,000 made-up images",
        sha256="ef" * 32,
    )
    graph = replace(
        row.graph,
        network=NETWORKS[network],
        accuracy=replace(row.graph.accuracy, top1=right),
        agreement=same,
        flips=Flips(9, 3) if precision == "int8" else None,
    )
    named = replace(row, label=NETWORKS[network], precision=precision, batch=batch, graph=graph)
    return replace(named, rounds_ns=_rounds(random, time))


def _comparison(rows: list[Row]) -> Comparison:
    told = [
        RowVerdict(row.label, row.precision, row.batch, "same", 1.003, Interval(0.99, 1.02), "", ())
        for row in rows
    ]
    told[0] = replace(told[0], verdict="slower", ratio=1.3, interval=Interval(1.2, 1.4))
    told[1] = replace(told[1], verdict="cannot tell", reason="the machine itself was 9 % slower")
    machine = (MachineShift("matrix product", 1.01, Interval(0.99, 1.03)),)
    return Comparison("old.json", "2026-01-01T03:04:05+00:00", 2.0, 0.99, machine, (), tuple(told))


def _roofline(rows: list[Row]) -> Roofline:
    works = tuple(
        Work(row.label, str(row.precision), row.batch or 1, 20, 2_000_000 * 3**at, 10**6, 10**6)
        for at, row in enumerate(rows[:8])
    )
    peaks = (
        Peak("float32", "ONNX Runtime MatMul", 512, 1000, (10, 12)),
        Peak("int8", "ONNX Runtime MatMulInteger", 512, 1000, (4, 5)),
        Peak("memory", "numpy copyto", 10**8, 1000, (100, 120)),
        Peak("cache", "numpy copyto", 10**6, 1000, (25,)),
    )
    return Roofline(2, peaks, works, ("a note",))


def _profile(random: np.random.Generator) -> Profile:
    layers = tuple(
        Layer(
            f"/layer{at // 3}/layer{at // 3}.{at % 3}/conv1/Conv_nchwc",
            "Conv",
            (f"/layer{at // 3}/{at % 3}/conv1/Conv", f"/layer{at // 3}/{at % 3}/relu/Relu"),
            2_359_296,
            tuple(map(int, random.integers(40, 60 + 9 * at, 20))),
        )
        for at in range(12)
    )
    times = tuple(map(int, random.integers(900_000, 990_000, 20)))
    return Profile(
        label="resnet20",
        precision="fp32",
        batch=1,
        multiply_adds=40_000_000,
        layers=layers,
        runs_us=(960,) * 20,
        plain_ns=times,
        profiled_ns=times,
    )


def _peers(random: np.random.Generator) -> tuple[PeerRow, ...]:
    rows = []
    cases: tuple[tuple[Measure, int], ...] = (("latency", 1), ("latency", 8), ("throughput", 8))
    for network, label in enumerate(NETWORKS):
        for measure, batch in cases:
            for peer, factor in ((OURS, 1.0), ("torch eager", 1.9), ("openvino", 0.93)):
                time = 0.1 * 2.0**network * batch * factor * random.lognormal(0, 0.2)
                rows.append(
                    PeerRow(
                        label=label,
                        precision="fp32",
                        measure=measure,
                        batch=batch,
                        peer=peer,
                        status="measured",
                        settings="2 threads",
                        same_answers=SameAnswers(199, 200),
                        images=batch,
                        rounds_ns=_rounds(random, time, 8, 5),
                    )
                )
    absent = replace(rows[0], batch=None, peer="ncnn", status="absent", rounds_ns=())
    return (*rows, replace(absent, reason="ncnn is not installed", settings="", same_answers=None))


def server(random: np.random.Generator) -> ScenarioRow:
    """A search over rates: some held, one without answers, the best of them confirmed."""
    rates = (100.0, 200.0, 400.0, 800.0, 600.0, 500.0)
    trials = [_trial(random, rate, confirms=False) for rate in rates]
    return ScenarioRow(
        label="lenet5",
        precision="fp32",
        scenario="server",
        source="repr-bench",
        status="measured",
        slo_ms=15.0,
        batch=32,
        trials=(*trials, _trial(random, 500.0, confirms=True)),
    )


def _trial(random: np.random.Generator, offered: float, *, confirms: bool) -> RateTrial:
    windows = _rounds(random, 1 + 14 * (offered / 560) ** 4, 10, 30)
    if offered > 700:
        windows = tuple((UNANSWERED,) * 3 + window[3:] for window in windows)
    return RateTrial(
        offered=offered,
        seed=1,
        confirms=confirms,
        outcome="held" if offered < 550 else "missed",
        reason="",
        slo_ms=15.0,
        scheduled=300,
        refused=0,
        seconds=300 / offered,
        windows_ns=windows,
        window_seconds=(30 / offered,) * 10,
        lateness_ns=(1000, 2000),
        batches=((1, 30), (4, 20)),
    )


def _stages(random: np.random.Generator) -> StageRow:
    stages = tuple(_rounds(random, time) for time in (2.1, 0.7, 1.4, 0.1))
    return StageRow(
        label="resnet50-imagenet",
        precision="fp32",
        batch=1,
        status="measured",
        images="JPEGs of 500 by 375 pixels",
        stages=("decode", "prepare", "infer", "label"),
        stages_ns=stages,
        bare_ns=_rounds(random, 1.3),
    )
