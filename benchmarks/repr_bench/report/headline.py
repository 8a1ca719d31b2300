"""What a run comes to: the fastest at equal accuracy, and what each precision costs.

The rules:

- Compared are rows of one batch size and one set of images whose latency counts (not emulated) and
  whose outputs are right: of each set those of the batch that most of them have, the smallest of
  several.
- Equally accurate is what lies at or above the lower end of the 95 % interval of the most accurate
  row, unless it lost more of its own fp32 graph's right answers than chance explains.
- The fastest of these has the lowest p50. Rows whose 95 % interval touches its own, and rows without
  one, may be as fast: then all of them are named.
- A precision is held against fp32 of the same network and batch: round by round in time, as the rounds
  were interleaved, and answer by answer in top-1.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from repr_bench.report.dates import moment
from repr_bench.report.frontier import comparable, counts
from repr_bench.report.rows import AnyRow, title_of
from repr_bench.report.sections.agreement import SIGNIFICANT
from repr_bench.report.sections.columns import probability, with_wilson
from repr_bench.report.sections.scenarios import with_interval
from repr_bench.results.comparison import Comparison
from repr_bench.results.peers import geometric_mean
from repr_bench.results.results import Results
from repr_bench.results.row import Row
from repr_bench.statistics.intervals import Figure, times
from repr_bench.statistics.verdict import log_medians

_MOST_NAMES = 3


Point = tuple[str, str]
"""What it is about, in a word or two, and a sentence."""


@dataclass(frozen=True)
class Headline:
    """A title that answers, the figures of it in a sentence, and what else one must know."""

    title: str
    lead: str = ""
    points: tuple[Point, ...] = ()


def headline(results: Results) -> Headline:
    """The answer of a run, by the rules above; it says so where there is none."""
    rows = [row for row in results.rows if counts(row)]
    more = (*_costs(results.rows), *_compared(results.comparison))
    if known := _largest_groups(comparable(rows)):
        first, *others = known
        points = [*_meant(first)]
        for group in others:
            title = _name(group.best) if len(group.rows) == 1 else _title(group)
            points += [(f"On {_images(group.best)}", f"{title}, {_lead(group, rows)}")]
            points += _meant(group)
        return Headline(
            _title(first), _lead(first, rows), (*points, *_without_accuracy(rows), *more)
        )
    if rows:
        title, lead, unknown = _fast(rows)
        return Headline(title, lead, (unknown, *more))
    return Headline(_nothing(results), "", more)


@dataclass(frozen=True)
class _Group:
    """Rows of one batch and set of images: the most accurate, and those as accurate, by p50."""

    rows: Sequence[Row]
    best: Row
    equal: Sequence[Row]
    fastest: Sequence[Row]


def _largest_groups(groups: Mapping[tuple[int, str], Sequence[Row]]) -> list[_Group]:
    """For each set of images the batch with the most rows; the set with the most rows first."""
    chosen: dict[str, Sequence[Row]] = {}
    for (_, images), members in groups.items():  # the smallest batch comes first
        if len(members) > len(chosen.get(images, ())):
            chosen[images] = members
    return [_group(members) for members in sorted(chosen.values(), key=len, reverse=True)]


def _group(rows: Sequence[Row]) -> _Group:
    best = max(rows, key=lambda row: (_top1(row).value, -_p50(row).value))
    interval = _top1(best).interval
    floor = interval.low if interval else _top1(best).value
    equal = [r for r in rows if r is best or (_top1(r).value >= floor and not _lost(r))]
    equal.sort(key=lambda row: _p50(row).value)
    return _Group(rows, best, equal, _fastest(equal))


def _fastest(rows: Sequence[Row]) -> Sequence[Row]:
    """The first of ``rows`` by p50, and all that may be as fast."""
    ordered = sorted(rows, key=lambda row: _p50(row).value)
    first = _p50(ordered[0]).interval
    return [
        row
        for row in ordered
        if row is ordered[0]
        or first is None
        or (own := _p50(row).interval) is None
        or own.low <= first.high
    ]


def _title(group: _Group) -> str:
    if len(group.rows) == 1:
        (row,) = group.rows
        return f"{_name(row)}: {_p50(row)} ms, {_top1(row).value:.2f} % top-1"
    return f"Fastest at equal accuracy: {_or(group.fastest)}"


def _lead(group: _Group, rows: Sequence[Row]) -> str:
    """How fast and how accurate, and what is the fastest at other batch sizes."""
    first = group.fastest[0]
    if len(group.fastest) > 1:
        each = "; ".join(f"{_name(row)} {_ms(row)}" for row in group.fastest[:_MOST_NAMES])
        text = f"This run cannot tell which of them is faster at batch {first.batch}: {each}."
    else:
        text = f"{_ms(first)} at batch {first.batch}, {_right(first)}."
    return " ".join((text, *_other_batches(group, rows)))


def _meant(group: _Group) -> Iterator[Point]:
    """What equal means, what is faster but less accurate, and whose weights miss their bar."""
    best = group.best
    if len(group.equal) > 1:
        brief = "" if [best] == group.fastest else f" ({_brief(best)})"
        yield (
            "Equal accuracy",
            f"{len(group.equal)} of {len(group.rows)} rows are within the 95 % interval of the most "
            f"accurate, {_name(best)}{brief}.",
        )
    elif len(group.rows) > 1:
        yield (
            "Equal accuracy",
            f"no other of {len(group.rows)} rows comes within its 95 % interval without a loss beyond "
            f"chance.",
        )
    quickest = min(group.rows, key=lambda row: _p50(row).value)
    if quickest not in group.equal:
        yield "Faster, less accurate", f"{_name(quickest)}, {_brief(quickest)}."
    below = {r.label: r.graph for r in group.fastest if r.graph and r.graph.below_bar}
    for label, graph in below.items():
        trained, bar = 100 * (graph.trained_top1 or 0.0), 100 * (graph.bar or 0.0)
        yield (
            "Below its bar",
            f"the weights of {label} get {trained:.2f} % on all test images and should get {bar:g} %.",
        )


def _other_batches(group: _Group, rows: Sequence[Row]) -> Iterator[str]:
    """What is the fastest at other batch sizes, on the same images."""
    if len(group.rows) == 1:
        return
    found: dict[str, list[int]] = {}
    for (batch, images), members in comparable(rows).items():
        if images == _images(group.best) and batch != group.best.batch and len(members) > 1:
            found.setdefault(_or(_group(members).fastest), []).append(batch)
    same = found.pop(_or(group.fastest), [])
    if same:
        yield f"The same at batch {_and(same)}."
    for names, batches in found.items():
        yield f"At batch {_and(batches)}: {names}."


def _fast(rows: Sequence[Row]) -> tuple[str, str, Point]:
    """The answer where no accuracy is known: speed alone, and that it is no more than that."""
    sizes = Counter(row.batch or 0 for row in rows)
    batch = max(sorted(sizes), key=lambda size: sizes[size])
    members = [row for row in rows if row.batch == batch]
    fastest = _fastest(members)
    first = fastest[0]
    why = first.graph.accuracy_note if first.graph else ""
    known = f"not known{f': {why}' if why else ''}"
    agreement = first.graph.agreement if first.graph else None
    if agreement:
        known += f". {_name(first)} answers as {agreement.reference} on "
        known += f"{_percent(agreement.figure)} of {agreement.images:,} images"
    unknown = "Accuracy", f"{known}."
    if len(members) == 1:
        rate = first.images_per_second
        speed = f", {_with_unit(rate, 'images/s')}" if rate else ""
        title = f"{_name(first)}: {_p50(first)} ms at batch {batch}"
        return title, f"{_ms(first)}{speed}.", unknown
    each = "; ".join(f"{_name(row)} {_ms(row)}" for row in fastest[:_MOST_NAMES])
    tied = "This run cannot tell which of them is faster: " if len(fastest) > 1 else ""
    return f"Fastest: {_or(fastest)}", f"{tied}{each} at batch {batch}.", unknown


def _without_accuracy(rows: Sequence[Row]) -> Iterator[Point]:
    labels = dict.fromkeys(row.label for row in rows if not (row.graph and row.graph.accuracy))
    if labels:
        yield "Left out", f"no accuracy is known of {_and([*labels])}."


def _nothing(results: Results) -> str:
    """Why there is no answer: nothing ran, all is emulated or wrong, or it was not asked for."""
    timed = [row for row in results.rows if row.samples]
    if timed and all(row.emulated for row in timed):
        return "Accuracy alone: on this device every row is emulated"
    if timed:
        return "No answer: what was timed gives other outputs than its network"
    if results.rows and not results.has_figures:
        failed = sum(row.status == "failed" for row in results.rows)
        many = f"{failed} of {len(results.rows)} row{'s' * (len(results.rows) > 1)} failed"
        return f"Nothing was measured: {many}" if failed else "Nothing was measured"
    kinds: tuple[AnyRow, ...] = (
        *results.scenarios,
        *results.end_to_end,
        *results.peers,
        *results.others,
    )
    networks = len({row.label for row in kinds})
    return f"{networks} network{'s' * (networks != 1)} measured"


def _costs(rows: Sequence[Row]) -> Iterator[Point]:
    """A point for each precision but fp32: how much faster, and what it does to the answers."""
    full = {(row.label, row.batch): row for row in rows if row.precision == "fp32" and row.samples}
    for precision in dict.fromkeys(r.precision for r in rows if r.precision not in ("fp32", None)):
        pairs = [
            (full[row.label, row.batch], row)
            for row in rows
            if row.precision == precision and row.samples and (row.label, row.batch) in full
        ]
        if pairs:
            yield str(precision), f"{_speed(pairs)}. {_loss(pairs)}."


_Pairs = Sequence[tuple[Row, Row]]


def _speed(pairs: _Pairs) -> str:
    """How many times as fast as fp32, at the smallest and the largest batch of most networks."""
    timed = [(full, row) for full, row in pairs if counts(full) and counts(row)]
    if not timed:
        emulated = any(row.emulated for _, row in pairs)
        return "emulated here, which says nothing of its speed" if emulated else "not timed"
    sizes = Counter(row.batch or 0 for _, row in timed)
    most = [size for size in sorted(sizes) if sizes[size] == max(sizes.values())]
    texts: list[str] = []
    for batch in dict.fromkeys((most[0], most[-1])):
        ratios = {row.label: _logs(full, row) for full, row in timed if row.batch == batch}
        mean = geometric_mean(tuple(ratios.values()))
        text = f"{times(mean)} as fast as fp32 at batch {batch}"
        if texts:
            text = f"{times(mean)} at batch {batch}"
        if mean.interval and mean.interval.low <= 1 <= mean.interval.high:
            text += ", which may be chance"
        if len(ratios) > 1:
            ends = {name: geometric_mean((logs,)).value for name, logs in ratios.items()}
            least, best = min(ends, key=ends.__getitem__), max(ends, key=ends.__getitem__)
            over = f" over {len(ratios)} networks" if not texts else ""
            text += f"{over}, {least} {ends[least]:.2f} × to {best} {ends[best]:.2f} ×"
        texts.append(text)
    return "; ".join(texts)


def _logs(full: Row, row: Row) -> tuple[float, ...]:
    """The logarithms of the times as fast, a value for each round that both have."""
    rounds = min(len(full.rounds_ns), len(row.rounds_ns))
    found = log_medians(full.rounds_ns)[:rounds] - log_medians(row.rounds_ns)[:rounds]
    return tuple(map(float, found))


def _loss(pairs: _Pairs) -> str:
    """What it does to top-1, or else to the answers, by network."""
    changes: dict[str, float] = {}
    images: dict[str, None] = {}
    graphs = {row.label: row.graph for _, row in pairs if row.graph}
    for full, row in pairs:
        right = row.graph and row.graph.accuracy
        was = full.graph and full.graph.accuracy
        if right and was and right.description == was.description:
            changes[row.label] = _top1(row).value - _top1(full).value
            images[f"{right.images:,} images"] = None
    if not changes:
        agreements = [g.agreement for g in graphs.values() if g.agreement]
        if not agreements:
            return "What it does to accuracy is not known"
        least = min(agreements, key=lambda found: found.figure.value)
        return f"It answers as {least.reference} on {_percent(least.figure)} of the images or more"
    low, high = min(changes, key=changes.__getitem__), max(changes, key=changes.__getitem__)
    on = f"on {' or '.join(images)}"
    if len(changes) == 1:
        text = f"Top-1 changes by {_points(changes[low])} points {on}"
    elif f"{changes[low]:.2f}" == f"{changes[high]:.2f}":
        text = f"Top-1 changes by {_points(changes[low])} points in each {on}"
    else:
        text = (
            f"Top-1 changes by {_points(changes[low])} ({low}) to {_points(changes[high])} points "
            f"({high}) {on}"
        )
    flips = {name: g.flips for name, g in graphs.items() if g.flips and name in changes}
    losers = [
        f"{name} (p {probability(found.p_value)})"
        for name, found in flips.items()
        if found.lost > found.gained and found.p_value < SIGNIFICANT
    ]
    if losers:
        return f"{text}, a loss beyond chance for {_and(losers)}"
    return f"{text}, no loss beyond chance" if flips else text


def _compared(comparison: Comparison | None) -> Iterator[Point]:
    """How many rows became slower or faster than in the run that this one is compared with."""
    if comparison is None:
        return
    which: dict[str, list[str]] = {}
    for row in comparison.rows:
        which.setdefault(row.verdict, []).append(title_of(row))
    texts = [
        f"{len(which[verdict])} {verdict}"
        + (f" ({_and(which[verdict])})" if verdict == "slower" else "")
        for verdict in ("slower", "faster", "same", "cannot tell", "only old", "only new")
        if verdict in which
    ]
    yield (
        f"Against {comparison.old}",
        f"{', '.join(texts)} (measured {moment(comparison.started)}).",
    )


def _top1(row: Row) -> Figure:
    assert row.graph is not None, "its accuracy is known"
    return row.graph.figures["top1_percent"]


def _p50(row: Row) -> Figure:
    return row.latency_ms[50]


def _lost(row: Row) -> bool:
    """Whether it lost more of its fp32 graph's right answers than chance explains."""
    flips = row.graph.flips if row.graph else None
    return bool(flips and flips.lost > flips.gained and flips.p_value < SIGNIFICANT)


