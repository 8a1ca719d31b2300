"""From what stands on the command line to artifact folders: found, reused or exported."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import secrets
import shlex
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from repr_bench.errors import UsageError
from repr_bench.request import LOWER, is_own
from repr_runtime import Manifest, ReproError, read_manifest
from repr_runtime.artifact.manifest import MANIFEST_NAME
from repr_runtime.artifact.reading import read_file
from repr_runtime.errors import MissingExtraError, SchemaVersionError
from repr_runtime.files import cache_folder

_KEPT = 20
"""So many artifacts of one's own networks stay in the cache."""
_IN_USE = 24 * 3600  # seconds since a run took one: that run may go on

if TYPE_CHECKING:
    from repr_export.options import ExportOptions
    from repr_export.source import Source
    from repr_models.spec import NetworkSpec


def default_selection(
    *, all_bundled: bool = False, each_family: bool = False
) -> tuple[tuple[str, ...], str]:
    """The networks whose bundled weights reach their bar; with ``all_bundled``, every bundled one.

    With ``each_family``, one bundled network of each family: of those that reach their bar, or of
    all where none does, the one of the fewest multiply-adds. Their short names, and a sentence on
    what the run does without, if anything. Where none of the bundled ones reaches its bar, they
    are all taken: there is nothing else to compare.
    """
    from repr_models.registry import networks
    from repr_models.weights.bundled import is_bundled

    every = list(networks())
    bundled = [spec for spec in every if is_bundled(spec)]
    without = len(every) - len(bundled)
    have = "networks have" if without != 1 else "network has"
    tail = f"{without} {have} no bundled weights (--list)" if without else ""
    names = tuple(map(short_name, bundled))
    left = {short_name(spec): why for spec in bundled if (why := reason_to_leave_out(spec))}
    if each_family:
        taken = tuple(map(short_name, _one_of_each_family(bundled)))
        left = {name: "another of its family is taken" for name in names if name not in taken}
    elif all_bundled or len(left) in (0, len(names)):
        return names, tail and f"left out: {tail}"
    else:
        taken = tuple(name for name in names if name not in left)
    told = [", ".join(f"{name} ({reason})" for name, reason in left.items())] if left else []
    if left:
        told[0] += ": --all-bundled takes these too"
    told += [tail] if tail else []
    return taken, f"left out: {'; '.join(told)}" if told else ""


def _one_of_each_family(bundled: Sequence[NetworkSpec]) -> Iterator[NetworkSpec]:
    """The smallest of each, of those that reach their bar if any does, in the order of ``bundled``."""
    families = dict.fromkeys(spec.family for spec in bundled)
    for family in families:
        yield min(
            (spec for spec in bundled if spec.family == family),
            key=lambda spec: (reason_to_leave_out(spec) is not None, spec.multiply_adds or 0),
        )


def reason_to_leave_out(spec: NetworkSpec) -> str | None:
    """Why a run without names does without ``spec``; None if it does not."""
    from repr_models.weights.bundled import bundled_record, is_bundled

    if not is_bundled(spec):
        return "no bundled weights"
    top1: float = bundled_record(spec)["accuracy"]["test_top1"]
    if spec.bar is not None:
        below = spec.is_below_bar(top1)
        return f"{100 * top1:.2f} %, below its bar of {100 * spec.bar:g} %" if below else None
    # Deep plain networks are there to show how they degrade (He et al. 2016, §4.2).
    return "shows degradation, and has no bar" if spec.family == "plain" else None


def short_name(spec: NetworkSpec) -> str:
    """The bare architecture where that means this network, else the full name."""
    from repr_models.registry import resolve

    return spec.architecture if resolve(spec.architecture) is spec else spec.name


def find_artifact(
    target: str,
    artifacts: Path,
    tell: Callable[[str], None],
    precisions: Sequence[str] = (),
    own: Sequence[str] = (),
) -> Path:
    """The artifact folder that ``target``, a folder, a network's name or one's own, stands for.

    A named network's artifact is looked for in ``artifacts`` and exported there if it is
    missing, damaged, or made of other bundled weights than those of this version, or for
    another bar. What is exported gets graphs of ``precisions`` too, as far as they keep the
    accuracy. One that is there and whole is taken as it is, also with weights of the user's
    own: :func:`how_to_add` tells them what it lacks. A FILE.onnx, a package.module:factory, and
    whatever ``own``, options of `repr-export`, is given for are exported to the cache, and taken
    from there while nothing that they are made of has changed. ``tell`` hears what was done.
    Raises :class:`UsageError`, or what loading or exporting raises.
    """
    path = Path(target)
    if (path / MANIFEST_NAME).exists():
        if own:
            what = ", ".join(option.partition("=")[0] for option in own)
            raise UsageError(f"{path} is an artifact already, on which {what} would have no effect")
        return path
    if is_own(target) or own:
        return _cached(target, export_options(target, own, precisions), tell)
    if path.is_dir() or len(path.parts) > 1 or path.is_absolute():
        read_manifest(path)  # raises the error that says what is missing
        return path
    return _named(target, artifacts, tell, precisions)


