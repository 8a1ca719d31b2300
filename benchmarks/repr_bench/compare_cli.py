"""The options of a comparison; apart from it, since a help text must not wait for its imports."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from repr_bench.errors import UsageError

LEAST_PERCENT = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a comparison."""
    group = parser.add_argument_group("comparing two runs")
    group.add_argument(
        "--compare",
        type=Path,
        metavar="OLD.json",
        help="say of each row whether it is faster or slower than in this file of --json",
    )
    group.add_argument(
        "--from",
        dest="take_from",
        type=Path,
        metavar="NEW.json",
        help="measure nothing, and take the results of this file",
    )
    group.add_argument(
        "--same-within",
        type=_percent,
        default=LEAST_PERCENT,
        metavar="PERCENT",
        help=f"the smallest difference that counts (default: {LEAST_PERCENT:g})",
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Raise :class:`UsageError` for options that contradict each other."""
    if args.take_from is not None and args.targets:
        raise UsageError(
            f"--from measures nothing, so {', '.join(args.targets)} would have no effect; "
            f"leave out one or the other"
        )


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage above 0 and up to 100")
    return value
