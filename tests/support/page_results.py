"""Made-up results with something in every section of the page."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import peer_rows
import scenario_rows as made
from rich.console import Console

from repr_bench.report.sections.order import sections
from repr_bench.report.terminal import print_report
from repr_bench.results.comparison import Comparison, MachineShift, RowVerdict
from repr_bench.results.graph import Accuracy, Agreement, Band, Flips, Graph
from repr_bench.results.machine import Environment
from repr_bench.results.peers import OURS, Measure, PeerRow
from repr_bench.results.profile import Layer, Profile
from repr_bench.results.results import Results, Settings
from repr_bench.results.roofline import Peak, Roofline, Work
from repr_bench.results.row import Row
from repr_bench.results.scenarios import ScenarioRow
from repr_bench.results.trials import UNANSWERED, RateTrial
from repr_bench.statistics.intervals import Interval

MS = 1_000_000
NETWORKS = ("lenet5", "resnet20", "resnet50", "resnet50-imagenet", "mobilenet-v2", "vgg16")
SECTIONS = (
    *("figures", "comparison", "pareto", "agreement", "roofline", "profiles", "scenarios"),
    *("peers", "distributions", "formulae", "environment"),
)

GRAPH = Graph(
    artifact="artifacts/lenet5",
    network="lenet5.cifar10",
    dataset="cifar10",
    weights="bundled",
    weights_sha256="ab" * 32,
    parameters=62_006,
    multiply_adds=651_720,
    bytes=250_000,
    sha256="cd" * 32,
    device="cpu",
    choice="ONNX Runtime on cpu",
    accuracy=Accuracy(1500, None, 2000, "2,000 made-up images", "ef" * 32),
    accuracy_note="",
)
ROW = Row(
    label="lenet5",
    precision="fp32",
    batch=1,
    status="measured",
    graph=GRAPH,
    inputs="evaluation images",
    warmup_ns=(2, 1),
    steady=True,
    rounds_ns=tuple(tuple((k + i) * MS for i in range(1, 11)) for k in range(12)),
)
FAILED = Row(
    label="mine", precision="fp32", batch=None, status="failed", reason="model.onnx was altered"
)
RESULTS = Results(
    started="2026-01-02T03:04:05+00:00",
    finished="2026-01-02T03:05:05+00:00",
    interrupted=False,
    command=("repr-bench", "lenet5"),
    settings=Settings(3.0, 30, 12, 2.0, "auto", None),
    environment=Environment(
        platform="Linux",
        machine="x86_64",
        cpu="A CPU",
        physical_cores=2,
        logical_cores=4,
        usable_cpus=4,
        cpu_quota=None,
        governor="performance",
        memory_bytes=2**33,
        gpus=(),
        python="CPython 3.12.0",
        versions={"numpy": "2.0"},
        load_before=(0.1, 0.2, 0.3),
        load_after=(0.4, 0.2, 0.3),
    ),
    rows=(ROW,),
)
AGREEMENT = Agreement(
    reference="its fp32 graph",
    images=2000,
    same=1990,
    bands=(Band(0.1, 1800, 1798), Band(0.5, 1500, 1499)),
    margins=1600.0,
    flipped_margins=1.6,
    largest_flipped_margin=0.62,
    mean_kl=0.00123,
    largest_shift=0.4,
    description="2,000 made-up images",
    sha256="ef" * 32,
)


def with_graph(**changes: object) -> Results:
    """``RESULTS`` with the graph of its row changed."""
    return with_row(graph=replace(GRAPH, **changes))  # type: ignore[arg-type]


def with_row(**changes: object) -> Results:
    """``RESULTS`` with its row changed."""
    return replace(RESULTS, rows=(replace(ROW, **changes),))  # type: ignore[arg-type]


def shown(results: Results, width: int = 100_000, *, terminal: bool = False, **files: Path) -> str:
    """What is printed, in a pipe by default."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, highlight=False)
    print_report(results, console, **files)
    return stream.getvalue()


