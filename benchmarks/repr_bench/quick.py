"""`--quick`: a first look in under a minute; less of everything that was not asked for itself."""

from __future__ import annotations

import argparse

from repr_bench.measuring.measure import Plan

QUICK = Plan(seconds=0.5, samples=12, rounds=12, warmup_seconds=0.5)
QUICK_IMAGES = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a first look: {QUICK.seconds:g} s and {QUICK.samples} samples a row, accuracy on "
        f"{QUICK_IMAGES} images, unless --seconds, --samples or --limit say otherwise",
    )


def plan_and_limit(args: argparse.Namespace) -> tuple[Plan, int | None]:
    """How much is timed and on how many images, all if None: what is given, else the defaults."""
    base = QUICK if args.quick else Plan()
    plan = Plan(
        seconds=base.seconds if args.seconds is None else args.seconds,
        samples=args.samples or base.samples,
        rounds=base.rounds,
        warmup_seconds=base.warmup_seconds,
    )
    return plan, args.limit or (QUICK_IMAGES if args.quick else None)
