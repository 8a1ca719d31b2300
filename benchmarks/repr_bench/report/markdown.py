"""`--csv`, `--markdown`: the rows for a spreadsheet and for a text."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from repr_bench.report.sort import AnyRow
    from repr_bench.results.comparison import Comparison
    from repr_bench.results.results import Results
    from repr_bench.results.roofline import Roofline
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
            found |= {"multiply_adds": _text(graph.multiply_adds), "device": graph.device}
            found |= {"weights": graph.weights, "artifact": graph.artifact}
            found["below_bar"] = _yes(graph.below_bar)
            if flips := graph.flips:
                found |= {"flips_lost": flips.lost, "flips_gained": flips.gained}
                found["flips_p_value"] = flips.p_value
        yield found
    for scenario in results.scenarios:
        found = {**_common("scenario", scenario), "run_by": scenario.source}
        found |= {"measure": scenario.scenario, "samples": scenario.queries}
        found |= {"slo_ms": _text(scenario.slo_ms), "held_rate": _text(scenario.rate)}
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
    from repr_bench.report.sort import agreement_of, latency_of, rate_of, top1_of, top5_of

    found: dict[str, object] = {"kind": kind, "network": row.label}
    found |= {"precision": _text(row.precision), "batch": _text(row.batch)}
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


def _text(value: object) -> object:
    return "" if value is None else value


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def to_markdown(results: Results) -> str:
    """The tables of the terminal, all columns of them, each followed by its notes."""
    return "\n".join(_markdown(results)) + "\n"


def _markdown(results: Results) -> Iterator[str]:
    from repr_bench.report.sections import peers as peer_table
    from repr_bench.report.sections import scenarios as scenario_table
    from repr_bench.report.sections.columns import other_text, shown_columns
    from repr_bench.report.sections.figures import cautions, meanings, problems

    scenarios = bool(results.scenarios or results.end_to_end)
    if results.rows or results.others or not scenarios:
        columns = shown_columns(results.rows)
        lines = [[column.text(row) for column in columns] for row in results.rows]
        lines += [[other_text(column, other) for column in columns] for other in results.others]
        numeric = [index for index, column in enumerate(columns) if column.numeric]
        yield from _table([column.title for column in columns], lines, numeric)
    if results.rows or not scenarios:
        yield from _notes(problems(results), cautions(results), meanings(results))
    else:
        yield from _notes([other.meaning for other in results.others])
    if results.comparison:
        yield from _comparison(results.comparison)
    if results.roofline:
        yield from _roofline(results, results.roofline)
    yield from _profiles(results)
    if scenarios:
        for table in scenario_table.scenario_tables(results):
            yield f"### {_cell(table.heading)}\n"
            yield from _table(table.titles, table.lines, table.numeric)
        yield from _notes(
            scenario_table.scenario_problems(results),
            scenario_table.scenario_cautions(results),
            scenario_table.scenario_meanings(results),
        )
    if results.peers:
        yield "### Peers\n"
        titles = peer_table.TITLES
        numeric = _numeric(titles, peer_table.WORDS)
        yield from _table(titles, peer_table.peer_cells(results.peers), numeric)
        yield from _notes(
            peer_table.summaries(results.peers),
            (),
            [*peer_table.peer_problems(results.peers), *peer_table.meanings(results.peers)],
        )


def _comparison(comparison: Comparison) -> Iterator[str]:
    from repr_bench.report.sections.comparison import columns, explanations, headline, warnings

    shown = columns(comparison)
    lines = [[text(row) for _, _, text in shown] for row in comparison.rows]
    numeric = [index for index, column in enumerate(shown) if column[1]]
    yield f"### {_cell(headline(comparison))}\n"
    yield from _table([title for title, _, _ in shown], lines, numeric)
    yield from _notes([*warnings(comparison), *explanations(comparison)])


def _roofline(results: Results, roofline: Roofline) -> Iterator[str]:
    from repr_bench.report.sections.roofline import TITLES, WORDS, cells, machine, places
    from repr_bench.results.roofline import FORMULA

    found = places(results, roofline)
    yield "### Roofline\n"
    if found.reached:
        yield from _table(TITLES, map(cells, found.reached), _numeric(TITLES, WORDS))
    yield from _notes([*machine(roofline), *found.without, FORMULA])


def _profiles(results: Results) -> Iterator[str]:
    from repr_bench.report.sections import profiles as profile_table
    from repr_bench.report.sections.profiles import LAYERS, OPERATORS, WORDS

    for profile in results.profiles:
        name = _cell(profile_table.title(profile))
        yield f"### Profile of {name}\n"
        yield f"{_cell(profile_table.summary(profile))}\n"
        if not profile.reason:
            lines = [cells for _, cells in profile_table.operator_cells(profile)]
            yield f"#### Operators of {name}\n"
            yield from _table(OPERATORS, lines, _numeric(OPERATORS, WORDS))
            peak = profile_table.peak_of(results, profile)
            lines = [cells for _, cells in profile_table.layer_cells(profile, peak)]
            yield f"#### Slowest layers of {name}\n"
            yield from _table(LAYERS, lines, _numeric(LAYERS, WORDS))
    yield from _notes(profile_table.notes(results))


def _numeric(titles: Sequence[str], words: Collection[str]) -> list[int]:
    return [index for index, title in enumerate(titles) if title not in words]


def _table(
    titles: Sequence[str], lines: Iterable[Sequence[str]], numeric: Sequence[int]
) -> Iterator[str]:
    yield _line(titles)
    yield _line(["---:" if index in numeric else "---" for index in range(len(titles))])
    yield from map(_line, lines)
    yield ""


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _notes(
    first: Sequence[str], careful: Sequence[str] = (), last: Sequence[str] = ()
) -> Iterator[str]:
    sentences = [*first, *(f"Careful: {text}" for text in careful), *last]
    if sentences:
        yield from (f"- {_cell(text)}" for text in sentences)
        yield ""


def _cell(text: str) -> str:
    """``text`` as it reads: what Markdown or HTML would take for its own is escaped."""
    plain = " ".join(text.split())
    for sign in ("\\", "|", "*", "_", "`", "<", "[", "]", "#"):
        plain = plain.replace(sign, f"\\{sign}")
    return plain
