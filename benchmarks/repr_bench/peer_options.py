"""The options `--peers` and `--tune`: light, since every command line goes through here."""

from __future__ import annotations

import argparse

from repr_runtime.backends.tuning import GOALS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add both options to the parser of ``repr-bench``."""
    parser.add_argument(
        "--peers",
        nargs="?",
        const="",
        metavar="P,…",
        help="compare with other libraries in the same run: torch, torch.compile, onnxruntime, "
        "openvino-latency, openvino-throughput, … (default: all that are installed); after the names",
    )
    parser.add_argument(
        "--tune",
        choices=GOALS,
        help="find the fastest setting on this CPU, keep it for load(tuned=…), and stop",
    )


def peer_names(text: str) -> tuple[str, ...] | None:
    """The peers that stand in the option; None for all."""
    return tuple(part.strip() for part in text.split(",") if part.strip()) or None
