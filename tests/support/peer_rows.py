"""Rows of peers with figures that can be worked out by hand."""

from repr_bench.results.peers import OURS, Measure, PeerRow, SameAnswers
from repr_bench.results.row import Status


def row(
    label: str, measure: Measure, peer: str, milliseconds: float, batch: int = 1, images: int = 1
) -> PeerRow:
    rounds = tuple((round(milliseconds * 1e6) + 1000 * k,) * 5 for k in range(4))
    return PeerRow(
        label=label,
        precision="fp32",
        measure=measure,
        batch=batch,
        peer=peer,
        status="measured",
        settings=f"settings of {peer}",
        same_answers=SameAnswers(199, 200),
        images=images,
        rounds_ns=rounds,
    )


def lost(label: str, peer: str, status: Status, reason: str, batch: int | None = None) -> PeerRow:
    """A row without samples."""
    return PeerRow(
        label=label,
        precision="fp32",
        measure="latency",
        batch=batch,
        peer=peer,
        status=status,
        reason=reason,
    )


ROWS = (
    row("a", "latency", OURS, 1.0),
    row("a", "latency", "p", 2.0),
    row("b", "latency", OURS, 1.0),
    row("b", "latency", "p", 0.5),
    row("a", "throughput", OURS, 100, batch=1, images=100),
    row("a", "throughput", OURS, 100, batch=8, images=400),
    row("a", "throughput", "p", 100, batch=1, images=100),
    row("a", "throughput", "p", 100, batch=8, images=80),
    lost("a", "q", "absent", "q is not installed: pip install q"),
    lost("b", "q", "absent", "q is not installed: pip install q"),
    lost("a", "p", "failed", "no kernel", 8),
)