def said(results: Results) -> str:
    """Every note on ``results``, a line each, and the words that introduce a section."""
    found = [one for section in sections(results) for one in (section, *section.parts)]
    return "\n".join(text for one in found for text in (one.text, *map(str, one.notes)))


def everything() -> Results:
    """Six networks, two precisions and two batch sizes, and every section."""
    random = np.random.default_rng(0)
    rows = [
        _row(random, network, precision, batch)
        for network in range(len(NETWORKS))
        for precision in ("fp32", "int8")
        for batch in (1, 8)
    ]
    return replace(
        RESULTS,
        rows=(*rows, replace(FAILED, reason="artifacts/mine/model.onnx was altered")),
        comparison=_comparison(rows),
        roofline=_roofline(rows),
        profiles=(
            _profile(random),
            Profile(label="vgg16", precision="int8", batch=1, reason="no trace"),
        ),
        peers=_peers(random),
        scenarios=(server(random), replace(server(random), label="resnet50", precision="int8")),
        end_to_end=(
            replace(
                made.STAGES,
                label="resnet50-imagenet",
                stages=("decode", "prepare", "infer", "label"),
                stages_ns=tuple(_rounds(random, time) for time in (2.1, 0.7, 1.4, 0.1)),
                bare_ns=_rounds(random, 1.3),
            ),
        ),
        command=("repr-bench", *(f"artifacts/{name}" for name in NETWORKS), "--roofline"),
    )


def _rounds(
    random: np.random.Generator, milliseconds: float, rounds: int = 12, samples: int = 20
) -> tuple[tuple[int, ...], ...]:
    drawn = milliseconds * MS * random.lognormal(0, 0.06, (rounds, samples))
    return tuple(tuple(map(int, times)) for times in drawn)


def _row(random: np.random.Generator, network: int, precision: str, batch: int) -> Row:
    int8 = precision == "int8"
    time = 0.1 * 2.5**network * batch**0.8 * (0.6 if int8 else 1)
    graph = replace(
        GRAPH,
        network=NETWORKS[network],
        accuracy=Accuracy(
            1300 + 100 * network - 6 * int8, None, 2000, "2,000 made-up images", "ef" * 32
        ),
        agreement=replace(AGREEMENT, reference="torch in fp32", same=1996 - network),
        flips=Flips(9, 3) if int8 else None,
    )
    named = replace(ROW, label=NETWORKS[network], precision=precision, batch=batch, graph=graph)
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
    cases: tuple[tuple[Measure, int], ...] = (("latency", 1), ("latency", 8), ("throughput", 8))
    rows = [
        replace(
            peer_rows.row(label, measure, peer, 1.0, batch, batch),
            rounds_ns=_rounds(
                random, 0.1 * 2.0**network * batch * factor * random.lognormal(0, 0.2), 8, 5
            ),
        )
        for network, label in enumerate(NETWORKS)
        for measure, batch in cases
        for peer, factor in ((OURS, 1.0), ("torch eager", 1.9), ("openvino", 0.93))
    ]
    return (*rows, peer_rows.lost(NETWORKS[0], "ncnn", "absent", "ncnn is not installed"))


def server(random: np.random.Generator) -> ScenarioRow:
    """A search over rates: some held, one without answers, the best of them confirmed."""
    rates = (100.0, 200.0, 400.0, 800.0, 600.0, 500.0)
    trials = [_trial(random, rate, confirms=False) for rate in rates]
    return replace(made.SERVER, trials=(*trials, _trial(random, 500.0, confirms=True)))


def _trial(random: np.random.Generator, offered: float, *, confirms: bool) -> RateTrial:
    windows = _rounds(random, 1 + 14 * (offered / 560) ** 4, 10, 30)
    if offered > 700:
        windows = tuple((UNANSWERED,) * 3 + window[3:] for window in windows)
    return replace(
        made.HELD,
        offered=offered,
        confirms=confirms,
        outcome="held" if offered < 550 else "missed",
        scheduled=300,
        refused=0,
        seconds=300 / offered,
        windows_ns=windows,
        window_seconds=(30 / offered,) * 10,
        lateness_ns=(1000, 2000),
    )
