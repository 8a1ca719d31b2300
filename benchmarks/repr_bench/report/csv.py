"""The rows as CSV for a spreadsheet: one table of all kinds, in full precision."""

import csv
import io
from collections.abc import Iterator

from repr_bench.report.rows import AnyRow, agreement_of, latency_of, rate_of, top1_of, top5_of
from repr_bench.results.results import Results
from repr_bench.statistics.intervals import Figure

_FIGURES = (
    *("p50_ms", "p90_ms", "p99_ms", "images_per_second"),
    *("top1_percent", "top5_percent", "agreement_percent"),
)
CSV_COLUMNS = (
    *("kind", "network", "precision", "batch", "run_by", "measure", "status", "reason"),
    *(name + end for name in _FIGURES for end in ("", "_low", "_high")),
    *("flips_lost", "flips_gained", "flips_p_value", "samples", "emulated", "below_bar"),
    *("graph_bytes", "parameters", "multiply_adds", "device", "weights", "artifact"),
    *("slo_ms", "held_rate"),
)
"""``_low`` and ``_high`` are the ends of the 95 % interval; what is not known is empty."""


def to_csv(results: Results) -> str:
    """All rows as CSV, ``CSV_COLUMNS`` at the head.

    ``kind`` is ``graph`` for the rows of the main table, ``scenario``, ``end-to-end`` (p50 is from
    JPEG to label), ``peer``, or ``other`` for another tool's run. Of a server ``held_rate`` is
    the highest confirmed rate, in queries/s, whose p99 was within ``slo_ms``, and all other
    figures are those at that rate.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_records(results))
    return stream.getvalue()


def _records(results: Results) -> Iterator[dict[str, object]]:
    for row in results.rows:
        found = {**_common("graph", row), "run_by": "repr-bench", "samples": row.samples}
        found |= {"status": row.status, "reason": row.reason, "emulated": _yes(row.emulated)}
        if graph := row.graph:
            found |= {"graph_bytes": graph.bytes, "parameters": graph.parameters}
            found |= {"multiply_adds": graph.multiply_adds, "device": graph.device}
            found |= {"weights": graph.weights, "artifact": graph.artifact}
            found["below_bar"] = _yes(graph.below_bar)
            if flips := graph.flips:
                found |= {"flips_lost": flips.lost, "flips_gained": flips.gained}
                found["flips_p_value"] = flips.p_value
        yield found
    for scenario in results.scenarios:
        found = {**_common("scenario", scenario), "run_by": scenario.source}
        found |= {"measure": scenario.scenario, "samples": scenario.queries}
        found |= {"slo_ms": scenario.slo_ms, "held_rate": scenario.rate}
        yield found | {"status": scenario.status, "reason": scenario.reason}
    for stages in results.end_to_end:
        found = {**_common("end-to-end", stages), "run_by": "repr-bench", "samples": stages.calls}
        yield found | {"status": stages.status, "reason": stages.reason}
    for peer in results.peers:
        found = {**_common("peer", peer), "run_by": peer.peer, "measure": peer.measure}
        found["samples"] = sum(map(len, peer.rounds_ns))
        yield found | {"status": peer.status, "reason": peer.reason}
    for other in results.others:
        found = {**_common("other", other), "run_by": other.tool, "reason": other.meaning}
        yield found | {"samples": len(other.samples_ns) or "", "artifact": other.file}


def _common(kind: str, row: AnyRow) -> dict[str, object]:
    found: dict[str, object] = {"kind": kind, "network": row.label}
    found |= {"precision": row.precision, "batch": row.batch}
    figures = (*(latency_of(row, percent) for percent in (50, 90, 99)), rate_of(row))
    more = (top1_of(row), top5_of(row), agreement_of(row))
    for name, figure in zip(_FIGURES, (*figures, *more), strict=True):
        found |= dict(_ends(name, figure))
    return found


def _ends(name: str, figure: Figure | None) -> Iterator[tuple[str, float]]:
    if figure is not None:
        yield name, figure.value
        if figure.interval is not None:
            yield f"{name}_low", figure.interval.low
            yield f"{name}_high", figure.interval.high


def _yes(value: bool) -> str:
    return "yes" if value else "no"
