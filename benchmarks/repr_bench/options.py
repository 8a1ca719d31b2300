"""All options of `repr-bench`, in one parser: light, since a help text waits for no library."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from repr_bench.errors import UsageError, did_you_mean
from repr_bench.measuring.measure import Plan
from repr_bench.request import DEFAULT_SLO_MS, LOWER, PRECISIONS, Request, Server, is_own
from repr_bench.results.trials import SCENARIOS, Scenario
from repr_models.completion import completes, listed, networks_and_graphs
from repr_models.spec import registered, stored_multiply_adds
from repr_runtime.backends.tuning import GOALS
from repr_runtime.loading import DEVICES
from repr_runtime.machine import version_of

if TYPE_CHECKING:
    from repr_bench.report.sort import Order

STANDARD_OUTPUT = Path("-")
QUICK = Plan(seconds=0.5, samples=12, rounds=12, warmup_seconds=0.5)
TUNING = Plan(seconds=0.3, samples=9, rounds=9, warmup_seconds=0.1)
QUICK_IMAGES = 200
LEAST_PERCENT = 2.0
_Some = TypeVar("_Some")
_UNITS_MS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}


def parser() -> argparse.ArgumentParser:
    """The parser; :func:`parse` says what of it does not go together."""
    p = argparse.ArgumentParser(
        prog="repr-bench",
        usage="repr-bench [NAME|ARTIFACT|FILE.onnx|MODULE:FACTORY ...] [options]; --help lists them",
        description="Latency and accuracy of exported networks, side by side. "
        "Exit status 0, 1 if a row failed (a server scenario too that settled on no rate) or its "
        "outputs are off, 2 for a wrong command line, 3 if --compare found a row slower, 130 when interrupted.",
    )
    targets = p.add_argument(
        "targets",
        nargs="*",
        metavar="NAME|ARTIFACT|FILE.onnx|MODULE:FACTORY",
        help="networks by name (exported if need be), artifact folders, or a network of your own, "
        "which is exported to the cache; "
        "default: every network whose bundled weights reach their bar",
    )
    completes(targets, networks_and_graphs)
    p.add_argument("--version", action="version", version=f"%(prog)s {version_of('repr-deploy')}")
    _add(p, "--list", "list every network, and stop")
    _add(p, "--quiet", "no progress; the table alone")
    _add_what(p.add_argument_group("what is measured"))
    own = "as repr-export has them; for named networks too, where no other target is exported"
    _add_own(p.add_argument_group("a network of your own", own))
    _add_how_long(p.add_argument_group("how long, and on which images"))
    _add_more(p.add_argument_group("what else is measured, in the same run"))
    _add_servers(p.add_argument_group("servers", "asked beside the artifact that they serve"))
    scenarios = (
        "measured after the table of batch sizes, of the same graphs, if any of the first three "
        "is given"
    )
    _add_scenarios(p.add_argument_group("scenarios", scenarios))
    _add_comparison(p.add_argument_group("comparing two runs"))
    _add_output(p.add_argument_group("what is written"))
    return p


def _add(
    group: argparse._ActionsContainer,
    option: str,
    text: str,
    metavar: str = "",
    **more: Any,
) -> argparse.Action:
    """A flag, where there is no ``metavar``; else an option with a count (``N``), or a path."""
    if not metavar:
        return group.add_argument(option, action="store_true", help=text)
    usual: dict[str, Any] = {"type": whole_number if metavar == "N" else Path, "metavar": metavar}
    return group.add_argument(option, help=text, **(usual | more))


def _add_own(group: argparse._ArgumentGroup) -> None:
    for option, metavar, text in (
        ("--weights", "FILE|random", "its checkpoint (default: what the factory made)"),
        ("--input", "[NAME=]CxHxW", "shape of one sample; for each input"),
        ("--labels", "FILE", "one class a line"),
        ("--mean", "R,G,B", "of images scaled to 0..1"),
        ("--std", "R,G,B", ""),
        ("--resize", "N", "shorter side before the centre crop"),
        ("--calibration", "DIR|FILE.npz", "images, or arrays by input name, to calibrate int8 on"),
        ("--max-drop", "POINTS", "of top-1 that a lower precision may lose"),
    ):
        # Kept as it stands, for the export's own parser.
        group.add_argument(
            option,
            dest="own",
            action="append",
            default=[],
            type=f"{option}={{}}".format,
            metavar=metavar,
            help=text,
        )


def _add_what(group: argparse._ArgumentGroup) -> None:
    which = group.add_mutually_exclusive_group()
    _add(which, "--all-bundled", "without names: those below their bar too, which the table marks")
    _add(which, "--each-family", "without names: one of each family, the smallest at its bar")
    _add(group, "--batch", "batch sizes (default: 1,8)", "N,…", type=whole_numbers)
    of = f"of {', '.join(PRECISIONS)} (default: fp32); networks exported by this run get them"
    completes(_add(group, "--precision", of, "P,…", type=_precisions), listed(PRECISIONS))
    for name in LOWER:
        group.add_argument(
            f"--{name}",
            dest="lower",
            action="append_const",
            const=name,
            help=f"measure {name} too, beside fp32; these options add up",
        )
    on = f"of {', '.join(DEVICES)} (default: auto)"
    device = _add(group, "--device", on, "DEVICE", type=_device, default="auto")
    completes(device, listed(DEVICES))
    _add(group, "--threads", "CPU threads (default: one a core)", "N")
    where = "where the artifacts of named networks are (default: artifacts)"
    _add(group, "--artifacts", where, "DIR", default=Path("artifacts"))


def _add_how_long(group: argparse._ArgumentGroup) -> None:
    first_look = (
        f"a first look: {QUICK.seconds:g} s and {QUICK.samples} samples a row, accuracy on "
        f"{QUICK_IMAGES} images, unless --seconds, --samples or --limit say otherwise"
    )
    _add(group, "--quick", first_look)
    least = "timed for each row at least (default: {})"
    group.add_argument("--seconds", type=seconds, help=least.format(f"{Plan.seconds:g}"))
    group.add_argument("--samples", type=whole_number, help=least.format(Plan.samples))
    images = group.add_mutually_exclusive_group()
    labelled = (
        "measure accuracy on CIFAR-10's 10,000 test images, or on a folder of images: a "
        "folder for each class, or val.txt (default: the bundled CIFAR-10 subset)"
    )
    _add(images, "--data", labelled, "DIR")
    alone = "on any images: agreement with the original network alone, no accuracy"
    _add(images, "--label-free", alone, "DIR")
    _add(group, "--limit", "on so many of them, drawn evenly by class", "N")
    off = (
        "outputs of the golden samples may be off by atol + rtol * |original network's|; one that "
        "is not given is 0 (default: the tolerance that the export found)"
    )
    group.add_argument("--atol", type=_tolerance, metavar="X", help=off)
    group.add_argument("--rtol", type=_tolerance, metavar="X", help="see --atol")


def _add_more(group: argparse._ArgumentGroup) -> None:
    share = "measure this machine's peaks, and each row's share of what they allow"
    _add(group, "--roofline", share)
    _add(group, "--profile", "where each row's time goes: by operator, and its slowest layers")
    others = (
        "compare with other libraries in the same run: torch, torch.compile, onnxruntime, torch-cuda, "
        "openvino-latency, … (default: all that are installed); after the names"
    )
    _add(group, "--peers", others, "P,…", type=_peers, nargs="?", const="")
    most = Request.compile_seconds
    may = f"that a peer on a GPU may compile each graph, for all batches (default: {most:g})"
    _add(group, "--compile-seconds", may, "S", type=seconds, default=most)
    tuned = "find the fastest library and setting on this CPU, keep them for load(), and stop"
    group.add_argument("--tune", choices=(*GOALS, "all"), help=tuned)


def _add_servers(group: argparse._ArgumentGroup) -> None:
    which = (
        "any server of the Open Inference Protocol v2, in turn with the artifact itself: http://HOST:PORT, "
        "https://…, grpc://HOST:PORT; with /v2/models/MODEL where the model has another name there "
        "(may be repeated, after the names)"
    )
    _add(group, "--url", which, "[NAME=]URL", type=_server, action="append", default=[])
    _add(group, "--callers", "that ask at once, for the throughput (default: 8)", "N", default=8)
    key = "sent as Authorization: Bearer (default: $REPR_API_KEY)"
    _add(group, "--api-key-file", key, "FILE")
    beyond = (
        "offer each server so many times the rate at which the artifact itself, in its batcher, "
        "holds --slo: what is answered in time, how fast the rest is refused, how soon it recovers"
    )
    _add(group, "--overload", beyond, "TIMES", type=_factor)


def _add_scenarios(group: argparse._ArgumentGroup) -> None:
    shapes = f"MLPerf's shapes, in seconds: of {', '.join(SCENARIOS)}, or all"
    _add(group, "--scenario", shapes, "S,…", type=_scenarios, default=())
    drives = "MLPerf's LoadGen drives the same sessions too (pip install 'repr-deploy[loadgen]')"
    _add(group, "--loadgen", drives)
    _add(group, "--end-to-end", "from JPEG bytes to label, and where the time goes")
    bound = "the bound of the server scenario's p99, as in 15ms (default)"
    _add(group, "--slo", bound, "TIME", type=_milliseconds, default=DEFAULT_SLO_MS)
    beside = "runs side by side, server and offline (default: one a core on a CPU)"
    _add(group, "--instances", beside, "N")
    together = "samples run together at most, server and offline (default: 32)"
    _add(group, "--max-batch", together, "N", default=32)
    _add(group, "--seed", "of the arrivals (default: 0)", "N", type=_seed, default=0)


def _add_comparison(group: argparse._ArgumentGroup) -> None:
    against = "say of each row whether it is faster or slower than in this file of --json"
    _add(group, "--compare", against, "OLD.json")
    instead = "measure nothing, and take the results of this file"
    _add(group, "--from", instead, "NEW.json", dest="take_from")
    least = f"the smallest difference that counts (default: {LEAST_PERCENT:g})"
    _add(group, "--same-within", least, "PERCENT", type=_percent, default=LEAST_PERCENT)
    others = (
        "beside ours, under its own label, another tool's run: a file of trtexec "
        "--exportTimes, or LoadGen's mlperf_log_summary.txt or its folder (may be repeated)"
    )
    _add(group, "--with", others, "FILE", dest="others", action="append", default=[])


def _add_output(group: argparse._ArgumentGroup) -> None:
    everything = (
        "write everything, raw samples too; with --list, the list (- is standard output, in place "
        "of the table)"
    )
    _add(group, "--json", everything, "FILE")
    _add(group, "--html", "write a self-contained page", "FILE")
    rows = (
        "write one table of all rows, which column kind tells apart (graph, scenario, "
        "end-to-end, peer, server, other), with all figures in full precision and both ends of "
        "intervals; verdicts, rooflines and profiles are no rows: see --markdown, --json"
    )
    for option, what in (("--csv", rows), ("--markdown", "write all tables and notes as Markdown")):
        _add(group, option, f"{what} (- is standard output, in place of the table)", "FILE")
    order = "order the rows of all tables but --json's, as in --sort top-1,desc"
    _add(group, "--sort", order, "COLUMN[,desc]", type=_order)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options; a command line that contradicts itself ends the program with status 2."""
    p = parser()
    args = p.parse_args(arguments)
    more = bool(args.csv or args.markdown or args.sort or args.others)
    if args.targets and (args.all_bundled or args.each_family):
        p.error("--all-bundled and --each-family go without names; leave out one of the two")
    if args.precision and args.lower:
        p.error(f"--{args.lower[0]} adds to fp32, --precision names all; leave out one")
    if args.tune and (args.json or args.html or args.peers is not None or more):
        p.error(
            "--tune keeps what it finds in the cache, and goes without --json, --html, --peers, "
            "--csv, --markdown, --sort, --with"
        )
    if args.take_from and args.targets:
        names = ", ".join(args.targets)
        p.error(
            f"--from measures nothing, so {names} would have no effect; leave out one of the two"
        )
    to_stdout = [
        f"--{name} -"
        for name in ("json", "csv", "markdown")
        if getattr(args, name) == STANDARD_OUTPUT
    ]
    if len(to_stdout) > 1:
        p.error(
            f"{' and '.join(to_stdout)} all go to standard output; name files for others than one"
        )
    if args.list and more:
        p.error("--list goes without --csv, --markdown, --sort, --with")
    if args.url and (args.list or args.tune or args.take_from):
        p.error("--url is for a run that measures; leave it out with --list, --tune and --from")
    if args.overload and not args.url:
        p.error("--overload is for servers; name one with --url")
    for target in args.targets:
        if wrong := wrong_name(target):
            p.error(wrong)
    if args.own and not args.targets:
        p.error(
            f"{args.own[0].partition('=')[0]} is for what you name: FILE.onnx, MODULE:FACTORY, …"
        )
    return args