def how_to_add(manifest: Manifest, folder: Path, precision: str) -> str:
    """The words that say how the artifact in ``folder`` gets a graph of ``precision``; or empty."""
    from repr_models.errors import ModelsError
    from repr_models.registry import resolve

    if precision not in LOWER or precision in manifest.precisions:
        return ""
    with contextlib.suppress(OSError):  # where there is no place for a cache
        if cache_folder() in folder.parents:  # it was asked for there, in vain
            return ""
    # An artifact is exported as a whole, so that what it has must be asked for again.
    lower = [name for name in (*manifest.precisions, precision) if name in LOWER]
    options = " ".join(f"--{name}" for name in lower)
    ours = manifest.weights.kind == "bundled" and not manifest.engines
    with contextlib.suppress(ModelsError):  # the folder may be called anything
        if ours and resolve(folder.name).name == manifest.network.name:
            place = shlex.quote(str(folder.parent))
            return f"add it: repr-export {folder.name} {options} -o {place}"
    return f"export it again with {options}"


def _named(
    name: str, artifacts: Path, tell: Callable[[str], None], precisions: Sequence[str]
) -> Path:
    from repr_models.registry import resolve
    from repr_models.weights.bundled import is_bundled

    spec = resolve(name)
    folder = artifacts / name.strip().lower()  # where repr-export puts it
    if _usable(folder, spec, tell):
        return folder
    if not is_bundled(spec):
        raise UsageError(
            f"no trained weights of {spec.name} ship with the package, and {folder} holds no "
            f"artifact; make one first: repr-export {name} --weights FILE (or random) -o {artifacts}"
        )
    had: tuple[str, ...] = ()
    with contextlib.suppress(ReproError):  # of what is exported again, as far as it says
        had = read_manifest(folder).precisions
    lower = tuple(dict.fromkeys(p for p in (*had, *precisions) if p in LOWER))
    tell(f"exporting {spec.name} to {folder}" + (f", in {', '.join(lower)} too" if lower else ""))
    return _export(name, artifacts, export_options(name, (), lower), tell)


def _export(target: str, out: Path, options: ExportOptions, tell: Callable[[str], None]) -> Path:
    """Export it, in fp32 alone where a lower precision cannot be had."""
    from repr_export.errors import CalibrationError, PrecisionError
    from repr_export.pipeline import export
    from repr_export.precision.options import PrecisionOptions

    try:
        return export(target, out, options).path
    except (PrecisionError, CalibrationError) as error:  # fp32 can be measured nevertheless
        tell(f"{error}; exporting {target} in fp32 alone")
    return export(target, out, replace(options, precision=PrecisionOptions())).path


def export_options(target: str, own: Sequence[str], precisions: Sequence[str]) -> ExportOptions:
    """What ``own``, options of `repr-export` as on its command line, and ``precisions`` come to.

    Raises :class:`UsageError`, ``repr_export.errors.OptionError``, or
    :class:`repr_runtime.errors.MissingExtraError` where the exporter is not installed.
    """
    try:
        from repr_export.cli import parser
        from repr_export.options import ExportOptions
        from repr_export.precision.options import PrecisionOptions
    except ModuleNotFoundError as error:
        raise MissingExtraError("exporting a network", "bench", error.name) from error
    p = parser()
    p.exit_on_error = False
    try:
        args = p.parse_args([*own, "--", target])
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from error
    shapes = dict(args.shapes_given)
    lower = tuple(dict.fromkeys(name for name in precisions if name in LOWER))
    return ExportOptions(
        weights=args.weights,
        input_shape=shapes.pop("", None),
        input_shapes=shapes or None,
        labels=args.labels,
        mean=args.mean,
        std=args.std,
        resize=args.resize,
        precision=PrecisionOptions(lower, max_drop=args.max_drop, calibration=args.calibration),
    )


