"""The command `repr-bench`: arguments, progress and the files it writes."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from repr_bench import compare_cli, quick, scenario_options
from repr_bench import other_tools as others
from repr_bench.analysis import run as analysis
from repr_bench.artifacts import LOWER, default_selection
from repr_bench.errors import BenchError, UsageError
from repr_bench.inputs import EvaluationImages
from repr_bench.inputs import add_arguments as add_image_arguments
from repr_bench.measuring.measure import Plan
from repr_bench.peer_options import add_arguments as add_peer_arguments
from repr_bench.peer_options import peer_names
from repr_bench.report import markdown as tabular
from repr_models.errors import ModelsError
from repr_runtime import ReproError
from repr_runtime.loading import DEVICES

if TYPE_CHECKING:
    from rich.console import Console

    from repr_bench.progress import RunProgress
    from repr_bench.results.results import Results
    from repr_bench.run import Request

INSTALL = "pip install 'repr-deploy[bench]'"
STANDARD_OUTPUT = Path("-")
PRECISIONS = ("fp32", *LOWER)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="repr-bench",
        description="Latency and accuracy of exported networks, side by side. "
        "Exit status 0, 1 if a row failed (a server scenario too that settled on no rate), 2 for a "
        "wrong command line, 3 if --compare found a row slower, 130 when interrupted.",
    )
    p.add_argument(
        "targets",
        nargs="*",
        metavar="NAME|ARTIFACT",
        help="networks by name (exported if need be) or artifact folders; "
        "default: every network whose bundled weights reach their bar",
    )
    p.add_argument(
        "--all-bundled",
        action="store_true",
        help="without names: those below their bar too, which the table marks",
    )
    p.add_argument("--batch", type=_counts, metavar="N,…", help="batch sizes (default: 1,8)")
    p.add_argument(
        "--precision",
        type=_precisions,
        metavar="P,…",
        help=f"of {', '.join(PRECISIONS)} (default: fp32); networks exported by this run get them",
    )
    for name in LOWER:
        p.add_argument(
            f"--{name}",
            dest="lower",
            action="append_const",
            const=name,
            help=f"measure {name} too, beside fp32; these options add up",
        )
    p.add_argument("--device", choices=DEVICES, default="auto")
    p.add_argument("--threads", type=_count, metavar="N", help="CPU threads (default: one a core)")
    p.add_argument(
        "--seconds", type=_seconds, help=f"timed for each row at least (default: {Plan.seconds:g})"
    )
    p.add_argument(
        "--samples", type=_count, help=f"timed for each row at least (default: {Plan.samples})"
    )
    add_image_arguments(p)
    p.add_argument(
        "--artifacts",
        type=Path,
        default=Path("artifacts"),
        metavar="DIR",
        help="where the artifacts of named networks are (default: artifacts)",
    )
    p.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write everything, raw samples too; with --list, the list (- is standard output)",
    )
    p.add_argument("--html", type=Path, metavar="FILE", help="write a self-contained page")
    for part in (tabular, others, quick):
        part.add_arguments(p)
    compare_cli.add_arguments(p)
    analysis.add_arguments(p)
    scenario_options.add_arguments(p)
    add_peer_arguments(p)
    p.add_argument("--list", action="store_true", help="list every network, and stop")
    p.add_argument("--quiet", action="store_true", help="no progress; the table alone")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the exit status is that of the help text."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(arguments)
    if args.targets and args.all_bundled:
        parser().error("--all-bundled goes without names; leave out one of the two")
    if args.precision and args.lower:
        parser().error(f"--{args.lower[0]} adds to fp32, --precision names all; leave out one")
    more = bool(args.csv or args.markdown or args.sort or args.others)
    if args.tune and (args.json or args.html or args.peers is not None or more):
        parser().error(
            "--tune keeps what it finds in the cache, and goes without --json, --html, --peers, "
            "--csv, --markdown, --sort, --with"
        )
    if args.list and more:
        parser().error("--list goes without --csv, --markdown, --sort, --with")
    if args.json == STANDARD_OUTPUT and not args.list:
        parser().error("--json - goes with --list; give the name of a file")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that it lacks becomes "?"
            stream.reconfigure(errors="replace")
    try:
        with _terminated_as_interrupted():
            return _list(args) if args.list else _bench(args, arguments)
    except ModuleNotFoundError as error:
        print(f"repr-bench needs {error.name}: {INSTALL}", file=sys.stderr)
    except (BenchError, ModelsError, ReproError) as error:
        print(f"repr-bench: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("repr-bench: interrupted", file=sys.stderr)
        return 130
    return 1


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, which `timeout` and schedulers send, is as Ctrl-C: what was measured is kept."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only there may it be caught
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _bench(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    from repr_bench.compare import compare
    from repr_bench.progress import RunProgress
    from repr_bench.report.sections.peers import print_peers
    from repr_bench.report.sections.scenarios import print_scenarios
    from repr_bench.report.sort import in_order
    from repr_bench.report.terminal import print_others, print_report
    from repr_bench.results.results import read_results, write_results, write_text

    if args.html:
        from repr_bench.report.html import render_page
    compare_cli.check_arguments(args)
    tabular.check_arguments(args)
    for path in (args.json, args.html, *tabular.files(args)):
        if path is not None:
            _make_place_for(path)
    if args.tune:
        from repr_bench.tune import tune

        with RunProgress(quiet=args.quiet) as progress:
            return tune(_requested(args, arguments)[0], args.tune, progress, _output())
    old = read_results(args.compare) if args.compare else None
    beside = tuple(map(others.read_other, args.others))
    with RunProgress(quiet=args.quiet) as progress:
        results = (
            read_results(args.take_from) if args.take_from else _measured(args, arguments, progress)
        )
        if old:
            comparison = compare(old, results, str(args.compare), args.same_within)
            results = replace(results, comparison=comparison)
        results = replace(results, others=(*results.others, *beside))
        # The files first: a reader of the table may leave early, and close the pipe.
        if args.json:
            write_results(results, args.json)
            progress.tell(f"results: {args.json}")
        results = in_order(results, args.sort)
        for text in tabular.write(results, args):
            progress.tell(text)
        if args.html:
            write_text(args.html, render_page(results))
            progress.tell(f"page: {args.html}")
    if not tabular.print_instead(results, args):
        scenarios = bool(results.scenarios or results.end_to_end)
        if results.rows or not scenarios:
            print_report(results, _output())
        if scenarios:
            print_scenarios(results, _output())
        if scenarios and not results.rows:
            print_others(results, _output())
        if results.peers:
            print_peers(results, _output())
    if results.left_out and not args.take_from:
        progress.tell(results.left_out)
    return exit_status(results)


def _measured(args: argparse.Namespace, arguments: Sequence[str], progress: RunProgress) -> Results:
    from repr_bench.peers.known import select
    from repr_bench.peers.run import with_peers
    from repr_bench.run import run
    from repr_bench.scenarios.run import with_scenarios

    request, left_out = _requested(args, arguments)
    selected = None if args.peers is None else select(peer_names(args.peers))
    options = scenario_options.chosen(args)
    if options:
        scenario_options.check(options)
    found = run(request, progress)
    if options:
        found = with_scenarios(found, request, options, progress)
    if selected is not None:
        found = with_peers(found, request, selected, progress)
    settings = replace(found.settings, quick=args.quick)
    return replace(found, left_out=left_out, settings=settings)


def _requested(args: argparse.Namespace, arguments: Sequence[str]) -> tuple[Request, str]:
    """What is to be measured, and the sentence on what a run without names leaves out."""
    from repr_bench.run import Request

    targets, left_out = tuple(args.targets), ""
    if not targets:
        selection = default_selection(all_bundled=args.all_bundled)
        targets, left_out = selection.names, selection.note
    if not targets:
        raise UsageError(
            "no trained weights ship with this version; name networks or artifact folders"
        )
    plan, limit = quick.plan_and_limit(args)
    images = EvaluationImages(args.data, args.label_free, limit)
    images.check()
    wanted = analysis.wanted(args)
    request = Request(
        targets=targets,
        artifacts=args.artifacts,
        batches=args.batch,
        precisions=args.precision or ("fp32", *dict.fromkeys(args.lower or ())),
        device=args.device,
        threads=args.threads,
        plan=plan,
        images=images,
        command=("repr-bench", *arguments),
        wanted=wanted,
    )
    return request, left_out


def exit_status(results: Results) -> int:
    """130 if interrupted, 1 if a row failed or none was measured, 3 if one is slower, else 0."""
    if results.interrupted:
        return 130
    statuses = {
        *(row.status for row in results.rows),
        *(row.status for row in results.scenarios),
        *(row.status for row in results.end_to_end),
        *(row.status for row in results.peers),
    }
    if "failed" in statuses or "measured" not in statuses:
        return 1
    verdicts = results.comparison.rows if results.comparison else ()
    return 3 if any(row.verdict == "slower" for row in verdicts) else 0


def _list(args: argparse.Namespace) -> int:
    from repr_bench.listing import entries, print_list, to_json
    from repr_bench.results.results import write_text

    listed = entries(args.artifacts)
    if args.json is None:
        print_list(listed, _output())
    elif args.json == STANDARD_OUTPUT:
        sys.stdout.write(to_json(listed))
    else:
        _make_place_for(args.json)
        write_text(args.json, to_json(listed))
    return 0


def _output() -> Console:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 100_000  # a pipe has no margin to wrap at
    return console


def _make_place_for(path: Path) -> None:
    """Make the folder of a file to be written, so that nothing is measured in vain."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give the name of a file in it")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{path} cannot be written; choose another place")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_count(part) for part in text.split(",")))


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _precisions(text: str) -> tuple[str, ...]:
    for part in text.split(","):
        if part not in PRECISIONS:
            raise argparse.ArgumentTypeError(f"{part!r} is not one of {', '.join(PRECISIONS)}")
    return tuple(dict.fromkeys(text.split(",")))


if __name__ == "__main__":
    sys.exit(main())
