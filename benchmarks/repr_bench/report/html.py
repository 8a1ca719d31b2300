"""The page of a run: one file that needs no network, for screen, print and keyboard."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from html import escape
from importlib import resources

from repr_bench.report.plots.figures import distribution_plot, pareto_plot
from repr_bench.report.plots.peers import peer_body
from repr_bench.report.plots.roofline import roofline_body
from repr_bench.report.plots.scenarios import SERVER_CAPTION, server_plot
from repr_bench.report.sections.agreement import agreement_table
from repr_bench.report.sections.columns import other_text, shown_columns, title_of
from repr_bench.report.sections.comparison import comparison_section
from repr_bench.report.sections.figures import cautions, meanings, problems
from repr_bench.report.sections.machine import machine_facts
from repr_bench.report.sections.profiles import profile_body
from repr_bench.report.sections.scenarios import (
    scenario_cautions,
    scenario_meanings,
    scenario_problems,
    scenario_tables,
)
from repr_bench.results.machine import Environment
from repr_bench.results.results import Results
from repr_bench.results.row import Row
from repr_bench.statistics import intervals as statistics


def render_page(results: Results) -> str:
    """The whole page as HTML text. All that comes from artifacts is escaped."""
    style = resources.files("repr_bench.report").joinpath("page.css").read_text("utf-8")
    timed = [row for row in results.rows if row.samples]
    labels = {row.label for row in results.rows} | {row.label for row in results.scenarios}
    networks = len(labels | {row.label for row in results.end_to_end})
    title = f"repr-bench: {networks} network{'s' if networks != 1 else ''}"
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        '<head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{style}</style></head>",
        "<body>",
        f'<a class="skip" href="#{"figures" if results.rows else "scenarios"}">To the figures</a>',
        f"<header><h1>{escape(title)}</h1>",
        f"<p>{_when(results)} on {escape(results.environment.cpu)}</p></header>",
        "<main>",
        *_main(results, timed),
        *_section("environment", "Environment", _environment(results)),
        "</main>",
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _when(results: Results) -> str:
    when = f"{results.started} to {results.finished}"
    return escape(when + (", interrupted" if results.interrupted else ""))


def _main(results: Results, timed: list[Row]) -> Iterator[str]:
    scenarios = bool(results.scenarios or results.end_to_end)
    table = bool(results.rows or results.others or not scenarios)
    if table:
        yield from _section("figures", "Figures", _figures(results))
        if results.comparison:
            yield from _section("comparison", "Comparison", comparison_section(results.comparison))
        yield from _section("pareto", "Latency and accuracy", _pareto(timed))
        yield from _section("agreement", "Agreement", _agreement(results))
        yield from _analyses(results)
    if scenarios:
        yield from _section("scenarios", "Scenarios", _scenario_tables(results))
    if table:
        if results.peers:
            yield from _section("peers", "Peers", peer_body(results.peers))
        yield from _section("distributions", "Samples", _distributions(timed))
        yield from _section("formulae", "Formulae", _list(_formulae(results)))


def _section(name: str, title: str, body: Iterable[str]) -> Iterator[str]:
    yield f'<section id="{name}" aria-labelledby="{name}-title">'
    yield f'<h2 id="{name}-title">{escape(title)}</h2>'
    yield from body
    yield "</section>"


def _analyses(results: Results) -> Iterator[str]:
    """The roofline and the profiles, where they were asked for."""
    if results.roofline:
        yield from _section("roofline", "Roofline", roofline_body(results, results.roofline))
    if results.profiles:
        yield from _section("profiles", "Profiles", profile_body(results))


def _list(sentences: Iterable[str], kind: str = "") -> Iterator[str]:
    items = [f"<li>{escape(text)}</li>" for text in sentences]
    if items:
        yield f'<ul class="{kind}">' if kind else "<ul>"
        yield from items
        yield "</ul>"


def _figures(results: Results) -> Iterator[str]:
    yield from _list(problems(results), "warning")
    yield from _list((f"Careful: {text}" for text in cautions(results)), "warning")
    yield '<div class="scroll" tabindex="0" role="region" aria-label="Table of figures">'
    yield "<table><thead><tr>"
    columns = shown_columns(results.rows)
    for column in columns:
        yield f'<th scope="col"{_class(column.numeric)}>{escape(column.title)}</th>'
    yield "</tr></thead><tbody>"
    for row in results.rows:
        yield "<tr>" if row.status == "measured" else '<tr class="warning">'
        for index, column in enumerate(columns):
            tag = 'th scope="row"' if index == 0 else "td"
            value, opening, rest = column.text(row).partition(" (" if column.numeric else "\0")
            below = f" <small>({escape(rest)}</small>" if opening else ""
            text = f"{escape(value)}{below}{_interval(column.title, row)}"
            yield f"<{tag}{_class(column.numeric)}>{text}</{tag.split()[0]}>"
        yield "</tr>"
    for other in results.others:
        cells = (
            f"<td{_class(column.numeric)}>{escape(other_text(column, other))}</td>"
            for column in columns
        )
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _class(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _interval(title: str, row: Row) -> str:
    """The interval below a percentile, which on a terminal would have no room."""
    percent = title.removeprefix("p").removesuffix(" ms")
    found = row.latency_ms.get(int(percent)) if percent.isdecimal() else None
    if found is None or found.interval is None:
        return ""
    low, high = (
        f"{end:,.{statistics.decimals(found.value, found.interval)}f}" for end in found.interval
    )
    return f"<small>{low}–{high}</small>"


def _pareto(rows: list[Row]) -> Iterator[str]:
    """A plot for each batch size and set of images: accuracies on others cannot be compared."""
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        if row.graph and row.graph.accuracy and row.batch and not row.emulated:
            groups.setdefault((row.batch, row.graph.accuracy.description), []).append(row)
    if not groups:
        yield "<p>No row has both a latency that counts and an accuracy.</p>"
        return
    yield (
        "<p>To the left is faster, up is better. The line joins the networks that no other beats in "
        f"both. Bars are {statistics.CONFIDENCE_PERCENT} % intervals.</p>"
    )
    yield '<div class="plots">'
    for number, ((batch, description), members) in enumerate(sorted(groups.items())):
        yield f'<figure class="wide">{pareto_plot(members, f"pareto{number}")}'
        yield f"<figcaption>Batch {batch}. {escape(description)}</figcaption></figure>"
    yield "</div>"


def _agreement(results: Results) -> Iterator[str]:
    found = agreement_table(results)
    if found is None:
        yield "<p>No graph was compared with another network's answers.</p>"
        return
    numeric = range(1, 9)
    yield from _text_table("Table of agreement", found.titles, found.lines, numeric)
    yield f"<p>{escape(found.method)}</p>"


def _distributions(rows: list[Row]) -> Iterator[str]:
    if not rows:
        yield "<p>Nothing was timed.</p>"
        return
    yield (
        "<p>All samples of each row, the slowest thousandth in the last bar, and the median of each "
        "round, which shows drift.</p>"
    )
    yield '<div class="plots">'
    for number, row in enumerate(rows):
        yield f"<figure>{distribution_plot(row, f'row{number}')}"
        warm = "steady after" if row.steady else "not steady after"
        yield (
            f"<figcaption>{escape(title_of(row))}: {row.samples:,} samples; {warm} "
            f"{len(row.warmup_ns):,} calls ({sum(row.warmup_ns) / 1e9:.2g} s) of warm-up; "
            f"fed with {escape(row.inputs)}</figcaption></figure>"
        )
    yield "</div>"


def _scenario_tables(results: Results) -> Iterator[str]:
    yield from _list(scenario_problems(results), "warning")
    yield from _list((f"Careful: {text}" for text in scenario_cautions(results)), "warning")
    for number, table in enumerate(scenario_tables(results)):
        if table.heading != "Scenarios":  # that one the section has
            yield f"<h3>{escape(table.heading)}</h3>"
        if table.server is not None:
            yield f'<figure class="wide">{server_plot(table.server, f"server{number}")}'
            yield f"<figcaption>{escape(SERVER_CAPTION)}</figcaption></figure>"
        yield from _text_table(table.heading, table.titles, table.lines, table.numeric)
    yield from _list(scenario_meanings(results))


def _text_table(
    label: str, titles: Sequence[str], lines: Iterable[Sequence[str]], numeric: Collection[int]
) -> Iterator[str]:
    """A table of texts that scrolls; ``numeric`` columns are set to the right."""
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
    yield "<table><thead><tr>"
    for index, title in enumerate(titles):
        yield f'<th scope="col"{_class(index in numeric)}>{escape(title)}</th>'
    yield "</tr></thead><tbody>"
    for first, *others in lines:
        yield f'<tr><th scope="row"{_class(0 in numeric)}>{escape(first)}</th>'
        for index, text in enumerate(others, 1):
            yield f"<td{_class(index in numeric)}>{escape(text)}</td>"
        yield "</tr>"
    yield "</tbody></table></div>"


def _formulae(results: Results) -> list[str]:
    return [
        *meanings(results, details=False),
        statistics.LATENCY_INTERVAL_FORMULA,
        statistics.ACCURACY_INTERVAL_FORMULA,
        "Figures are shown with the digits that their interval supports, four at most.",
    ]


def _environment(results: Results) -> Iterator[str]:
    yield "<dl>"
    for name, text in (*environment_facts(results.environment), *machine_facts(results)):
        yield f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>"
    yield f"<dt>Command</dt><dd><code>{escape(' '.join(results.command))}</code></dd>"
    yield "</dl>"


def environment_facts(environment: Environment) -> Iterator[tuple[str, str]]:
    """The machine as pairs of name and text, without what it does not tell."""
    cores = f"{environment.physical_cores or '?'} physical, {environment.logical_cores} logical"
    if environment.usable_cpus is not None:
        cores += f", {environment.usable_cpus} usable by this process"
    if environment.cpu_quota is not None:
        cores += f", limited to {environment.cpu_quota:g} CPUs' worth of time"
    facts = (
        ("Platform", environment.platform),
        ("CPU", environment.cpu),
        ("Cores", cores),
        ("Governor", environment.governor),
        ("Memory", f"{environment.memory_bytes / 2**30:.1f} GiB"),
        ("GPU", "; ".join(environment.gpus)),
        ("Load before", " ".join(map(str, environment.load_before))),
        ("Load after", " ".join(map(str, environment.load_after))),
        ("Python", environment.python),
        ("Versions", ", ".join(f"{k} {v}" for k, v in environment.versions.items())),
    )
    return ((name, text) for name, text in facts if text)