def _cached(target: str, options: ExportOptions, tell: Callable[[str], None]) -> Path:
    """Its artifact in the cache, exported where there is none of the same making."""
    from repr_export.sources.opening import open_source

    source = open_source(target, options)
    # What a factory makes by itself may be other than before, and nobody recorded it.
    known = source.weights.kind != "factory"
    key = _making(target, source, options) if known else hashlib.sha256(target.encode()).hexdigest()
    entry = cache_folder() / "exported" / key[:16]
    folder = entry / source.identity.folder
    with contextlib.suppress(OSError):  # it is used now, and none of the oldest
        os.utime(entry)
    if known:
        with contextlib.suppress(ReproError):
            _require_whole(folder, read_manifest(folder))
            return folder
    tell(f"exporting {target} to {folder}")
    made = _export(target, entry, options, tell)
    _forget_oldest(entry.parent)
    return made


def _forget_oldest(exported: Path) -> None:
    """Remove what was used longest ago of the cache, but for the newest and what may be in use."""
    with contextlib.suppress(OSError):  # of another run, which removes the same
        entries = sorted(exported.iterdir(), key=lambda entry: entry.stat().st_mtime, reverse=True)
        for entry in entries[_KEPT:]:
            if time.time() - entry.stat().st_mtime > _IN_USE:
                gone = entry.with_name(f".{entry.name}.{secrets.token_hex(4)}")
                entry.rename(gone)  # so that nobody takes the half of it
                shutil.rmtree(gone, ignore_errors=True)


def _making(target: str, source: Source, options: ExportOptions) -> str:
    """A hash of all that makes its artifact: the graph or code and weights, options, versions."""
    from repr_export import __file__ as exporter

    if target.endswith(".onnx"):
        from repr_export.graph.serialize import serialize

        made_of = [hashlib.sha256(serialize(source.model())).hexdigest()]
    else:
        made_of = [str(source.weights.sha256), *_loaded_code()]
    own = (_content(path) for path in sorted(Path(exporter).parent.rglob("*.py")))
    installed = sorted(f"{one.name} {one.version}" for one in metadata.distributions())
    chosen = asdict(replace(options, weights=None))
    parts = [
        Path(target).name,
        asdict(source.identity),
        sys.version,
        made_of,
        chosen,
        *own,
        *installed,
    ]
    return hashlib.sha256(json.dumps(parts, default=_content).encode()).hexdigest()


def _loaded_code() -> Iterator[str]:
    """A hash of each module that is loaded and neither Python's own nor installed."""
    known = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and not file.startswith(known) and name.partition(".")[0] != "repr_bench":
            yield _content(Path(file))


def _content(path: Path) -> str:
    """What is in a file, or which files of what size and age are in a folder."""
    if path.is_dir():
        inside = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in path.rglob("*")]
        return repr(sorted(inside))
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:  # the export says what is wrong with it
        return str(path)


def _require_whole(folder: Path, manifest: Manifest) -> None:
    """Raise what speaks against a file, whether or not this machine can run it."""
    for entry in manifest.files:
        read_file(folder, entry)


def _usable(folder: Path, spec: NetworkSpec, tell: Callable[[str], None]) -> bool:
    from repr_models.weights.bundled import bundled_record, is_bundled

    if not (folder / MANIFEST_NAME).exists():
        return False
    try:
        manifest = read_manifest(folder)
        _require_whole(folder, manifest)
    except SchemaVersionError:
        raise
    except ReproError as error:
        if not is_bundled(spec):
            raise
        tell(f"{folder} is damaged and is exported again ({error})")
        return False
    if manifest.network.name != spec.name:
        raise UsageError(
            f"{folder} holds {manifest.network.name}, not {spec.name}; give another --artifacts "
            f"folder, or measure what is there: repr-bench {folder}"
        )
    if manifest.weights.kind != "bundled":
        random = manifest.weights.kind == "random"
        what = "random weights" if random else f"weights from {manifest.weights.location}"
        tell(f"{folder} carries {what}, not the bundled ones; measured as it is")
        return True
    if not is_bundled(spec) or manifest.weights.sha256 != bundled_record(spec)["weights_sha256"]:
        tell(f"{folder} was made of other weights than this version's and is exported again")
        return False
    if manifest.weights.record.get("bar") != spec.bar:
        tell(f"{folder} states another bar than this version's and is exported again")
        return False
    return True
