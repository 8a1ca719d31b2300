"""The options of `repr-bench` that ask for scenarios, LoadGen, or the way from JPEG to label."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from repr_bench.results.trials import SCENARIOS, Scenario

DEFAULT_SLO_MS = 15.0
"""MLPerf's bound for ResNet-50 in the server scenario (inference rules, "server")."""

_UNITS_MS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class ScenarioOptions:
    """What is asked for; ``instances`` None means as many as there are cores, on a CPU."""

    scenarios: tuple[Scenario, ...] = ()
    loadgen: bool = False
    end_to_end: bool = False
    slo_ms: float = DEFAULT_SLO_MS
    instances: int | None = None
    max_batch: int = 32
    seed: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options, in a group of their own."""
    group = parser.add_argument_group(
        "scenarios",
        "measured after the table of batch sizes, of the same graphs, if any of the first three "
        "is given",
    )
    group.add_argument(
        "--scenario",
        type=_scenarios,
        default=(),
        metavar="S,…",
        help=f"MLPerf's shapes, in seconds: of {', '.join(SCENARIOS)}, or all",
    )
    group.add_argument(
        "--loadgen",
        action="store_true",
        help="MLPerf's LoadGen drives the same sessions too (pip install 'repr-deploy[loadgen]')",
    )
    group.add_argument(
        "--end-to-end",
        action="store_true",
        help="from JPEG bytes to label, and where the time goes",
    )
    group.add_argument(
        "--slo",
        type=_milliseconds,
        default=DEFAULT_SLO_MS,
        metavar="TIME",
        help="the bound of the server scenario's p99, as in 15ms (default)",
    )
    group.add_argument(
        "--instances",
        type=_count,
        metavar="N",
        help="runs side by side, server and offline (default: one a core on a CPU)",
    )
    group.add_argument(
        "--max-batch",
        type=_count,
        default=32,
        metavar="N",
        help="samples run together at most, server and offline (default: 32)",
    )
    group.add_argument(
        "--seed", type=_whole, default=0, metavar="N", help="of the arrivals (default: 0)"
    )


def chosen(args: argparse.Namespace) -> ScenarioOptions | None:
    """What ``args`` ask for; None if they ask for none of it."""
    if not (args.scenario or args.loadgen or args.end_to_end):
        return None
    return ScenarioOptions(
        scenarios=args.scenario or (SCENARIOS if args.loadgen else ()),
        loadgen=args.loadgen,
        end_to_end=args.end_to_end,
        slo_ms=args.slo,
        instances=args.instances,
        max_batch=args.max_batch,
        seed=args.seed,
    )


def check(options: ScenarioOptions) -> None:
    """Say now, not after all else was measured, which package is missing.

    Raises :class:`MissingExtraError` or ``ModuleNotFoundError``.
    """
    if options.loadgen:
        from repr_bench.scenarios.loadgen import library

        library()
    if options.end_to_end:
        import PIL.Image  # noqa: F401


def _scenarios(text: str) -> tuple[Scenario, ...]:
    found: dict[Scenario, None] = {}
    for part in text.split(","):
        if part == "all":
            found |= dict.fromkeys(SCENARIOS)
            continue
        named = next((scenario for scenario in SCENARIOS if scenario == part), None)
        if named is None:
            raise argparse.ArgumentTypeError(
                f"{part!r} is not one of {', '.join(SCENARIOS)}, or all"
            )
        found[named] = None
    return tuple(found)


def _milliseconds(text: str) -> float:
    """``15ms``, ``0.1s`` or ``800us`` in milliseconds; a bare number is not said to be anything."""
    for unit, factor in _UNITS_MS.items():
        number = text.removesuffix(unit)
        if number == text:
            continue
        try:
            value = float(number) * factor
        except ValueError:
            continue
        if 0 < value < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a time above 0 with its unit, as in 15ms")


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
