"""Profiles for a reader: where the time of a network goes."""

from collections.abc import Iterator

from repr_bench.report.document import NOTHING, Line, Section, Table, notes, table
from repr_bench.report.rows import title_of
from repr_bench.results.profile import FORMULA, TOP, Profile
from repr_bench.results.results import Results
from repr_bench.results.roofline import Peak
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


def _operators(profile: Profile) -> Iterator[Line]:
    for share in profile.operators:
        percent = profile.share_percent(share.microseconds)
        cells = (share.op, str(share.layers), _ms(share.microseconds), f"{percent:.1f}")
        yield Line(cells, share=percent)


def _layers(profile: Profile, peak: Peak | None) -> Iterator[Line]:
    for layer in profile.slowest:
        percent, gflops = profile.share_percent(layer.microseconds), layer.gflops
        cells = (
            *(layer.name, layer.op, _ms(layer.microseconds), f"{percent:.1f}"),
            f"{layer.multiply_adds / 1e6:,.2f}" if layer.multiply_adds else NOTHING,
            NOTHING if gflops is None else intervals.figure(gflops),
            NOTHING if peak is None or gflops is None else f"{100 * gflops / peak.rate:.0f}",
            " + ".join(layer.originals) or _OWN,
        )
        yield Line(cells, share=percent)


def profiles_section(results: Results) -> Section:
    """Each profile's operators and its slowest layers."""
    parts = tuple(_part(results, profile) for profile in results.profiles)
    found = [FORMULA, f"Of the layers the {TOP} slowest are shown; --json has all of them."]
    if results.roofline is None:
        found.append("The share of the machine's peak needs --roofline.")
    return Section("profiles", "Profiles", parts=parts, notes=notes("meaning", found))


def _part(results: Results, profile: Profile) -> Section:
    name = title_of(profile)
    tables: tuple[Table, ...] = ()
    if not profile.reason:
        peak = results.roofline.compute_peak(profile.precision) if results.roofline else None
        layers = _layers(profile, peak)
        tables = (
            table(f"Operators of {name}", OPERATORS, _operators(profile), WORDS),
            table(f"Slowest layers of {name}", LAYERS, layers, WORDS, _SPARE),
        )
    return Section("", f"Profile of {name}", text=summary(profile), tables=tables, folded=True)


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1e3:,.3f}"
