"""Will this artifact run here? Every reason why not, with the way out, before a service loads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from repr_runtime.artifact import read_file, read_manifest
from repr_runtime.errors import AlteredFileError, MissingFileError, ReproError
from repr_runtime.manifest import Manifest
from repr_runtime.session import load


@dataclass(frozen=True)
class Check:
    """One question, whether it was answered well, and the answer in a sentence."""

    name: str
    passed: bool
    detail: str


def preflight(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    precision: str = "fp32",
    verify: bool = False,
) -> tuple[Check, ...]:
    """Ask everything that running the artifact in ``path`` here depends on.

    The manifest, each file's size (with ``verify`` its SHA-256), the load itself on
    ``device`` with the graph of ``precision``, and with ``verify`` the golden samples.
    Questions that an earlier failure makes idle are left out. Never raises for a bad
    artifact: what would be raised is the detail of a check.
    """
    checks: list[Check] = []

    def ask(name: str, question: Callable[[], str]) -> bool:
        try:
            checks.append(Check(name, True, question()))
        except ReproError as error:
            checks.append(Check(name, False, str(error)))
        return checks[-1].passed

    root = Path(path)
    if not ask("manifest", lambda: f"schema {read_manifest(root).schema}, unaltered"):
        return tuple(checks)
    manifest = read_manifest(root)
    if not ask("files", lambda: _check_files(root, manifest, verify)):
        return tuple(checks)

    def start() -> str:
        with load(root, device=device, precision=precision) as session:
            return session.choice

    def compare() -> str:
        with load(root, device=device, precision=precision) as session:
            report = session.self_test()
        return (
            f"{report.samples} golden samples within {report.max_abs:.2g} of the original network "
            f"(allowed {report.tolerance:.2g})"
        )

    if ask("runs here", start) and verify:
        ask("self-test", compare)
    return tuple(checks)


def _check_files(root: Path, manifest: Manifest, verify: bool) -> str:
    total = 0
    for entry in manifest.files:
        if verify:
            read_file(root, entry)
        else:
            _check_size(root, entry.path, entry.bytes)
        total += entry.bytes
    how = "SHA-256 of each as exported" if verify else "sizes as exported"
    return f"{len(manifest.files)} files, {total / 1e6:.1f} MB, {how}"


def _check_size(root: Path, path: str, expected: int) -> None:
    try:
        size = (root / path).stat().st_size
    except OSError as error:
        raise MissingFileError(
            f"{root / path} is listed in the manifest but is not there; copy the artifact again"
        ) from error
    if size != expected:
        raise AlteredFileError(
            f"{root / path} has {size:,} bytes, expected {expected:,}; copy the artifact again"
        )
