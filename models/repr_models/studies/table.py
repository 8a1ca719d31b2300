"""The studies' section of models/README.md, made from the records alone."""

import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from repr_models.errors import DataError
from repr_models.studies.catalogue import PROG, REDUCTION, STUDIES, Run, Study, find_runs
from repr_models.studies.records import Checkpoint, checkpoint_records, read_record

BEGIN = "<!-- studies: written by `python -m repr_models.studies table` -->"
END = "<!-- end of studies -->"

Record = Mapping[str, Any]
Records = Mapping[str, Record]


def write_section(readme: Path, text: str) -> None:
    """Put ``text`` between the two markers of ``readme``, in place.

    Raises :class:`DataError` if the file is not there or has not just these markers.
    """
    if not readme.is_file():
        raise DataError(f"{readme} is not there; name the file with --readme FILE")
    before, begin, rest = readme.read_text("utf-8").partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not (begin and end):
        raise DataError(f"{readme} must have these two lines, in this order:\n{BEGIN}\n{END}")
    readme.write_text(f"{before}{BEGIN}\n{text}{END}{after}", "utf-8")


def section(records: Path, checkpoints: Path) -> str:
    """Markdown: of every study the claim, a row for each recorded run, and what came of it.

    ``records`` is the folder of the runs' records, ``checkpoints`` that of the bundled
    checkpoints'. A study without any record is left out, and one that lacks some says which.
    Raises :class:`DataError` if there is no record at all.
    """
    found: dict[str, Record] = {}
    for run in find_runs([study.name for study in STUDIES]):
        record = read_record(records, run.name)
        if record is not None:
            found[run.name] = record
    if not found:
        raise DataError(f"{records} has no record to show; make them: {PROG} run NAME --data DIR")
    studies = [text for study in STUDIES if (text := _study(study, found, checkpoints))]
    return "\n".join([_preamble(found), *studies])


def _preamble(found: Records) -> str:
    threads = sorted({record["threads"] for record in found.values()})
    seeds = sorted({record["seed"] for record in found.values()})
    cpu = sum(row["cpu_seconds"] for record in found.values() for row in record["history"])
    return _paragraph(
        f"On all of CIFAR-10 ({REDUCTION}), each network trained once (seed "
        f"{', '.join(map(str, seeds))}, {', '.join(map(str, threads))} CPU thread, "
        f"{cpu / 60:.1f} minutes of it for all), for few epochs: the rows can be compared with "
        f"each other, not with what these networks reach. Errors are 1 − top-1, in training that "
        f"of the last epoch's augmented images as they came by. One seed tells no difference of a "
        f"point from chance."
    )


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 100, break_on_hyphens=False, break_long_words=False) + "\n"


def _study(study: Study, found: Records, checkpoints: Path) -> str:
    runs = [run for run in study.runs if run.name in found]
    if not runs:
        return ""
    rows = [
        [*(_COLUMNS[name](run, found[run.name]) for name in study.columns), study.paper[run.name]]
        for run in runs
    ]
    beside = _on_whole_images(study, checkpoint_records(checkpoints))
    rows += [[*_checkpoint_row(study.columns, each), ""] for each in beside]
    absent = [run.name for run in study.runs if run.name not in found]
    sentences = [
        sentence(found) for about, sentence in _FINDINGS[study.name] if set(about) <= found.keys()
    ]
    notes = [study.note, *_whole_findings(beside)]
    if absent:
        sentences.append(f"Not run yet: {', '.join(absent)}.")
    lines = [
        f"### {study.title}",
        "",
        _paragraph(f"{study.claim} ({study.source})"),
        f"| {' | '.join((*study.columns, 'the paper'))} |",
        "|" + "---|" * (len(study.columns) + 1),
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        _paragraph(" ".join([*sentences, *notes])),
    ]
    if study.name == "depth":
        lines += ["![error against depth](depth.svg)", ""]
    return "\n".join(lines)


# --- columns --------------------------------------------------------------------------------


