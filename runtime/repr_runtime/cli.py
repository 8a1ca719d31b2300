"""The command `repr-inspect ARTIFACT`: what an artifact is, and whether it will run here."""

# PYTHON_ARGCOMPLETE_OK

import argparse
import json
import logging
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from repr_runtime.artifact.manifest import Manifest
from repr_runtime.artifact.reading import read_manifest
from repr_runtime.backends.survey import as_json, survey
from repr_runtime.backends.tensorrt.checks import Check
from repr_runtime.errors import ReproError, presentable
from repr_runtime.files import with_streams
from repr_runtime.loading import DEVICES
from repr_runtime.machine import version_of
from repr_runtime.preflight import preflight, preflight_engines


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="repr-inspect",
        description="Show what an artifact is and whether it will run here. "
        "Exit status 0 if it will, 1 if not.",
    )
    p.add_argument("artifact", nargs="?", help="the folder that repr-export wrote")
    p.add_argument(
        "--machine",
        action="store_true",
        help="without an artifact: this machine's GPUs, which libraries load, which devices work",
    )
    p.add_argument("--version", action="version", version=f"%(prog)s {version_of('repr-deploy')}")
    p.add_argument(
        "--verify",
        action="store_true",
        help="check every SHA-256 and the golden samples; list the files and how they were made",
    )
    p.add_argument("--device", choices=DEVICES, default="auto")
    precision = p.add_argument(
        "--precision", default="fp32", help="which graph to try (default: fp32)"
    )
    precision.completer = _precisions  # type: ignore[attr-defined]
    p.add_argument("--json", action="store_true", help="everything, for a program")
    return p