def wrong_name(target: str) -> str:
    """What is wrong with ``target`` as a network's name; empty if it is one, or no name at all.

    Found without torch, which registering the networks takes seconds to import.
    """
    if is_own(target) or len(Path(target).parts) > 1 or os.path.exists(target):
        return ""
    known = {*stored_multiply_adds(), *registered}
    names = sorted({*known, *(name.partition(".")[0] for name in known)})
    if target.strip().lower() in names:
        return ""
    near = did_you_mean(target, names) or "; repr-bench --list has them all"
    return f"there is no network called {target!r:.200}{near}"


def whole_number(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def whole_numbers(text: str) -> tuple[int, ...]:
    """Several of them, each once."""
    return tuple(dict.fromkeys(map(whole_number, text.split(","))))


def seconds(text: str) -> float:
    """A finite number above 0."""
    return _number(text, "a number of seconds above 0", lambda value: 0 < value < math.inf)


def _factor(text: str) -> float:
    return _number(text, "a number above 0", lambda value: 0 < value < math.inf)


def _server(text: str) -> Server:
    try:
        return Server.parse(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _tolerance(text: str) -> float:
    return _number(text, "a number from 0", lambda value: 0 <= value < math.inf)


def _percent(text: str) -> float:
    return _number(text, "a percentage above 0 and up to 100", lambda value: 0 < value <= 100)


def _number(text: str, what: str, fits: Callable[[float], bool], unit: str = "") -> float:
    try:
        value = float(text.removesuffix(unit))
    except ValueError:
        value = math.nan
    if not fits(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _several(text: str, named: Mapping[str, Sequence[_Some]], known: str) -> tuple[_Some, ...]:
    """What each part of ``text`` stands for, each once."""
    found: dict[_Some, None] = {}
    for part in text.split(","):
        if part not in named:
            raise _unknown(part, named, known)
        found |= dict.fromkeys(named[part])
    return tuple(found)


def _unknown(text: str, named: Collection[str], known: str) -> argparse.ArgumentTypeError:
    near = did_you_mean(text, named)
    return argparse.ArgumentTypeError(f"{text!r} is not one of {known}{near}")


def _precisions(text: str) -> tuple[str, ...]:
    return _several(text, {one: (one,) for one in PRECISIONS}, ", ".join(PRECISIONS))


def _device(text: str) -> str:
    if text not in DEVICES:
        raise _unknown(text, DEVICES, ", ".join(DEVICES))
    return text


def _peers(text: str) -> tuple[str, ...]:
    """Their names; none for all that are installed."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _scenarios(text: str) -> tuple[Scenario, ...]:
    named: dict[str, tuple[Scenario, ...]] = {
        "all": SCENARIOS,
        **{one: (one,) for one in SCENARIOS},
    }
    return _several(text, named, f"{', '.join(SCENARIOS)}, or all")


def _milliseconds(text: str) -> float:
    """``15ms``, ``0.1s`` or ``800us`` in milliseconds; a bare number is not said to be anything."""
    unit = next((unit for unit in _UNITS_MS if text.endswith(unit)), "")
    factor = _UNITS_MS.get(unit, math.nan)
    what = "a time above 0 with its unit, as in 15ms"
    return factor * _number(text, what, lambda value: 0 < factor * value < math.inf, unit)


def _order(text: str) -> Order:
    from repr_bench.report.sort import parse_order

    try:
        return parse_order(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