def network(residual: bool, depth: int) -> str:
    """What the table and the plot call a network: ``residual 20``."""
    return f"{'residual' if residual else 'plain'} {depth}"


def error(record: Record, split: str) -> float:
    """1 - top-1 after the last epoch, in ``"train"``ing (augmented images) or ``"test"``."""
    return 1 - float(record["history"][-1][f"{split}_top1"])


def errors(checkpoint: Checkpoint) -> tuple[float, float]:
    """1 - top-1 in training, of the last epoch's augmented images, and in the test, as stored."""
    record = checkpoint.record
    return error(record, "train"), 1 - record["accuracy"]["test_top1"]


def _error(split: str) -> Callable[[Run, Record], str]:
    def cell(_run: Run, record: Record) -> str:
        return "diverged" if record.get("diverged") else _percent(error(record, split))

    return cell


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _normalised(run: Run, record: Record) -> str:
    if run.norm == "none":
        return "nothing"
    if run.norm == "group":
        return f"GroupNorm, {record['settings']['groups']} groups"
    return f"BatchNorm, {run.norm_batch or record['recipe']['batch_size']} images"


def _loss(_run: Run, record: Record) -> str:
    return "diverged" if record["diverged"] else f"{record['history'][-1]['train_loss']:.3f}"


def _ends(key: str) -> Callable[[Run, Record], str]:
    def cell(_run: Run, record: Record) -> str:
        values = record["signal"][key]
        return f"{_number(values[0])} → {_number(values[-1])}"

    return cell


def _number(value: float) -> str:
    """Two digits; powers of ten below 0.001."""
    if value >= 1e-3:
        return f"{value:.2g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}·10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _seconds(_run: Run, record: Record) -> str:
    rows = record["history"]
    return f"{sum(row['cpu_seconds'] for row in rows) / len(rows):.0f}" if rows else "–"


_INITS = {"msra": "MSRA", "msra-forward": "MSRA", "xavier": "Xavier"}

_COLUMNS: dict[str, Callable[[Run, Record], str]] = {
    "network": lambda run, _record: network(run.residual, run.depth),
    "images": lambda _run, _record: "16×16",
    "normalised by": _normalised,
    "initialised": lambda run, _record: _INITS[run.init],
    "rate": lambda _run, record: f"{record['recipe']['learning_rate']:g}",
    "epochs": lambda _run, record: f"{record['recipe']['epochs']}",
    "signal": _ends("output_std"),
    "gradient": _ends("gradient_std"),
    "loss": _loss,
    "training error": _error("train"),
    "test error": _error("test"),
    "CPU s/epoch": _seconds,
}
"""What a column says of a run and its record."""


