"""The rows as CSV for a spreadsheet: one table of all kinds, in full precision."""

import csv
import io
from collections.abc import Iterator

from repr_bench.report.rows import AnyRow, answer_of, latency_of, rate_of
from repr_bench.results.other_tools import OtherRow
from repr_bench.results.results import Results
from repr_bench.results.trials import PERCENTILES

_ANSWERS = ("top1_percent", "top5_percent", "agreement_percent")
_FIGURES = ("p50_ms", "p90_ms", "p99_ms", "images_per_second", *_ANSWERS)
CSV_COLUMNS = (
    *("kind", "network", "precision", "batch", "run_by", "measure", "status", "reason"),
    *(name + end for name in _FIGURES for end in ("", "_low", "_high")),
    *("flips_lost", "flips_gained", "flips_p_value", "samples", "emulated", "below_bar"),
    *("graph_bytes", "parameters", "multiply_adds", "device", "weights", "artifact"),
    *("slo_ms", "held_rate", "largest_difference", "within_tolerance", "peak_memory_bytes"),
)
"""``_low`` and ``_high`` are the ends of the 95 % interval; what is not known is empty."""


def to_csv(results: Results) -> str:
    """All rows as CSV, ``CSV_COLUMNS`` at the head.

    ``kind`` is ``graph`` for the rows of the main table, ``scenario``, ``end-to-end`` (p50 is from
    JPEG to label), ``peer``, ``server`` for one that was asked, or ``other`` for another tool's run.
    Of the server scenario ``held_rate`` is the highest confirmed rate, in queries/s, whose p99 was
    within ``slo_ms``, and all other figures are those at that rate.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_records(results))
    return stream.getvalue()


def _records(results: Results) -> Iterator[dict[str, object]]:
    for row in results.rows:
        found = _common("graph", row, "repr-bench", row.samples)
        found["emulated"] = _yes(row.emulated)
        found["peak_memory_bytes"] = row.peak_memory_bytes
        if graph := row.graph:
            found |= {"graph_bytes": graph.bytes, "parameters": graph.parameters}
            found |= {"multiply_adds": graph.multiply_adds, "device": graph.device}
            found |= {"weights": graph.weights, "artifact": graph.artifact}
            found["below_bar"] = _yes(graph.below_bar)
            if graph.difference:
                found["largest_difference"] = graph.difference.largest
                found["within_tolerance"] = _yes(graph.difference.within)
            if flips := graph.flips:
                found |= {"flips_lost": flips.lost, "flips_gained": flips.gained}
                found["flips_p_value"] = flips.p_value
        yield found
    for scenario in results.scenarios:
        run_by = scenario.server or scenario.source
        found = _common("scenario", scenario, run_by, scenario.queries)
        found |= {"measure": scenario.scenario}
        yield found | {"slo_ms": scenario.slo_ms, "held_rate": scenario.rate}
    for stages in results.end_to_end:
        yield _common("end-to-end", stages, "repr-bench", stages.calls)
    for peer in results.peers:
        samples = sum(map(len, peer.rounds_ns))
        kind = "server" if peer.server else "peer"
        yield _common(kind, peer, peer.peer, samples) | {"measure": peer.measure}
    for other in results.others:
        found = _common("other", other, other.tool, len(other.samples_ns) or "")
        yield found | {"reason": other.meaning, "artifact": other.file}


def _common(kind: str, row: AnyRow, run_by: str, samples: int | str) -> dict[str, object]:
    found: dict[str, object] = {"kind": kind, "network": row.label, "run_by": run_by}
    found |= {"precision": row.precision, "batch": row.batch, "samples": samples}
    if not isinstance(row, OtherRow):
        found |= {"status": row.status, "reason": row.reason}
    latencies = (latency_of(row, percent) for percent in PERCENTILES)
    answers = (answer_of(row, name) for name in _ANSWERS)
    for name, figure in zip(_FIGURES, (*latencies, rate_of(row), *answers), strict=True):
        if figure is not None:
            found[name] = figure.value
            found[f"{name}_low"], found[f"{name}_high"] = figure.interval or ("", "")
    return found


def _yes(value: bool) -> str:
    return "yes" if value else "no"
