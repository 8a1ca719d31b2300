"""The command ``python -m repr_models.studies``: run the studies, show their records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from repr_models.command import finish, progress_bar
from repr_models.data.cifar10 import load_cifar10
from repr_models.studies import table
from repr_models.studies.catalogue import PROG, STUDIES, find_runs
from repr_models.studies.records import bundled_folder, read_record, records_folder, write_record

MODELS = Path(__file__).resolve().parents[2]
"""The folder ``models`` of a checkout: where README.md and depth.svg are."""


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    p = argparse.ArgumentParser(prog=PROG, description=__doc__)
    p.add_argument(
        "--records",
        type=Path,
        default=records_folder(),
        metavar="DIR",
        help="folder of the runs' records (default: the package's)",
    )
    p.add_argument("--quiet", action="store_true", help="print nothing but errors")
    commands = p.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run", help="train what has no record yet, or one made with other settings"
    )
    run.add_argument(
        "names", nargs="+", metavar="NAME", help=f"{', '.join(s.name for s in STUDIES)}; or a run"
    )
    run.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with CIFAR-10")
    run.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    show = commands.add_parser("table", help="write the studies' section of a README")
    show.add_argument("--readme", type=Path, default=MODELS / "README.md", metavar="FILE")
    plot = commands.add_parser("plot", help="draw error against depth")
    plot.add_argument("-o", "--out", type=Path, default=MODELS / "depth.svg", metavar="FILE.svg")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit status 0, 1 for a failure, 2 for wrong usage and 130 when interrupted."""
    args = parser().parse_args(argv)
    does = {"run": _run, "table": _table, "plot": _plot}[args.command]
    return finish(PROG, lambda: does(args), "at this run")


def _table(args: argparse.Namespace) -> None:
    table.write_section(args.readme, table.section(args.records, bundled_folder()))


def _plot(args: argparse.Namespace) -> None:
    from repr_models.studies.plot import draw

    draw(args.out, args.records, bundled_folder())


def _run(args: argparse.Namespace) -> None:
    import torch
    from rich.console import Console

    from repr_models.studies.networks import network_spec
    from repr_models.studies.runs import reduced, settings, train_run

    torch.set_num_threads(max(args.threads, 1))
    console = Console(stderr=True, quiet=args.quiet, highlight=False)
    runs = find_runs(args.names)
    sets = load_cifar10(args.data, "train"), load_cifar10(args.data, "test")
    todo = [
        run
        for run in runs
        if (read_record(args.records, run.name) or {}).get("settings") != settings(run, *sets)
    ]
    if len(todo) < len(runs):
        console.print(f"recorded already: {', '.join(r.name for r in runs if r not in todo)}")
    if todo:
        train_data, test_data = (reduced(images, network_spec(todo[0])) for images in sets)
        for run in todo:
            with progress_bar(console, run.name, int(run.recipe["epochs"])) as advance:
                record = train_run(run, train_data, test_data, advance)
            write_record(args.records, run.name, record)
            said = record["diverged"]
            if record["history"]:
                errors = (f"{table.error(record, split):.1%}" for split in ("train", "test"))
                said = "training error {}, test error {}".format(*errors)
            console.print(f"{run.name}: {said}")


if __name__ == "__main__":
    sys.exit(main())
