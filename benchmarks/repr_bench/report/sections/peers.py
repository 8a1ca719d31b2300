"""The table of peers: their figures beside ours, and how many times as fast ours is."""

from collections.abc import Iterator

from repr_bench.report.document import NOTHING, Note, Section, notes, table
from repr_bench.report.rows import latency_of, title_of
from repr_bench.report.sections.columns import text_of
from repr_bench.results.peers import (
    ALL_MEASURES,
    OURS,
    RATIO_FORMULA,
    Overall,
    PeerRow,
    Ratio,
    best_ratios,
    ratios_at,
)
from repr_bench.statistics.intervals import times

TITLES = ("network", "precision", "measure", "batch", "run by", "p50 ms", "images/s", "ours is")
WORDS = ("network", "precision", "measure", "run by")
"""Titles of columns that hold text."""
_SPARE = ("images/s", "precision")


def peers_section(rows: tuple[PeerRow, ...]) -> Section:
    """What the peers took, the means over networks, and why some are missing."""
    return Section(
        "peers",
        "Peers",
        tables=(table("Table of peers", TITLES, peer_cells(rows), WORDS, _SPARE),),
        notes=(
            *notes("finding", summaries(rows)),
            *peer_problems(rows),
            *notes("meaning", meanings(rows)),
        ),
    )


def peer_cells(rows: tuple[PeerRow, ...]) -> Iterator[tuple[str, ...]]:
    """The table's rows, those with samples; ratios are at the same batch size."""
    for row in rows:
        if not row.rounds_ns:
            continue
        yield (
            *(row.label, row.precision, row.measure, str(row.batch or NOTHING), row.peer),
            *(text_of(latency_of(row, 50)), text_of(row.images_per_second)),
            NOTHING if (found := ratio_of(rows, row)) is None else times(found.figure),
        )


def ratio_of(rows: tuple[PeerRow, ...], row: PeerRow) -> Ratio | None:
    """Ours against that row; None for our own, and where one of both is missing."""
    if row.peer == OURS or row.batch is None:
        return None
    found = ratios_at(rows, row.measure, row.peer, row.batch)
    return next((one for one in found if one.peer is row), None)


def overalls(rows: tuple[PeerRow, ...]) -> Iterator[tuple[str, Overall]]:
    """For each measure, batch and peer its name in words, and the ratios over all networks.

    Each precision by itself: a mean over fp32 and int8 graphs means nothing.
    """
    keys = dict.fromkeys((row.precision, row.peer) for row in rows if row.peer != OURS)
    for precision, peer in keys:
        of = tuple(row for row in rows if row.precision == precision)
        batches = {
            m: sorted({r.batch for r in of if r.measure == m and r.batch}) for m in ALL_MEASURES
        }
        cases = [
            (f"{measure} at batch {batch}", ratios_at(of, measure, peer, batch))
            for measure in ALL_MEASURES
            for batch in batches[measure]
        ]
        if len(batches["throughput"]) > 1:
            cases.append(("throughput with each at its best batch", best_ratios(of, peer)))
        for what, ratios in cases:
            if ratios:
                yield f"{peer}, {precision} {what}", Overall(tuple(ratios))


def summaries(rows: tuple[PeerRow, ...]) -> list[str]:
    """A sentence for each measure and peer: the mean over networks, and the least ratio."""
    return [
        f"{what}: ours is {times(found.mean)} as fast over {len(found.ratios)} network"
        f"{'s' if len(found.ratios) > 1 else ''}; least {times(found.least.figure)}, "
        f"{found.least.ours.label}"
        for what, found in overalls(rows)
    ]


def peer_problems(rows: tuple[PeerRow, ...]) -> tuple[Note, ...]:
    """Why peers have no figures: one note for each peer and reason."""
    found: dict[tuple[str, str, str], dict[str, None]] = {}
    for row in rows:
        if row.status != "measured":
            names = found.setdefault((row.peer, row.status, row.reason), {})
            names[title_of(row)] = None
    return tuple(
        Note(
            "problem" if status == "failed" else "remark",
            f"{peer} {status} for {', '.join(names)}: {reason}",
        )
        for (peer, status, reason), names in found.items()
    )


def meanings(rows: tuple[PeerRow, ...]) -> list[str]:
    """What the figures say, and how each peer ran."""
    found = [
        "Same graph or weights, inputs, threads and batch; all of a network timed in the same "
        "rounds. Throughput: as many batches at once as each takes.",
        *(
            ["On-gpu: a latency without copies, inputs and outputs lie on the GPU."]
            if any(row.measure == "on-gpu" for row in rows)
            else []
        ),
        f"{RATIO_FORMULA[0].upper()}{RATIO_FORMULA[1:]}",
    ]
    settings: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.settings:
            settings.setdefault(f"{row.peer} ({row.measure})", {})[row.settings] = None
    found += [f"{peer}: {'; or '.join(which)}" for peer, which in settings.items()]
    if checked := [
        row.same_answers for row in rows if row.same_answers and row.status == "measured"
    ]:
        found.append(
            f"Each gives our top-1 on at least {min(a.same for a in checked)} of "
            f"{min(a.images for a in checked)} images."
        )
    return found
