"""Profiles for a reader: where the time of a network goes."""

from __future__ import annotations

from collections.abc import Iterator

from repr_bench.report.document import NOTHING, Line, Section, Table, notes, table
from repr_bench.report.rows import title_of
from repr_bench.results.profile import FORMULA, TOP, Layer, Profile
from repr_bench.results.results import Results
from repr_bench.statistics import intervals

OPERATORS = ("operator", "nodes", "ms", "%")
LAYERS = ("layer", "operator", "ms", "%", "mult-adds M", "GFLOP/s", "% of peak", "does the work of")
WORDS = ("operator", "layer", "does the work of")
"""Titles of columns that hold text."""
_SPARE = ("does the work of", "mult-adds M", "GFLOP/s", "% of peak")
_OWN = "added by ONNX Runtime"


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
                NOTHING if layer.gflops is None else intervals.figure(layer.gflops),
                _share_of_peak(layer, peak),
                " + ".join(layer.originals) or _OWN,
            ),
        )


def profiles_section(results: Results) -> Section:
    """Each profile's operators and its slowest layers."""
    return Section(
        "profiles",
        "Profiles",
        parts=tuple(_part(results, profile) for profile in results.profiles),
        notes=notes("meaning", meanings(results)),
    )


def _part(results: Results, profile: Profile) -> Section:
    name = title_of(profile)
    tables: tuple[Table, ...] = ()
    if not profile.reason:
        peak = peak_of(results, profile)
        operators = (Line(cells, share=share) for share, cells in operator_cells(profile))
        layers = (Line(cells, share=share) for share, cells in layer_cells(profile, peak))
        tables = (
            table(f"Operators of {name}", OPERATORS, operators, WORDS),
            table(f"Slowest layers of {name}", LAYERS, layers, WORDS, _SPARE),
        )
    return Section("", f"Profile of {name}", text=summary(profile), tables=tables)


def meanings(results: Results) -> list[str]:
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
