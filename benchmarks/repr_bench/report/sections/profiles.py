"""Profiles for a reader: tables on a terminal, horizontal bars on the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from rich.console import Console
from rich.table import Table
from rich.text import Text

from repr_bench.report.sections.columns import NOTHING
from repr_bench.results.profile import FORMULA, TOP, Layer, Profile
from repr_bench.results.results import Results
from repr_bench.statistics import intervals as statistics

OPERATORS = ("operator", "nodes", "ms", "%")
LAYERS = ("layer", "operator", "ms", "%", "mult-adds M", "GFLOP/s", "% of peak", "does the work of")
WORDS = ("operator", "layer", "does the work of")
"""Titles of columns that hold text."""
_OWN = "added by ONNX Runtime"
_BAR, _BAR_HEIGHT = 160, 10
"""Pixels of a bar of 100 %, and how high it is."""


def title(profile: Profile) -> str:
    """Which row it is."""
    return f"{profile.label} {profile.precision} batch {profile.batch}"


def summary(profile: Profile) -> str:
    """How long a run takes, what the profiler costs, and what is in no layer."""
    if profile.reason:
        return profile.reason
    text = (
        f"{_ms(profile.run_us)} ms a run (median of {len(profile.runs_us)} runs) in "
        f"{len(profile.layers)} nodes, {_ms(profile.between_us)} ms between them; with the "
        f"profiler a call takes {_ms(profile.profiled_us)} ms, without it {_ms(profile.plain_us)} ms "
        f"({profile.overhead_percent:+.1f} %)"
    )
    if profile.unassigned:
        return f"{text}; {profile.unassigned / 1e6:,.2f} M multiply-adds are in no layer"
    return text


def operator_cells(profile: Profile) -> Iterator[tuple[float, tuple[str, ...]]]:
    """For each operator its share in percent, and its texts."""
    for share in profile.operators:
        percent = profile.share_percent(share.microseconds)
        yield percent, (share.op, str(share.layers), _ms(share.microseconds), f"{percent:.1f}")


def layer_cells(profile: Profile, peak: float | None) -> Iterator[tuple[float, tuple[str, ...]]]:
    """For each of the slowest layers its share in percent, and its texts."""
    for layer in profile.slowest:
        percent = profile.share_percent(layer.microseconds)
        yield (
            percent,
            (
                layer.name,
                layer.op,
                _ms(layer.microseconds),
                f"{percent:.1f}",
                f"{layer.multiply_adds / 1e6:,.2f}" if layer.multiply_adds else NOTHING,
                NOTHING if layer.gflops is None else statistics.figure(layer.gflops),
                _share_of_peak(layer, peak),
                " + ".join(layer.originals) or _OWN,
            ),
        )


def print_profiles(results: Results, console: Console) -> None:
    """Print them all; nothing where none was asked for."""
    for profile in results.profiles:
        console.print(Text(f"Profile of {title(profile)}", style="bold"))
        console.print(Text(summary(profile)), soft_wrap=not console.is_terminal)
        if not profile.reason:
            console.print(_table(OPERATORS, [cells for _, cells in operator_cells(profile)]))
            peak = peak_of(results, profile)
            console.print(_table(LAYERS, [cells for _, cells in layer_cells(profile, peak)]))
    for text in notes(results):
        console.print(Text(text, style="dim"), soft_wrap=not console.is_terminal)


def profile_body(results: Results) -> Iterator[str]:
    """What stands in the page's section."""
    for profile in results.profiles:
        yield f"<h3>{escape(title(profile))}</h3><p>{escape(summary(profile))}</p>"
        if not profile.reason:
            peak = peak_of(results, profile)
            name = title(profile)
            yield from _bars(f"Operators of {name}", OPERATORS, operator_cells(profile))
            yield from _bars(f"Slowest layers of {name}", LAYERS, layer_cells(profile, peak))
    yield "<ul>"
    yield from (f"<li>{escape(text)}</li>" for text in notes(results))
    yield "</ul>"


def notes(results: Results) -> list[str]:
    """How the figures were found; nothing where there are none."""
    if not results.profiles:
        return []
    found = [FORMULA, f"Of the layers the {TOP} slowest are shown; --json has all of them."]
    if results.roofline is None:
        found.append("The share of the machine's peak needs --roofline.")
    return found


def peak_of(results: Results, profile: Profile) -> float | None:
    """The peak for graphs of that precision; None if none was measured."""
    peak = results.roofline and results.roofline.compute_peak(profile.precision)
    return peak.rate if peak else None


def _share_of_peak(layer: Layer, peak: float | None) -> str:
    if peak is None or layer.gflops is None:
        return NOTHING
    return f"{100 * layer.gflops / peak:.0f}"


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1e3:,.3f}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in titles:
        justify = "left" if name in WORDS else "right"
        table.add_column(Text(name), justify=justify, no_wrap=name != "does the work of")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _bars(
    label: str, titles: Sequence[str], rows: Iterator[tuple[float, tuple[str, ...]]]
) -> Iterator[str]:
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
    yield "<table><thead><tr>"
    yield from (
        f'<th scope="col"{_class(name)}>{escape(name)}</th>'
        for name in (titles[0], "share", *titles[1:])
    )
    yield "</tr></thead><tbody>"
    for percent, (first, *others) in rows:
        yield f'<tr><th scope="row">{escape(first)}</th><td>{_bar(percent)}</td>'
        yield from (
            f"<td{_class(name)}>{escape(text)}</td>"
            for name, text in zip(titles[1:], others, strict=True)
        )
        yield "</tr>"
    yield "</tbody></table></div>"


def _class(title: str) -> str:
    return "" if title in (*WORDS, "share") else ' class="number"'


def _bar(percent: float) -> str:
    """A drawing rather than a background, which a printer leaves out."""
    width = _BAR * min(100.0, percent) / 100
    return (
        f'<svg role="img" aria-label="{percent:.1f} %" width="{_BAR}" height="{_BAR_HEIGHT}">'
        f'<rect width="{_BAR}" height="{_BAR_HEIGHT}" fill="var(--line)"/>'
        f'<rect width="{width:.1f}" height="{_BAR_HEIGHT}" fill="var(--accent)"/></svg>'
    )
