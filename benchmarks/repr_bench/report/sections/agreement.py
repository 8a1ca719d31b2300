"""The sentences on whose answers were compared with whose, and which changes to take seriously."""

from collections.abc import Iterator
from dataclasses import replace

from repr_bench.report.document import NOTHING, Section, notes, table
from repr_bench.report.sections.columns import probability, with_wilson
from repr_bench.results.graph import MARGINS, Agreement, Graph
from repr_bench.results.results import Results

SIGNIFICANT = 0.05


def agreement_cautions(results: Results) -> list[str]:
    """What speaks against a graph's answers: skipped images, sure ones that changed, real loss."""
    found = []
    sure = MARGINS[-1]
    for name, graph in _graphs(results):
        if graph.skipped:
            images = f"{graph.skipped:,} image{'s' if graph.skipped != 1 else ''}"
            found.append(f"{name}: {images} left out; the first: {graph.skip_reason}")
        bands = graph.agreement.bands[-1:] if graph.agreement else ()
        if graph.agreement and (changed := sum(band.images - band.same for band in bands)):
            found.append(
                f"{name} changes {changed:,} answer{'s' if changed != 1 else ''} of which "
                f"{graph.agreement.reference} was sure (margin {sure:g} or more)"
            )
        flips = graph.flips
        if flips and flips.lost > flips.gained and flips.p_value < SIGNIFICANT:
            found.append(
                f"{name} loses more of fp32's right answers than chance explains: {flips.lost:,} lost, "
                f"{flips.gained:,} gained (p {probability(flips.p_value)})"
            )
    return found


def record_cautions(results: Results) -> list[str]:
    """Which graphs' accuracy is another than is on record of their weights, with both figures."""
    return [
        f"{name} gets {with_wilson(graph.figures['top1_percent'])} % top-1, and of its weights "
        f"{100 * graph.trained_top1:.2f} % is on record: were they trained for this very network, "
        f"preprocessing and order of classes?"
        for name, graph in _graphs(results)
        if graph.off_record and graph.trained_top1 is not None
    ]


def agreement_meanings(results: Results) -> list[str]:
    """What the columns of agreement and flips say."""
    graphs = list(_graphs(results))
    compared = [(graph.agreement, graph.accuracy) for _, graph in graphs if graph.agreement]
    found = []
    if compared:
        references = dict.fromkeys(agreement.reference for agreement, _ in compared)
        unlabelled = dict.fromkeys(
            agreement.description for agreement, accuracy in compared if accuracy is None
        )
        on = f" on {'; '.join(unlabelled)}" if unlabelled else ""
        found.append(f"agree: the same largest class as {' or '.join(references)}{on}.")
    if any(graph.flips for _, graph in graphs):
        found.append(
            "flips: right in fp32 and wrong here (−), and the other way (+); p is how likely chance "
            "alone makes them so unequal (McNemar's exact test, two-sided)."
        )
    return found


def unlabelled_details(results: Results) -> list[str]:
    """Each graph's agreement in a sentence, of those without labels, which show nothing else."""
    return [
        _details(name, graph.agreement)
        for name, graph in _graphs(results)
        if graph.agreement and graph.accuracy is None
    ]


def agreement_section(results: Results) -> Section:
    """Whose answers are those of its reference, and how far: a line for each graph."""
    blank = Section("agreement", "Agreement", page_only=True, folded=True)
    compared = [(name, graph.agreement) for name, graph in _graphs(results) if graph.agreement]
    if not compared:
        return replace(blank, text="No graph was compared with another network's answers.")
    references = dict.fromkeys(agreement.reference for _, agreement in compared)
    titles = (
        *("graph", "same class", "% (95 %)", *(f"margin ≥ {margin:g}" for margin in MARGINS)),
        *("weighed %", "divergence", "largest shift", "surest change"),
    )
    lines = [(name, *_cells(agreement)) for name, agreement in compared]
    if len(references) > 1:  # else the sentence says it
        titles = (*titles, "compared with")
        lines = [
            (*line, agreement.reference)
            for line, (_, agreement) in zip(lines, compared, strict=True)
        ]
    method = (
        f"same class: the largest is that of {' or '.join(references)}; margin: how far its largest "
        f"probability leads; weighed: each image by its margin; divergence: the images' mean, in "
        f"nats; shift: of any probability; surest change: the largest margin of an answer that changed."
    )
    found = table("Table of agreement", titles, lines, ("graph", "compared with"))
    return replace(blank, tables=(found,), notes=notes("meaning", [method]))


def _cells(agreement: Agreement) -> tuple[str, ...]:
    bands = {band.margin: band for band in agreement.bands}
    changed = agreement.same < agreement.images
    return (
        f"{agreement.same:,} of {agreement.images:,}",
        with_wilson(agreement.figure),
        *(
            f"{bands[margin].same:,} of {bands[margin].images:,}" if margin in bands else NOTHING
            for margin in MARGINS
        ),
        f"{agreement.weighted_percent:.3f}",
        f"{agreement.mean_kl:.2g}",
        f"{agreement.largest_shift:.2g}",
        f"{agreement.largest_flipped_margin:.2g}" if changed else NOTHING,
    )


def _details(name: str, agreement: Agreement) -> str:
    bands = ", ".join(
        f"{band.same:,} of {band.images:,} where its margin is {band.margin:g} or more"
        for band in agreement.bands
    )
    text = (
        f"{name} answers as {agreement.reference} on {agreement.same:,} of {agreement.images:,} "
        f"images, {bands}; {agreement.weighted_percent:.3f} % weighed by margin; "
        f"mean divergence {agreement.mean_kl:.2g} nats, largest shift of a probability "
        f"{agreement.largest_shift:.2g}"
    )
    if agreement.same < agreement.images:
        text += f"; the surest changed answer had margin {agreement.largest_flipped_margin:.2g}"
    return text + "."


def _graphs(results: Results) -> Iterator[tuple[str, Graph]]:
    """Each graph once, whatever its batches, with its name in a sentence."""
    seen = set()
    for row in results.rows:
        if row.graph is not None and (row.label, row.precision) not in seen:
            seen.add((row.label, row.precision))
            yield f"{row.label} {row.precision}", row.graph
