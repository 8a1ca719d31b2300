"""The command `repr-export`: arguments, progress and what a person reads afterwards."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from repr_runtime.errors import MissingExtraError, ReproError

if TYPE_CHECKING:
    from repr_export.pipeline import Exported


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape such as 3x224x224") from None


def _triple(text: str) -> tuple[float, float, float]:
    try:
        a, b, c = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not three numbers such as 0.485,0.456,0.406"
        ) from None
    return a, b, c


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'dynamic'") from None


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="repr-export",
        description="Export a trained network to an artifact: ONNX with BatchNorm folded, "
        "proven equal to the network, with everything that a service needs.",
    )
    p.add_argument("target", help="a network's name, package.module:factory, or FILE.onnx")
    p.add_argument("-o", "--out", type=Path, default=None, metavar="DIR", help="default: artifacts")
    p.add_argument("--name", help="name of the artifact's folder in DIR (default: the target's)")
    p.add_argument("--weights", metavar="FILE|random", help="default: the bundled ones")
    p.add_argument(
        "--batch", type=_batch, default=None, metavar="N|dynamic", help="default: dynamic"
    )
    p.add_argument("--opset", type=int, metavar="N")
    own = p.add_argument_group("a network of your own")
    own.add_argument("--input", type=_shape, metavar="CxHxW", help="shape of one sample")
    own.add_argument("--labels", type=Path, metavar="FILE", help="one class a line")
    own.add_argument("--mean", type=_triple, metavar="R,G,B", help="of images scaled to 0..1")
    own.add_argument("--std", type=_triple, metavar="R,G,B")
    own.add_argument("--resize", type=int, metavar="N", help="shorter side before the centre crop")
    p.add_argument("--quiet", action="store_true", help="say nothing on success")
    p.add_argument("--json", action="store_true", help="everything, for a program")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit status 0, 1 for a failure, 2 for wrong arguments, 130 when interrupted."""
    args = parser().parse_args(argv)
    try:
        return _run(args)
    except ModuleNotFoundError as error:
        print(
            f"repr-export: {MissingExtraError('repr-export', 'export', error.name)}",
            file=sys.stderr,
        )
    except ReproError as error:
        print(f"repr-export: {error}", file=sys.stderr)
    except OSError as error:
        print(f"repr-export: {error}; nothing was written", file=sys.stderr)
    except KeyboardInterrupt:
        print("repr-export: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 1


def _run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from repr_export.options import ExportOptions
    from repr_export.pipeline import DEFAULT_OUT, export
    from repr_models.errors import ModelsError

    try:
        options = ExportOptions(
            weights=args.weights,
            batch=args.batch,
            opset=args.opset,
            input_shape=args.input,
            labels=args.labels,
            mean=args.mean,
            std=args.std,
            resize=args.resize,
            name=args.name,
        )
        console = Console(stderr=True, quiet=args.quiet)
        with console.status(f"{args.target}: starting") as status:
            done = export(
                args.target,
                DEFAULT_OUT if args.out is None else args.out,
                options,
                progress=lambda step: status.update(f"{args.target}: {step}"),
            )
    except ModelsError as error:
        print(f"repr-export: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({"artifact": str(done.path), "manifest": asdict(done.manifest)}, indent=1))
    elif not args.quiet:
        print(_summary(done))
    return 0


def _summary(done: Exported) -> str:
    manifest = done.manifest
    network, weights = manifest.network, manifest.weights
    size = f"{network.parameters:,} parameters"
    if network.multiply_adds is not None:
        size += f", {network.multiply_adds / 1e6:,.1f} M multiply-adds"
    accuracy = ""
    if weights.record:
        top1, images = weights.record["accuracy"]["test_top1"], weights.record["data"]["test"]
        accuracy = f": {top1:.2%} top-1 on {images['description']}"
    elif weights.kind == "random":
        accuracy = ": for latency alone, its predictions mean nothing"
    rows = [
        ("network", f"{network.name} ({size})" + (f"; {done.note}" if done.note else "")),
        ("weights", f"{weights.kind} ({weights.location}){accuracy}"),
        ("fold", manifest.receipts["fold"]["summary"]),
        *(
            ("", f"{row['batchnorm']} kept: {row['reason']}")
            for row in manifest.receipts["fold"]["refused"]
        ),
        ("parity", manifest.receipts["parity"]["summary"]),
        ("files", ", ".join(f"{f.path} {f.bytes / 1e6:.2f} MB" for f in manifest.files)),
        ("artifact", str(done.path)),
    ]
    return "\n".join(f"{name:<9} {text}" for name, text in rows)


if __name__ == "__main__":
    sys.exit(main())
