"""The table of servers: what asking them costs beside the artifact itself, and what they get right."""

from collections.abc import Iterator

from repr_bench.report.document import NOTHING, Line, Section, notes, table
from repr_bench.report.rows import title_of
from repr_bench.report.sections.columns import TOP1, agreement_text, text_of, top1_text
from repr_bench.report.sections.peers import peer_problems
from repr_bench.results.peers import MEASURES, OURS, PeerRow, added_us, ratio
from repr_bench.statistics.intervals import Figure, Interval, times

IN_PROCESS, RUN_BY = "in process", "run by"
_WORDS = ("network", "precision", RUN_BY)
_TITLES = (
    *("network", "precision", "batch", RUN_BY, "p50 ms", "p90 ms", "p99 ms"),
    *("p50 against it", "+ µs", "images/s", "images/s against it", TOP1),
)
_SPARE = ("precision", "p90 ms", "images/s", "p50 ms", "batch")
_MEANING = (
    "In process is this project's runtime on the same graph, here; each server was asked in the same "
    "rounds. A latency is one caller's, from arrays to arrays: the request made, sent, answered, read "
    "and checked. Images/s are those of so many callers, each of whom asks again as it is answered.",
    "Against it: of each round the server's median over that in process (× time, × images/s); of the "
    "rounds the geometric mean, with a bootstrap interval over rounds. + µs: by how much its median "
    "is above, on the mean of the rounds.",
)


def servers_section(rows: tuple[PeerRow, ...]) -> Section:
    """``rows`` are those of servers, and ours."""
    return Section(
        "servers",
        "Servers",
        tables=(table("Table of servers", _TITLES, _lines(rows), _WORDS, _SPARE),),
        notes=(
            *peer_problems(rows),
            *notes("caution", _cautions(rows)),
            *notes("remark", _remarks(rows)),
            *notes("meaning", (*_MEANING, *_settings(rows))),
        ),
    )


def _lines(rows: tuple[PeerRow, ...]) -> Iterator[Line]:
    """One for each server and batch size, of both measures."""
    by_key = {(row.ran, row.batch, row.peer, row.measure): row for row in rows}
    for ran, batch, peer in dict.fromkeys((row.ran, row.batch, row.peer) for row in rows):
        latency, throughput = (by_key.get((ran, batch, peer, which)) for which in MEASURES)
        shown = [row for row in (latency, throughput) if row is not None and row.rounds_ns]
        if not shown:
            continue
        own, own_many = (by_key.get((ran, batch, OURS, which)) for which in MEASURES)
        slower, more, fewer = _against(own, own_many, latency, throughput)
        percents = (
            text_of(latency.latency_ms.get(p)) if latency else NOTHING for p in (50, 90, 99)
        )
        graph = shown[0].graph
        yield Line(
            (
                *(ran[0], ran[1], str(batch), IN_PROCESS if peer == OURS else peer),
                *(*percents, slower, more),
                text_of(throughput.images_per_second) if throughput else NOTHING,
                *(fewer, _right(shown[0])),
            ),
            "bad" if graph and graph.answers_differ else "",
        )


def _against(
    own: PeerRow | None,
    own_many: PeerRow | None,
    latency: PeerRow | None,
    throughput: PeerRow | None,
) -> tuple[str, str, str]:
    """How many times the time in process, how many µs more, how many times the images/s."""
    slower = more = fewer = NOTHING
    if own and latency and own is not latency and (found := ratio(own, latency)):
        slower = times(found.figure)
        more = text_of(added_us(own, latency))
    if own_many and throughput and own_many is not throughput:
        found = ratio(own_many, throughput)
        fewer = times(_inverse(found.figure)) if found else NOTHING
    return slower, more, fewer


def _inverse(figure: Figure) -> Figure:
    ends = figure.interval
    return Figure(1 / figure.value, ends and Interval(1 / ends.high, 1 / ends.low))


def _right(row: PeerRow) -> str:
    """Top-1; where that is not known the agreement."""
    found = top1_text(row)
    if found == NOTHING and (agree := agreement_text(row)) != NOTHING:
        return f"agrees on {agree} %"
    return found


def _cautions(rows: tuple[PeerRow, ...]) -> Iterator[str]:
    """Where a server answers other numbers than its network."""
    said = dict.fromkeys(
        f"{row.peer} answers {row.label} otherwise than the original network: {row.graph.difference}"
        for row in rows
        if row.server and row.graph and row.graph.answers_differ
    )
    yield from said
    if unsteady := dict.fromkeys(
        f"{row.peer if row.server else IN_PROCESS} ({title_of(row)})"
        for row in rows
        if row.rounds_ns and not row.steady
    ):
        yield f"not steady when the warm-up reached its limit: {', '.join(unsteady)}"


def _remarks(rows: tuple[PeerRow, ...]) -> Iterator[str]:
    """Why an accuracy is not known."""
    yield from dict.fromkeys(
        f"no accuracy of {row.label} at {row.peer}: {row.graph.accuracy_note}"
        for row in rows
        if row.server and row.graph and row.graph.accuracy_note
    )


def _settings(rows: tuple[PeerRow, ...]) -> Iterator[str]:
    said: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.settings:
            who = row.peer if row.server else f"{IN_PROCESS} ({row.measure})"
            said.setdefault(who, {})[row.settings] = None
    yield from (f"{who}: {'; '.join(how)}" for who, how in said.items())