def _precisions(parsed_args: argparse.Namespace, **_: object) -> tuple[str, ...]:
    """What a shell completes: the artifact's own."""
    try:
        return read_manifest(parsed_args.artifact).precisions
    except ReproError:
        return ()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit status 0 if the artifact will run here, 1 if not."""
    return with_streams("repr-inspect", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    p = parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may follow
        import argcomplete

        argcomplete.autocomplete(p)
    args = p.parse_args(argv)
    if args.machine == (args.artifact is not None):
        p.error("give an artifact, or --machine without one")
    if args.machine:
        return _machine(args.json)
    logging.basicConfig(level=logging.ERROR)  # the report says what a warning would
    try:
        checks = preflight(
            args.artifact, device=args.device, precision=args.precision, verify=args.verify
        )
    except KeyboardInterrupt:
        print("repr-inspect: interrupted", file=sys.stderr)
        return 130
    manifest: Manifest | None = None
    with suppress(ReproError):
        manifest = read_manifest(args.artifact)
    engines = preflight_engines(args.artifact) if manifest and manifest.engines else {}
    runs = all(check.passed for check in checks)
    if args.json:
        found: dict[str, Any] = {"artifact": args.artifact, "runs_here": runs, "checks": checks}
        found |= {"engines": engines, "manifest": manifest}
        report = json.dumps(found, default=asdict, indent=1)
    else:
        described = [*_describe(args.artifact, manifest, args.verify), ""] if manifest else []
        described += _engine_verdicts(engines)
        width = shutil.get_terminal_size((0, 0)).columns  # 0: no terminal, nor COLUMNS
        lines = [_printable(line, width) for line in (*described, *_verdict(checks))]
        report = "\n".join(lines)
    print(report)
    return 0 if runs else 1


def _machine(for_a_program: bool) -> int:
    found = survey()
    print(as_json(found) if for_a_program else "\n".join(map(_printable_whole, found.lines())))
    return 0 if any(device.works for device in found.devices) else 1


def _printable_whole(line: str) -> str:
    return _printable(line, 0)


def _printable(line: str, width: int) -> str:
    """``line`` with what a terminal would obey, or cannot show, written as an escape.

    Wrapped between words to ``width`` columns, if that is not 0, below what follows its title.
    """
    shown = presentable(line).replace("\n", "\\n")
    encoding = sys.stdout.encoding or "utf-8"
    shown = shown.encode(encoding, "backslashreplace").decode(encoding)
    if len(shown) <= width or not width:
        return shown
    title = re.match(r" *\[..\] |\w+( \w+)?  +|", shown)
    indent = " " * (title.end() if title else 0)
    wrapped = textwrap.wrap(
        *(shown, width), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(wrapped)


def _describe(path: str, manifest: Manifest, everything: bool) -> list[str]:
    """What it is; with ``everything`` also its files, and how they came about."""
    weights = manifest.weights
    rows = [("artifact", path), ("network", _network(manifest))]
    location = weights.location + (f", SHA-256 {weights.sha256[:12]}…" if weights.sha256 else "")
    rows.append(("weights", f"{weights.kind} ({location}){_trained(weights.record)}"))
    rows += [("input", str(spec)) for spec in manifest.inputs]
    rows += [("output", str(spec)) for spec in manifest.outputs]
    if manifest.inseparable:
        rows.append(("batch", f"{manifest.inseparable}: give whole batches, do not join requests"))
    if manifest.preprocessing:
        pre = manifest.preprocessing
        resize = f"shorter side to {pre.resize}, " if pre.resize else ""
        mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (pre.mean, pre.std))
        crop = f"centre {pre.crop[0]}x{pre.crop[1]}"
        rows.append(("images", f"RGB, {resize}{crop}, mean ({mean}), std ({std})"))
    if manifest.labels:
        count = len(manifest.labels)
        more = ", …" if count > 4 else ""
        rows.append(("labels", f"{count}: {', '.join(manifest.labels[:4])}{more}"))
    rows.extend(_making(manifest) if everything else [("graphs", ", ".join(manifest.precisions))])
    return [f"{name:<9} {text}" for name, text in rows]


def _making(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for entry in manifest.files:
        kind = f"{entry.role}, {entry.precision}" if entry.precision else entry.role
        yield "file", f"{entry.path} ({kind}, {entry.bytes / 1e6:.2f} MB)"
    for name in ("fold", "parity"):
        receipt = manifest.receipts.get(name)
        if isinstance(receipt, dict) and isinstance(receipt.get("summary"), str):
            yield name, receipt["summary"]
    yield "made by", ", ".join(f"{k} {v}" for k, v in manifest.versions.items())


def _network(manifest: Manifest) -> str:
    network = manifest.network
    parts = [network.name, f"{network.parameters:,} parameters"]
    if network.multiply_adds is not None:
        parts.append(f"{network.multiply_adds / 1e6:,.1f} M multiply-adds a sample")
    return ", ".join(parts)


def _trained(record: Mapping[str, Any]) -> str:
    """The accuracy that training recorded, and on which images; "" where there is none."""
    try:
        top1, images = record["accuracy"]["test_top1"], record["data"]["test"]["description"]
        return f": {top1:.2%} top-1 on {images}"
    except (KeyError, TypeError, ValueError):
        return ""


def _engine_verdicts(engines: Mapping[str, Sequence[Check]]) -> list[str]:
    """Which engines run here; of the others what they lack, once for all that lack the same."""
    alike: dict[tuple[Check, ...], list[str]] = {}
    for path, checks in engines.items():
        alike.setdefault(tuple(c for c in checks if not c.passed), []).append(path)
    lines = []
    for failed, paths in alike.items():
        verdict = "cannot run here; what is needed:" if failed else "runs here"
        lines += [f"engine    {path}" for path in paths]
        lines[-1] += f" {verdict}"
        lines += [f"  [NO] {check.name}: {check.detail}" for check in failed]
        lines.append("")
    return lines


def _verdict(checks: Sequence[Check]) -> list[str]:
    lines = [f"[{'ok' if check.passed else 'NO'}] {check.name}: {check.detail}" for check in checks]
    runs = all(check.passed for check in checks)
    return [*lines, "This artifact will run here." if runs else "This artifact will not run here."]


if __name__ == "__main__":
    sys.exit(main())