def _on_whole_images(study: Study, found: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The bundled checkpoints that show what ``study`` is about."""
    if study.name == "depth":
        return [each for each in found if not each.group_norm]
    if study.name == "groupnorm":
        depths = Counter(each.depth for each in found if each.residual)  # with either norm
        return [each for each in found if each.residual and depths[each.depth] > 1]
    return []


def _checkpoint_row(columns: Sequence[str], checkpoint: Checkpoint) -> list[str]:
    """The row of a bundled checkpoint, trained on whole images and for longer."""
    recipe, (training, test) = checkpoint.record["recipe"], errors(checkpoint)
    norm = "GroupNorm" if checkpoint.group_norm else f"BatchNorm, {recipe['batch_size']} images"
    cells = {
        "network": f"{network(checkpoint.residual, checkpoint.depth)}, bundled",
        "images": "32×32",
        "normalised by": norm,
        "epochs": f"{recipe['epochs']}{', Muon' * (recipe.get('optimizer') == 'muon')}",
        "training error": _percent(training),
        "test error": _percent(test),
    }
    return [cells.get(column, "") for column in columns]


# --- findings -------------------------------------------------------------------------------


def _points(difference: float) -> str:
    """A difference of errors, in points and with its sign: ``+3.2``."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def _depth(family: str, called: str) -> Callable[[Records], str]:
    def sentence(found: Records) -> str:
        shallow, deep = found[f"{family}20"], found[f"{family}56"]
        training, test = (error(deep, split) - error(shallow, split) for split in ("train", "test"))
        return (
            f"From 20 layers to 56 the {called} network's training error changes by "
            f"{_points(training)} points and its test error by {_points(test)}."
        )

    return sentence


def _whole_findings(found: Sequence[Checkpoint]) -> list[str]:
    """What the bundled checkpoints say, on whole images: of plain and residual, or of both norms."""
    by_kind = {(c.residual, c.depth, c.group_norm): c for c in found}
    sentences = []
    for residual, called in ((False, "plain"), (True, "residual")):
        ends = [by_kind.get((residual, depth, False)) for depth in (20, 56)]
        if (shallow := ends[0]) and (deep := ends[1]):
            training, test = (b - a for a, b in zip(errors(shallow), errors(deep), strict=True))
            sentences.append(
                f"On whole images, {_epochs(shallow, deep)}, the {called} network's training error "
                f"changes by {_points(training)} points from 20 layers to 56, its test error by "
                f"{_points(test)}."
            )
    for each in found:
        like = by_kind.get((each.residual, each.depth, False))
        if each.group_norm and like:
            sentences.append(
                f"On whole images, {_epochs(like, each)}, the test error of {each.depth} layers is "
                f"{_percent(errors(like)[1])} with BatchNorm and {_percent(errors(each)[1])} with "
                f"GroupNorm."
            )
    return sentences


def _epochs(first: Checkpoint, second: Checkpoint) -> str:
    recipes = [dict(each.record["recipe"]) for each in (first, second)]
    one, other = (recipe.pop("epochs") for recipe in recipes)
    more = "" if recipes[0] == recipes[1] else " by recipes that differ (see their records)"
    return f"after {one} epochs{more}" if one == other else f"after {one} and {other} epochs{more}"


def _init(found: Records) -> str:
    def shrinks(name: str) -> str:
        signal = found[name]["signal"]["output_std"]
        return f"{float(f'{signal[0] / signal[-1]:.2g}'):,.0f}"

    return (
        f"On its way through 30 layers the signal shrinks {shrinks('plain30-xavier')}-fold with "
        f"Xavier and {shrinks('plain30-msra')}-fold with MSRA (by fan-in)."
    )


def _batchnorm(found: Records) -> str:
    with_norm = found["plain20"]
    without = [found[name] for name in ("plain20-none", "plain20-none-slow")]
    best = min(error(record, "test") for record in without if not record["diverged"])
    epochs = with_norm["recipe"]["epochs"]
    return (
        f"After {epochs} epoch{'s' * (epochs > 1)} the network with BatchNorm makes "
        f"{_percent(error(with_norm, 'test'))} errors, the better one without {_percent(best)}."
    )


def _groupnorm(found: Records) -> str:
    def change(split: str) -> str:
        return _points(error(found["resnet20-bn2"], split) - error(found["resnet20-bn32"], split))

    group = error(found["resnet20-gn"], "test")
    return (
        f"From 32 images to 2 BatchNorm's test error changes by {change('test')} points (in "
        f"training by {change('train')}); GroupNorm's is "
        f"{_points(group - error(found['resnet20-bn32'], 'test'))} points from BatchNorm's at 32 "
        f"and {_points(group - error(found['resnet20-bn2'], 'test'))} from that at 2."
    )


_FINDINGS: dict[str, list[tuple[tuple[str, ...], Callable[[Records], str]]]] = {
    "depth": [
        (("plain20", "plain56"), _depth("plain", "plain")),
        (("resnet20", "resnet56"), _depth("resnet", "residual")),
    ],
    "init": [(("plain30-xavier", "plain30-msra"), _init)],
    "batchnorm": [(("plain20", "plain20-none", "plain20-none-slow"), _batchnorm)],
    "groupnorm": [(("resnet20-bn32", "resnet20-bn2", "resnet20-gn"), _groupnorm)],
}
"""What came of a study, in sentences: the runs that each is about, and what it says of them."""
