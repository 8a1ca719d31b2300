"""The command `repr-export`: arguments, progress and what a person reads afterwards."""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repr_export import collector
from repr_models.completion import complete, completes, networks_and_graphs
from repr_runtime.errors import MissingExtraError, ReproError, presentable
from repr_runtime.files import with_streams
from repr_runtime.machine import version_of

if TYPE_CHECKING:
    from repr_export.pipeline import Exported
    from repr_export.tensorrt.options import EngineOptions
    from repr_runtime.artifact.manifest import Manifest


def _named_shape(text: str) -> tuple[str, tuple[int | str, ...]]:
    """The name of an input, or "", and its shape; raises ValueError."""
    name, _, dims = text.rpartition("=")
    parts = dims.replace("X", "x").split("x") if dims else []
    return name, tuple(part if name and part == "N" else int(part) for part in parts)


def _reader(read: Callable[[str], Any], otherwise: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return read(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is {otherwise}") from None

    return parse


def _three(text: str) -> tuple[float, float, float]:
    a, b, c = map(float, text.split(","))
    return a, b, c


_triple = _reader(_three, "not three numbers such as 0.485,0.456,0.406")
_input = _reader(
    _named_shape, "neither a shape such as 3x224x224 nor NAME=SHAPE such as state=2xNx64"
)
_batch = _reader(
    lambda text: None if text == "dynamic" else int(text), "neither a number nor 'dynamic'"
)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="repr-export",
        description="Export a trained network to an artifact: ONNX with BatchNorm folded, "
        "proven equal to the network, with everything that a service needs.",
    )
    p.add_argument("--version", action="version", version=f"%(prog)s {version_of('repr-deploy')}")
    target = p.add_argument("target", help="a network's name, package.module:factory, or FILE.onnx")
    completes(target, networks_and_graphs)
    p.add_argument("-o", "--out", type=Path, default=None, metavar="DIR", help="default: artifacts")
    p.add_argument("--name", help="name of the artifact's folder in DIR (default: the target's)")
    p.add_argument(
        "--weights", metavar="FILE|random", help="default: the bundled or published ones"
    )
    p.add_argument(
        "--batch", type=_batch, default=None, metavar="N|dynamic", help="default: dynamic"
    )
    p.add_argument("--opset", type=int, metavar="N")
    own = p.add_argument_group("a network of your own")
    own.add_argument(
        "--input",
        dest="shapes_given",
        action="append",
        default=[],
        type=_input,
        metavar="[NAME=]CxHxW",
        help="shape of one sample; NAME=2xNx64 where N, the batch, is not first; for each input",
    )
    own.add_argument(
        "--samples",
        type=Path,
        metavar="FILE.npz",
        help="arrays by input name to prove it on (default: images or noise)",
    )
    own.add_argument("--labels", type=Path, metavar="FILE", help="one class a line")
    own.add_argument("--mean", type=_triple, metavar="R,G,B", help="of images scaled to 0..1")
    own.add_argument("--std", type=_triple, metavar="R,G,B")
    own.add_argument("--resize", type=int, metavar="N", help="shorter side before the centre crop")
    lower = p.add_argument_group("lower precisions")
    for name in ("fp16", "bf16", "int8"):
        lower.add_argument(
            f"--{name}",
            dest="names",
            action="append_const",
            const=name,
            help=f"add a graph of {name}",
        )
    lower.add_argument("--io", choices=("fp32", "fp16"), default="fp32", help="of the fp16 graph")
    lower.add_argument(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="of top-1 that may be lost (default: 0.5 for int8, 0.1 for fp16 and bf16)",
    )
    lower.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR|FILE.npz",
        help="images, or arrays by input name, to calibrate int8 on",
    )
    lower.add_argument(
        "--calibration-method",
        dest="method",
        choices=("min-max", "entropy", "percentile"),
        default="entropy",
    )
    lower.add_argument(
        "--bisect", action="store_true", help="search the fewest nodes to keep out of int8"
    )
    p.add_argument(
        "--compare-layers",
        action="store_true",
        help="name the first node of each graph whose output differs from the network's",
    )
    engine = p.add_argument_group("engines, one for each precision")
    engine.add_argument("--engine", choices=("tensorrt", "tensorrt-rtx", "auto"))
    engine.add_argument(
        "--shapes",
        action="append",
        metavar="MIN,OPT,MAX",
        help="batch sizes of a profile; several times for several (default: 1,8,32)",
    )
    engine.add_argument("--opt-level", type=int, metavar="0..5")
    engine.add_argument("--timing-cache", type=Path, metavar="FILE")
    engine.add_argument("--version-compatible", action="store_true")
    engine.add_argument("--strip-weights", action="store_true", help="refitted from the graph")
    engine.add_argument(
        "--compute-capability", metavar="8.6,8.9|current", help="GPUs to build for (TensorRT-RTX)"
    )
    engine.add_argument(
        "--tf32", action="store_true", help="let fp32 products be rounded to 10 bits of mantissa"
    )
    triton = p.add_argument_group("Triton Inference Server")
    triton.add_argument(
        "--triton",
        type=Path,
        metavar="DIR",
        help="write a model of each graph and engine to this model repository too",
    )
    triton.add_argument(
        "--triton-backend",
        choices=("onnxruntime", "openvino"),
        help="what runs the graphs there (default: onnxruntime)",
    )
    p.add_argument("--quiet", action="store_true", help="say nothing on success")
    p.add_argument("--json", action="store_true", help="everything, for a program")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit status 0, 1 for a failure, 2 for wrong arguments, 130 when interrupted."""
    return with_streams("repr-export", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    p = parser()
    complete(p)
    args = p.parse_args(argv)
    args.step = ""
    try:
        with collector.kept():
            return _run(args)
    except ModuleNotFoundError as error:
        status, message = 1, str(MissingExtraError("repr-export", "export", error.name))
    except ReproError as error:
        status, message = 1, str(error)
    except OSError as error:
        status, message = 1, f"{presentable(str(error))}; {_WRITTEN.get(args.step, _NOTHING)}"
    except MemoryError as error:
        why = str(error) or "none is left"
        status, message = (
            1,
            f"there is not enough memory ({why}); {_WRITTEN.get(args.step, _NOTHING)}",
        )
    except KeyboardInterrupt:
        done = _WRITTEN.get(args.step) or _BEING_WRITTEN.get(args.step, _NOTHING)
        status, message = 130, f"interrupted; {done}"
    print(f"repr-export: {presentable(message)}", file=sys.stderr)
    return status


_NOTHING = "nothing was written"
_WRITTEN = {
    "writing the Triton models": "the artifact is written, not all of its Triton models are"
}
_BEING_WRITTEN = {"writing the artifact": "what is in its place is whole, the new artifact or none"}
"""What there is when an export ends early, by the step that it was at; else nothing was written."""


def _run(args: argparse.Namespace) -> int:
    from repr_export.sources.target import require_target

    require_target(args.target)  # before a second goes by with imports

    with collector.paused():
        from rich.console import Console

        from repr_export.download_bar import DownloadBar
        from repr_export.options import ExportOptions
        from repr_export.pipeline import DEFAULT_OUT, export
        from repr_export.precision.options import PrecisionOptions
        from repr_models.errors import ModelsError

    try:
        args.names = tuple(dict.fromkeys(args.names or ()))
        args.precision = PrecisionOptions(**_fields_of(PrecisionOptions, args))
        args.engine = _engine_options(args)
        shapes = dict(args.shapes_given)
        args.input_shape = shapes.pop("", None)
        args.input_shapes = shapes or None
        options = ExportOptions(**_fields_of(ExportOptions, args))
        console = Console(file=sys.stderr, quiet=args.quiet)  # whatever is done to it meanwhile
        with (
            console.status(f"{args.target}: starting") as status,
            closing(DownloadBar(console, status)) as download,
        ):

            def tell(step: str) -> None:
                args.step = step
                download.close()
                status.update(f"{args.target}: {step}")

            out = DEFAULT_OUT if args.out is None else args.out
            with redirect_stdout(sys.stderr):  # what a network of the user's prints is no result
                done = export(args.target, out, options, progress=tell, download=download)
    except ModelsError as error:
        print(f"repr-export: {presentable(str(error))}", file=sys.stderr)
        return 1
    if args.json:
        said = {"artifact": str(done.path), "manifest": asdict(done.manifest)}
        if done.triton is not None:
            said["triton"] = done.triton.as_dict()
        print(json.dumps(said, indent=1))
    elif not args.quiet:
        print(_summary(done))
    return 0


def _fields_of(options: Any, args: argparse.Namespace) -> dict[str, Any]:
    """The arguments that stand for the fields of a class of options, by their names."""
    return {field.name: getattr(args, field.name) for field in fields(options)}


def _engine_options(args: argparse.Namespace) -> EngineOptions | None:
    from repr_export.errors import OptionError
    from repr_export.tensorrt.options import EngineOptions, parse_profile

    if args.engine is None:
        for option in (
            *("shapes", "opt-level", "timing-cache", "version-compatible", "strip-weights"),
            *("compute-capability", "tf32"),
        ):
            if getattr(args, option.replace("-", "_")) not in (None, False):
                raise OptionError(f"--{option} is for engines; give --engine too")
        return None
    targets = args.compute_capability
    args.edition = args.engine
    args.profiles = tuple(parse_profile(text) for text in args.shapes or ())
    args.compute_capabilities = tuple(targets.split(",")) if targets else ()
    return EngineOptions(**_fields_of(EngineOptions, args))


def _summary(done: Exported) -> str:
    from repr_export.passes.result import kept_lines

    manifest = done.manifest
    network, weights = manifest.network, manifest.weights
    size = f"{network.parameters:,} parameters"
    if network.multiply_adds is not None:
        size += f", {network.multiply_adds / 1e6:,.1f} M multiply-adds"
    accuracy = ""
    if weights.kind == "published":
        top1, publisher = weights.record["published_top1"], weights.record["source"]
        accuracy = f": {publisher}, {top1:.2%} top-1 on ImageNet as published"
    elif weights.record:
        top1, images = weights.record["accuracy"]["test_top1"], weights.record["data"]["test"]
        accuracy = f": {top1:.2%} top-1 on {images['description']}"
        bar = weights.record.get("bar")
        if bar is not None and top1 < bar:
            accuracy += f"; below its bar of {100 * bar:g}%"
    elif weights.kind == "random":
        accuracy = ": for latency alone, its predictions mean nothing"
    rows = [
        ("network", f"{network.name} ({size})" + (f"; {done.note}" if done.note else "")),
        ("weights", f"{weights.kind} ({weights.location}){accuracy}"),
        ("fold", manifest.receipts["fold"]["summary"]),
        *(("", line) for line in kept_lines(manifest.receipts["fold"]["refused"])),
        ("parity", manifest.receipts["parity"]["summary"]),
        *_image_rows(manifest),
        *_batch_rows(manifest),
        *_precision_rows(manifest),
        *_layer_rows(manifest),
        ("files", ", ".join(f"{f.path} {f.bytes / 1e6:.2f} MB" for f in manifest.files)),
        ("artifact", str(done.path)),
        *_triton_rows(done),
    ]
    return "\n".join(_wrapped(f"{name:<9} {text}") for name, text in rows)


def _wrapped(line: str) -> str:
    """``line`` as wide as a terminal is, whole for a pipe."""
    if not sys.stdout.isatty():
        return line
    width = shutil.get_terminal_size().columns
    return textwrap.fill(
        line, width, subsequent_indent=" " * 10, break_on_hyphens=False, break_long_words=False
    )


def _image_rows(manifest: Manifest) -> list[tuple[str, str]]:
    images = manifest.preprocessing
    if images is None or images.resize is not None:
        return []
    size = "x".join(map(str, images.crop))
    return [
        ("images", f"of {size}, or more to cut {size} from the centre; --resize N resizes them")
    ]


def _layer_rows(manifest: Manifest) -> list[tuple[str, str]]:
    receipts = manifest.receipts
    graphs = {path: r["layers"] for path, r in receipts["precision"].items() if "layers" in r}
    if "layers" in receipts["parity"]:
        graphs = {"model.onnx": receipts["parity"]["layers"], **graphs}
    return [("layers", f"{path}: {layers['summary']}") for path, layers in graphs.items()]


def _batch_rows(manifest: Manifest) -> list[tuple[str, str]]:
    reason = manifest.receipts["golden"]["inseparable"]
    return [("batch", f"{reason}: give the runtime whole batches, do not join requests")] * bool(
        reason
    )


def _precision_rows(manifest: Manifest) -> list[tuple[str, str]]:
    graphs = manifest.receipts["precision"]
    rows = [
        (path.removeprefix("model.").removesuffix(".onnx"), receipt["summary"])
        for path, receipt in graphs.items()
    ]
    judged = {receipt["accuracy"]["description"]: None for receipt in graphs.values()}
    rows += [("judged on", description) for description in judged]
    engines = manifest.receipts["engines"]
    for engine in manifest.engines:
        what = f"{engine.precision} for {engine.flavour} {engine.version}"
        rows.append(("engine", f"{what}: {engines[engine.path]['summary']}"))
    notes = {note: None for receipt in engines.values() for note in receipt["notes"]}
    return rows + [("", note) for note in notes]


def _triton_rows(done: Exported) -> list[tuple[str, str]]:
    if done.triton is None:
        return []
    return [
        ("triton", ", ".join(map(str, done.triton.models))),
        *(("", reason) for reason in done.triton.left_out),
    ]


if __name__ == "__main__":
    sys.exit(main())
