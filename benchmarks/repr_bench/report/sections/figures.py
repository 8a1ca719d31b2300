"""The sentences below the figures: what they mean, and what speaks against trusting them."""

from repr_bench.report.document import Kind, Note, Section, notes
from repr_bench.report.rows import title_of
from repr_bench.report.sections.agreement import (
    agreement_cautions,
    agreement_meanings,
    record_cautions,
    unlabelled_details,
)
from repr_bench.report.sections.columns import BELOW_BAR, MEMORY, figures_table
from repr_bench.report.sections.machine import NOISE_RULE, machine_cautions, warm_up
from repr_bench.results.results import Results
from repr_bench.statistics import intervals

_FEW_SAMPLES = 100


INTERRUPTED = "interrupted: what was measured until then is shown"


def figures_section(results: Results, *, page: bool) -> Section:
    """The main table; on a page its meanings stand among the formulae."""
    found = (*problems(results), *notes("caution", cautions(results)))
    if not results.rows and (results.scenarios or results.end_to_end):
        found = ()  # only other tools' runs
    if not page:
        found += notes("meaning", _how(results, details=True))
    return Section("figures", "Figures", tables=(figures_table(results),), notes=found)


def formulae_section(results: Results) -> Section:
    """What the columns say, and how figures are found."""
    sentences = [
        *_how(results, details=False),
        intervals.LATENCY_INTERVAL_FORMULA,
        intervals.ACCURACY_INTERVAL_FORMULA,
        "Figures are shown with the digits that their interval supports, four at most.",
    ]
    return Section(
        "formulae", "Formulae", notes=notes("meaning", sentences), page_only=True, folded=True
    )


def _how(results: Results, *, details: bool) -> list[str]:
    if not results.rows and (results.scenarios or results.end_to_end):
        return [other.meaning for other in results.others]
    return meanings(results, details=details)


def problems(results: Results) -> tuple[Note, ...]:
    """Why rows have no figures, a note for each reason."""
    found = [*notes("problem", [INTERRUPTED] if results.interrupted else [])]
    rows: dict[tuple[Kind, str], list[str]] = {}
    for row in results.rows:
        if row.reason:
            # What was asked for and is not there comes before any caution on what is.
            kind: Kind = "finding" if row.status == "absent" else "problem"
            rows.setdefault((kind, row.reason), []).append(title_of(row))
    found += [Note(kind, f"{', '.join(of)}: {reason}") for (kind, reason), of in rows.items()]
    differ = {
        f"{row.label} {row.precision}: {row.graph.difference}": None
        for row in results.rows
        if row.graph and row.graph.answers_differ
    }
    return (*found, *notes("problem", differ))


def cautions(results: Results) -> list[str]:
    """What a reader must know before trusting or comparing these figures."""
    settings, rows = results.settings, [row for row in results.rows if row.samples]
    low = {
        f"{row.label} ({100 * top1:.2f} % top-1 on all test images, its bar is {100 * bar:g} %)": 0
        for row in results.rows
        if row.graph and row.graph.below_bar
        for top1, bar in [(row.graph.trained_top1 or 0.0, row.graph.bar or 0.0)]
    }
    emulated = dict.fromkeys(row.precision for row in rows if row.emulated)
    found = [
        f"{precision} on a CPU is emulation: its latency says nothing, and only its weights are "
        f"rounded; the accuracy with all values rounded is in the artifact's receipt"
        for precision in emulated
    ]
    if settings.quick:
        found.insert(
            0,
            f"a quick look (--quick): {settings.seconds:g} s and {settings.samples} samples a row; "
            f"the intervals say what that costs",
        )
    if low:
        found.insert(0, f"{BELOW_BAR} below its bar: {', '.join(low)}")
    found[:0] = record_cautions(results)
    found += agreement_cautions(results)
    if results.environment.busy():
        found.append(
            f"the machine was busy as the run began (load {results.environment.load_before[0]:g}); "
            f"run it again on an idle one before comparing"
        )
    found += machine_cautions(results)
    if unsteady := [title_of(row) for row in rows if not row.steady]:
        found.append(f"not steady when the warm-up reached its limit: {', '.join(unsteady)}")
    if few := [title_of(row) for row in rows if row.samples < _FEW_SAMPLES]:
        found.append(f"p99 of fewer than {_FEW_SAMPLES} samples is the largest: {', '.join(few)}")
    return found


def meanings(results: Results, *, details: bool = True) -> list[str]:
    """What the columns say, and on which images.

    With ``details``, what there is to say of graphs without accuracy, where no table says it.
    """
    settings, rows = results.settings, [row for row in results.rows if row.graph]
    found = [
        f"Latency of one call of Session.run, arrays in and arrays out; at least "
        f"{settings.seconds:g} s and {settings.samples} samples a row, all rows interleaved in "
        f"{settings.rounds} rounds. images/s = images timed / time timed.",
        intervals.PERCENTILE_FORMULA,
    ]
    if any(row.peak_memory_bytes is not None for row in rows):
        found.append(
            f"{MEMORY}: by how much loading the session and running it once at this batch size raised "
            f"the peak of the process's resident memory (a GPU's own is not in it)."
        )
    if text := warm_up(results):
        found.append(text)
    if any(row.noisy for row in results.rows):
        found.append(NOISE_RULE)
    data = dict.fromkeys(
        row.graph.accuracy.description for row in rows if row.graph and row.graph.accuracy
    )
    if data:
        found.append(f"top-1 on {'; '.join(data)}; Wilson's 95 % interval in brackets.")
    found += agreement_meanings(results)
    if details:
        found += unlabelled_details(results)
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.graph and row.graph.accuracy is None:
            reasons.setdefault(row.graph.accuracy_note, []).append(row.label)
    found += [
        f"no top-1 for {', '.join(dict.fromkeys(labels))}: {reason}"
        for reason, labels in reasons.items()
    ]
    if choices := dict.fromkeys(row.graph.choice for row in rows if row.graph):
        found.append(f"Run by {'; '.join(choices)}.")
    found += [other.meaning for other in results.others]
    return found
