"""What can be measured: every registered network, for a reader and for a program."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from repr_bench.artifacts import reason_to_leave_out, short_name
from repr_bench.report.document import NOTHING, Line, Table, table
from repr_bench.report.terminal import fits, print_table
from repr_runtime.artifact.manifest import MANIFEST_NAME
from repr_runtime.backends.precisions import cpu_precisions, sentence

if TYPE_CHECKING:
    from repr_models.spec import NetworkSpec

SCHEMA = 1


@dataclass(frozen=True)
class Weights:
    """Where trained weights come from: ``kind`` is ``bundled``, ``published`` or ``none``.

    ``source`` is the bundled file's name, or the library and its weights; ``top1`` the
    accuracy (0 to 1) that training recorded on the 10,000 test images, or that the publisher
    states of ImageNet's validation images.
    """

    kind: str
    source: str | None = None
    top1: float | None = None
    sha256: str | None = None
    url: str | None = None


@dataclass(frozen=True)
class Entry:
    """One network of the list; ``left_out`` says why a run without names does without it."""

    name: str
    architecture: str
    dataset: str
    family: str
    input_shape: tuple[int, int, int]
    classes: int
    parameters: int
    multiply_adds: int | None
    batchnorms: int
    folded: int
    kept_because: str
    bar: float | None
    below_bar: bool
    weights: Weights
    left_out: str
    artifact: str | None


def entries(artifacts: Path) -> list[Entry]:
    """All registered networks, the data set's together; builds none of them.

    ``artifacts`` is the folder that exported networks are looked for in.
    """
    from repr_models.registry import networks

    found = [_entry(spec, artifacts) for spec in networks()]
    order = list(dict.fromkeys(entry.dataset for entry in found))
    return sorted(found, key=lambda entry: order.index(entry.dataset))


def _entry(spec: NetworkSpec, artifacts: Path) -> Entry:
    weights = _weights(spec)
    folder = artifacts / short_name(spec)
    return Entry(
        name=spec.name,
        architecture=spec.architecture,
        dataset=spec.dataset.name,
        family=spec.family,
        input_shape=spec.input_shape,
        classes=spec.dataset.class_count,
        parameters=spec.parameters,
        multiply_adds=spec.multiply_adds,
        batchnorms=spec.fold.batchnorms,
        folded=spec.fold.folded,
        kept_because=spec.fold.reason,
        bar=spec.bar,
        below_bar=weights.kind == "bundled" and spec.is_below_bar(weights.top1 or 0.0),
        weights=weights,
        left_out=reason_to_leave_out(spec) or "",
        artifact=str(folder) if (folder / MANIFEST_NAME).is_file() else None,
    )


def _weights(spec: NetworkSpec) -> Weights:
    from repr_models.weights.bundled import bundled_path, bundled_record, is_bundled

    if is_bundled(spec):
        record = bundled_record(spec)
        top1, digest = record["accuracy"]["test_top1"], record["weights_sha256"]
        return Weights("bundled", bundled_path(spec).name, top1, digest)
    if spec.published is not None:
        them = spec.published
        return Weights("published", them.source, them.top1, them.sha256, them.url)
    return Weights("none")


def to_json(listed: Sequence[Entry]) -> str:
    """The list as JSON text."""
    networks = [asdict(entry) for entry in listed]
    body = {"schema": SCHEMA, "networks": networks, "cpu_precisions": dict(cpu_precisions())}
    return json.dumps(body, indent=1) + "\n"


def _top1(entry: Entry) -> str:
    top1 = entry.weights.top1
    bar = "" if entry.bar is None else f"{100 * entry.bar:g}"
    if top1 is None:
        return f"bar {bar}" if bar else NOTHING
    shown = f"{100 * top1:.2f}"
    if entry.weights.kind == "published" or not bar:
        return shown
    return f"{shown} {'<' if entry.below_bar else '≥'} {bar}"


def _millions(count: int | None, *, narrow: bool) -> str:
    """With two decimals, or with three digits at least."""
    if count is None:
        return NOTHING
    value = count / 1e6
    decimals = 2 if not narrow or value < 10 else 1 if value < 100 else 0
    return f"{value:,.{decimals}f}"


def _row(entry: Entry, reasons: Sequence[str], *, narrow: bool) -> Line:
    folds = NOTHING
    if entry.batchnorms:  # ``49 of 99 [1]``: the number leads to the reason below the table
        mark = f" [{reasons.index(entry.kept_because) + 1}]" if entry.kept_because else ""
        folds = f"{entry.folded}{'/' if narrow else ' of '}{entry.batchnorms}{mark}"
    source = entry.weights.kind.replace("none", NOTHING)
    if entry.weights.kind == "published":
        source = (entry.weights.source or "").split()[0] if narrow else str(entry.weights.source)
    cells = (
        entry.architecture if narrow else entry.name,
        _millions(entry.parameters, narrow=narrow),
        _millions(entry.multiply_adds, narrow=narrow),
        *(_top1(entry), folds, source),
        *(() if narrow else (entry.artifact or NOTHING,)),
    )
    return Line(cells, "warning" if entry.below_bar else "")


def _table(listed: Sequence[Entry], reasons: Sequence[str], *, narrow: bool) -> Table:
    titles = ("network", "params M", "madds M", "top-1 %", "folded", "weights", "artifact")
    rows = []
    before = None
    for entry in listed:
        if narrow and entry.dataset != before:
            before = entry.dataset
            rows.append(Line((f"for {before}:", *[""] * 5), "heading"))
        rows.append(_row(entry, reasons, narrow=narrow))
    words = ("network", "top-1 %", "folded", "weights", "artifact")
    spare = ("madds M", "params M") if narrow else ()
    found = table("Networks", titles[:6] if narrow else titles, rows, words, spare)
    return replace(found, plain=True)


def print_list(listed: Sequence[Entry], console: Console) -> None:
    """Print the table, in a pipe one line a network, and below it what its signs mean.

    On a terminal too narrow for that, the data set is said once for all its networks, names
    and sources are short, and columns that still have no room leave and are named.
    """
    reasons = list(dict.fromkeys(entry.kept_because for entry in listed if entry.kept_because))
    left: dict[str, None] = {}
    whole = _table(listed, reasons, narrow=False)
    narrow = not fits(whole, console)
    shown = _table(listed, reasons, narrow=True) if narrow else whole
    print_table(shown, console, left)
    console.print()
    for text in _legend(listed, reasons, [*left]):
        # In a pipe a line stays one line.
        console.print(Text(text, style="dim"), soft_wrap=not console.is_terminal)


def _legend(listed: Sequence[Entry], reasons: Sequence[str], left: Sequence[str]) -> Iterable[str]:
    if left:
        yield f"No room for {', '.join(left)}: in --json, or on a wider terminal."
    yield (
        "madds M: million multiply-adds an image. top-1 %: of the bundled weights on the 10,000 "
        "test images, and the bar that they reach (≥) or miss (<), or as published. folded: "
        "BatchNorms that the export folds away, of all."
    )
    for number, reason in enumerate(reasons, 1):
        yield f"[{number}] the others stay: {reason}"
    bundled = [entry for entry in listed if entry.weights.kind == "bundled"]
    default = [entry.name for entry in bundled if not entry.left_out]
    # as default_selection has it: all of them where none reaches its bar
    taken = default or [entry.name for entry in bundled]
    yield f"Measured without names given: {', '.join(taken) or 'none'}."
    yield f"Precisions on this CPU: {sentence()}."
