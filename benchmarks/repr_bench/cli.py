"""The command `repr-bench`: read the options, run or read a file, write files, print the table."""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from repr_bench import options
from repr_bench.artifacts import default_selection, export_options
from repr_bench.errors import BenchError, UsageError
from repr_bench.inputs import EvaluationImages
from repr_bench.measuring.measure import Plan
from repr_bench.options import QUICK, QUICK_IMAGES, STANDARD_OUTPUT, TUNING
from repr_bench.request import Listener, Remote, Request, ScenarioOptions, Tolerance, is_own
from repr_bench.results.trials import SCENARIOS
from repr_models.completion import complete
from repr_models.errors import ModelsError
from repr_runtime import ReproError
from repr_runtime.errors import presentable
from repr_runtime.files import with_streams

if TYPE_CHECKING:
    from rich.console import Console

    from repr_bench.results.results import Results

INSTALL = "pip install 'repr-deploy[bench]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the exit status is that of the help text."""
    return with_streams("repr-bench", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    complete(options.parser())
    args = options.parse(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that it lacks becomes "?"
            stream.reconfigure(errors="replace")
    command = _list if args.list else _tune if args.tune else _bench
    try:
        with _terminated_as_interrupted():
            return command(args, arguments)
    except ModuleNotFoundError as error:
        print(f"repr-bench needs {error.name}: {INSTALL}", file=sys.stderr)
    except (BenchError, ModelsError, ReproError, OSError) as error:
        print(f"repr-bench: {presentable(str(error))}", file=sys.stderr)
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


def _list(args: argparse.Namespace, _arguments: Sequence[str]) -> int:
    from repr_bench.listing import entries, print_list, to_json
    from repr_bench.results.file import write_text

    listed = entries(args.artifacts)
    if args.json is None:
        print_list(listed, _output())
    elif args.json == STANDARD_OUTPUT:
        sys.stdout.write(to_json(listed))
    else:
        _make_place_for(args.json)
        write_text(args.json, to_json(listed))
    return 0


def _tune(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    from repr_bench.progress import RunProgress
    from repr_bench.tuning.run import tune

    with RunProgress(quiet=args.quiet) as progress:
        return tune(_requested(args, arguments)[0], args.tune, progress, _output())


def _bench(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    from repr_bench.compare import compare
    from repr_bench.other_tools import read_other
    from repr_bench.progress import RunProgress
    from repr_bench.results.file import read_results

    if args.html:
        import repr_bench.report.html  # noqa: F401  # says now what is missing
    for path in (args.json, args.html, args.csv, args.markdown):
        if path not in (None, STANDARD_OUTPUT):
            _make_place_for(path)
    old = read_results(args.compare) if args.compare else None
    beside = tuple(map(read_other, args.others))
    with RunProgress(quiet=args.quiet) as progress:
        results = (
            read_results(args.take_from) if args.take_from else _measured(args, arguments, progress)
        )
        if old:
            comparison = compare(old, results, str(args.compare), args.same_within)
            results = replace(results, comparison=comparison)
        results = replace(results, others=(*results.others, *beside))
        # The files first: a reader of the table may leave early, and close the pipe.
        ordered = _write(results, args, progress)
    _print(ordered, args)
    if results.left_out and not args.take_from:
        progress.tell(results.left_out)
    return exit_status(results)


def _measured(args: argparse.Namespace, arguments: Sequence[str], listener: Listener) -> Results:
    from repr_bench.ahead import export_ahead
    from repr_bench.peers.known import select
    from repr_bench.peers.run import with_peers
    from repr_bench.run import run
    from repr_bench.scenarios.run import with_scenarios

    request, left_out = _requested(args, arguments)
    peers = [] if args.peers is None else select(args.peers or None)
    scenarios = scenario_options(args)
    _check_installed(request, scenarios)
    if request.remote.servers:
        from repr_bench.remote.peer import check_servers, remote_peers

        check_servers(request)
        peers += remote_peers(request, listener)
    export_ahead(request, listener)
    results = run(request, listener)
    if scenarios:
        results = with_scenarios(results, request, scenarios, listener)
    if peers or args.peers is not None:
        results = with_peers(results, request, peers, listener)
    settings = replace(results.settings, quick=args.quick)
    return replace(results, left_out=left_out, settings=settings)


def _check_installed(request: Request, scenarios: ScenarioOptions | None) -> None:
    """Say now, not after all else was measured, which package is missing."""
    if request.roofline or request.profile:
        import repr_bench.analysis.traffic  # noqa: F401
    if scenarios and scenarios.loadgen:
        from repr_bench.scenarios.loadgen import library

        library()
    if scenarios and scenarios.end_to_end:
        import PIL.Image  # noqa: F401


def _requested(args: argparse.Namespace, arguments: Sequence[str]) -> tuple[Request, str]:
    """What is to be measured, and the sentence on what a run without names leaves out."""
    targets, left_out = tuple(args.targets), ""
    if not targets:
        targets, left_out = default_selection(
            all_bundled=args.all_bundled, each_family=args.each_family
        )
    if not targets:
        raise UsageError(
            "no trained weights ship with this version; name networks or artifact folders"
        )
    plan, limit = plan_and_limit(args)
    images = EvaluationImages(args.data, args.label_free, limit)
    images.check()
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
        roofline=args.roofline,
        profile=args.profile,
        own=tuple(args.own),
        tolerance=_tolerance(args),
        remote=_remote(args),
        compile_seconds=args.compile_seconds,
    )
    for target in targets:
        if is_own(target) or request.own_for(target):  # what is wrong with it is said now
            export_options(target, request.own_for(target), request.precisions)
    return request, left_out


def plan_and_limit(args: argparse.Namespace) -> tuple[Plan, int | None]:
    """How much is timed and on how many images, all if None: what is given, else the defaults."""
    base = TUNING if args.tune else QUICK if args.quick else Plan()
    seconds, samples = args.seconds or base.seconds, args.samples or base.samples
    limit = args.limit or (QUICK_IMAGES if args.quick else None)
    return replace(base, seconds=seconds, samples=samples), limit


def _tolerance(args: argparse.Namespace) -> Tolerance | None:
    """What outputs may differ by, if it is given."""
    if args.atol is None and args.rtol is None:
        return None
    return Tolerance(args.atol or 0.0, args.rtol or 0.0)


def _remote(args: argparse.Namespace) -> Remote:
    """The servers that are to be asked, and the key for them."""
    key = os.environ.get("REPR_API_KEY", "")
    if args.api_key_file is not None:
        try:
            lines = args.api_key_file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{args.api_key_file} cannot be read: {error}") from error
        key = next((text for line in lines if (text := line.strip()) and text[0] != "#"), "")
    if not key.isascii() or not key.isprintable():
        raise UsageError("the API key has characters that no field of HTTP may have")
    return Remote(tuple(args.url), args.callers, key)


def scenario_options(args: argparse.Namespace) -> ScenarioOptions | None:
    """The scenarios that are asked for; None if none is."""
    if not (args.scenario or args.loadgen or args.end_to_end or args.overload):
        return None
    return ScenarioOptions(
        scenarios=args.scenario or (SCENARIOS if args.loadgen else ()),
        loadgen=args.loadgen,
        end_to_end=args.end_to_end,
        slo_ms=args.slo,
        instances=args.instances,
        max_batch=args.max_batch,
        seed=args.seed,
        overload=args.overload,
    )


def _write(results: Results, args: argparse.Namespace, listener: Listener) -> Results:
    """Write the files that are asked for; the results in the order of the tables."""
    from repr_bench.report.sort import in_order
    from repr_bench.results.file import write_results, write_text

    if args.json and args.json != STANDARD_OUTPUT:
        write_results(results, args.json)
        listener.tell(f"results: {args.json}")
    ordered = in_order(results, args.sort)
    for path, render in _renderers(args):
        if path is not None and path != STANDARD_OUTPUT:
            write_text(path, render(ordered))
            listener.tell(f"table: {path}")
    if args.html:
        from repr_bench.report.html import render_page

        write_text(args.html, render_page(ordered))
        listener.tell(f"page: {args.html}")
    return ordered


def _renderers(args: argparse.Namespace) -> list[tuple[Path | None, Callable[[Results], str]]]:
    from repr_bench.report.csv import to_csv
    from repr_bench.report.markdown import to_markdown

    return [(args.csv, to_csv), (args.markdown, to_markdown)]


def _print(results: Results, args: argparse.Namespace) -> None:
    """The tables, or in their place the file that goes to standard output."""
    from repr_bench.report.terminal import print_report
    from repr_bench.results.file import to_json

    for path, render in ((args.json, to_json), *_renderers(args)):
        if path == STANDARD_OUTPUT:
            sys.stdout.write(render(results))
            return
    print_report(results, _output(), saved=args.json or args.take_from, page=args.html)


def exit_status(results: Results) -> int:
    """130 if interrupted, 1 if a row failed, differs or none was measured, 3 if slower, else 0."""
    if results.interrupted:
        return 130
    statuses = {
        *(row.status for row in results.rows),
        *(row.status for row in results.scenarios),
        *(row.status for row in results.end_to_end),
        *(row.status for row in results.peers),
    }
    graphs = [row.graph for row in results.rows] + [row.graph for row in results.peers]
    differ = any(graph and graph.answers_differ for graph in graphs)
    if differ or "failed" in statuses or "measured" not in statuses:
        return 1
    verdicts = results.comparison.rows if results.comparison else ()
    return 3 if any(row.verdict == "slower" for row in verdicts) else 0


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
    if path.exists() and not path.is_file():  # a device, say, which a file would replace
        raise UsageError(f"{path} is no regular file; give another name, or - for standard output")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{path} cannot be written; choose another place")


if __name__ == "__main__":
    sys.exit(main())
