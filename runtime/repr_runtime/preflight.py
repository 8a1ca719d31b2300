"""Will this artifact run here? Every reason why not, with the way out, before a service loads it."""

import os
from dataclasses import replace
from pathlib import Path

from repr_runtime.artifact.manifest import Manifest
from repr_runtime.artifact.reading import check_size, read_file, read_manifest
from repr_runtime.backends.tensorrt.checks import Check, Subject, check_engine
from repr_runtime.backends.tensorrt.engines import engines_of
from repr_runtime.errors import ReproError
from repr_runtime.session import load


def preflight(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    precision: str = "fp32",
    verify: bool = False,
    batch: int | None = None,
) -> tuple[Check, ...]:
    """Ask everything that running the artifact in ``path`` here depends on.

    The manifest, each file's size (with ``verify`` its SHA-256), the load itself on
    ``device`` with the graph of ``precision``, and with ``verify`` the golden samples. For
    ``device="tensorrt"`` also what the engine needs: its graph, library, version, driver, GPU,
    free memory, and a profile for ``batch`` samples.
    Questions that an earlier failure makes idle are left out. Never raises for a bad
    artifact: what would be raised is the detail of a check.
    """
    root = Path(path)
    checks: list[Check] = []
    name = "manifest"
    try:
        manifest = read_manifest(root)
        checks.append(Check(name, True, f"schema {manifest.schema}, unaltered"))
        name = "files"
        checks.append(Check(name, True, _check_files(root, manifest, verify)))
        if device == "tensorrt":
            checks += _engine_questions(root, manifest, precision, batch)
        name = "runs here"
        # infinities that the original gives as well are no fault: the golden samples say
        with load(root, device=device, precision=precision, nonfinite="allow") as session:
            checks.append(Check(name, True, session.choice))
            if verify:
                name = "self-test"
                report = session.self_test()
                detail = (
                    f"{report.samples} golden samples within {report.max_abs:.2g} of the original "
                    f"network (allowed {report.tolerance:.2g})"
                )
                checks.append(Check(name, True, detail))
    except ReproError as error:
        checks.append(Check(name, False, str(error)))
    return tuple(checks)


def preflight_engines(
    path: str | os.PathLike[str], *, batch: int | None = None
) -> dict[str, tuple[Check, ...]]:
    """For each engine of the artifact, by its path: what it needs here, and whether that is there.

    Raises what :func:`read_manifest` does; an engine that cannot run raises nothing.
    """
    root = Path(path)
    manifest = read_manifest(root)
    return {
        info.path: check_engine(Subject(root, manifest, info, batch=batch))
        for info in manifest.engines
    }


def _engine_questions(
    root: Path, manifest: Manifest, precision: str, batch: int | None
) -> list[Check]:
    """Of the first engine that passes all, else of the first; none if there is no engine."""
    found = [
        check_engine(Subject(root, manifest, info, batch=batch))
        for info in engines_of(manifest, precision)
    ]
    fit = [checks for checks in found if all(check.passed for check in checks)]
    return [replace(c, name=f"engine's {c.name}") for c in (fit or found or [()])[0]]


def _check_files(root: Path, manifest: Manifest, verify: bool) -> str:
    for entry in manifest.files:
        (read_file if verify else check_size)(root, entry)
    size = sum(entry.bytes for entry in manifest.files) / 1e6
    how = "SHA-256 of each as exported" if verify else "sizes as exported"
    return f"{len(manifest.files)} files, {size:.1f} MB, {how}"