def _images(row: Row) -> str:
    return row.graph.accuracy.description if row.graph and row.graph.accuracy else ""


def _name(row: Row) -> str:
    return " ".join(filter(None, (row.label, row.precision)))


def _ms(row: Row) -> str:
    return _with_unit(_p50(row), "ms")


def _with_unit(figure: Figure, unit: str) -> str:
    """``0.363 ms (0.361–0.365)``."""
    value, bracket, interval = with_interval(figure).partition(" (")
    return f"{value} {unit}{bracket}{interval}"


def _percent(figure: Figure) -> str:
    """``90.55 % (89.2–91.8)``."""
    value, bracket, interval = with_wilson(figure).partition(" (")
    return f"{value} %{bracket}{interval}"


def _brief(row: Row) -> str:
    return f"{_p50(row)} ms and {_top1(row).value:.2f} %"


def _right(row: Row) -> str:
    many = row.graph.accuracy.images if row.graph and row.graph.accuracy else 0
    return f"{_percent(_top1(row))} top-1 on {many:,} images"


def _points(change: float) -> str:
    """``−0.20``, ``+0.10``, ``0``."""
    return f"{change:+.2f}".replace("-", "−") if f"{abs(change):.2f}" != "0.00" else "0"


def _or(rows: Sequence[Row]) -> str:
    return _listed([*map(_name, rows)], "or")


def _and(names: Sequence[str | int]) -> str:
    return _listed([*map(str, names)], "and")


def _listed(names: Sequence[str], word: str) -> str:
    """``a, b or c``; of more than three the rest are counted."""
    shown = [*names[:_MOST_NAMES]]
    if len(names) > _MOST_NAMES:
        shown.append(f"{len(names) - _MOST_NAMES} more")
    return f" {word} ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
