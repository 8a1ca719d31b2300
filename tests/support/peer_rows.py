"""Rows of peers with figures that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

from repr_bench.results.peers import OURS, Agreement, Measure, PeerRow


def row(
    label: str, measure: Measure, peer: str, milliseconds: float, batch: int = 1, images: int = 1
) -> PeerRow:
    blank = PeerRow(label, "fp32", measure, batch, peer, "measured", "", f"settings of {peer}")
    rounds = tuple((round(milliseconds * 1e6) + 1000 * k,) * 5 for k in range(4))
    return replace(blank, images=images, rounds_ns=rounds, agreement=Agreement(199, 200))


ROWS = (
    row("a", "latency", OURS, 1.0),
    row("a", "latency", "p", 2.0),
    row("b", "latency", OURS, 1.0),
    row("b", "latency", "p", 0.5),
    row("a", "throughput", OURS, 100, batch=1, images=100),
    row("a", "throughput", OURS, 100, batch=8, images=400),
    row("a", "throughput", "p", 100, batch=1, images=100),
    row("a", "throughput", "p", 100, batch=8, images=80),
    PeerRow("a", "fp32", "latency", None, "q", "absent", "q is not installed: pip install q"),
    PeerRow("b", "fp32", "latency", None, "q", "absent", "q is not installed: pip install q"),
    PeerRow("a", "fp32", "latency", 8, "p", "failed", "no kernel"),
)
